"""Plans on an emulated GPU: the executor's own code, kernels and all, against the CPU's sessions."""

import re
from collections import Counter

import numpy as np
import pytest
import test_recurrent_plans as recurrent
import test_stream as streams
import torch
import torch.nn.functional as F
from torch import nn

import fastrestore as fr
from fastrestore import cli, engine
from fastrestore import image as images
from fastrestore.errors import DeviceError, MemoryBudgetError
from fastrestore.ops import dispatch
from fastrestore.restorer import Stream
from gpu import emulated


class Net(nn.Module):
    """What `function` makes of the image and these modules."""

    multiple_of = 1

    def __init__(self, function, *parts, multiple_of=1):
        super().__init__()
        self.function, self.parts, self.multiple_of = function, nn.ModuleList(parts), multiple_of
        generator = torch.Generator().manual_seed(len(parts))
        for parameter in self.parameters():
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)

    def forward(self, x):
        return self.function(x, *self.parts)


def conv(inside, out, kernel=3, **options):
    return nn.Conv2d(inside, out, kernel, padding=options.pop("padding", kernel // 2), **options)


def _energy(x):
    """A root, a logarithm and a mean over channels."""
    mean, most = x.square().mean(1, keepdim=True), x.amax(1, keepdim=True)
    return torch.cat([mean.sqrt(), (mean + 1e-2).log(), most.log1p()], 1)


def _share(x, y):
    return y.abs() / (0.1 + x.square() + y.abs())


NETWORKS = {
    "dncnn": Net(lambda x, a, b, c: x - c(b(a(x).relu()).relu()), conv(3, 16), conv(16, 16), conv(16, 3)),
    "unet": Net(
        lambda x, a, d, m, u, z: z(torch.cat([a(x), u(m(d(a(x))).relu())], 1)) + x,
        conv(3, 12), conv(12, 24, 2, stride=2, padding=0), conv(24, 24), nn.ConvTranspose2d(24, 12, 2, 2), conv(24, 3),
        multiple_of=2,
    ),
    "shuffled": Net(
        lambda x, a, b: F.pixel_shuffle(b(F.leaky_relu(a(F.pixel_unshuffle(x, 2)), 0.1)), 2),
        conv(12, 20), conv(20, 12), multiple_of=2,
    ),
    "curves": Net(
        lambda x, a, b, p: b(F.silu(a(x)) + F.gelu(a(x)) * a(x).sigmoid() + p(F.hardswish(a(x))).clamp(-0.5, 0.5)),
        conv(3, 10, 1), conv(10, 3, 1), nn.PReLU(10),
    ),
    "resized": Net(
        lambda x, a, p, b: b(torch.cat([x, F.interpolate(p(a(x)), scale_factor=2, mode="bilinear")], 1)),
        conv(3, 8, padding_mode="reflect"), nn.AvgPool2d(2), conv(11, 3, padding_mode="replicate"), multiple_of=2,
    ),
    "pooled": Net(
        lambda x, a, p, b: b(F.interpolate(p(a(x)), scale_factor=2)), conv(3, 8), nn.MaxPool2d(2), conv(8, 3, 1),
        multiple_of=2,
    ),
    "quotients": Net(
        lambda x, a, b, c: x + _share(x, a(x)) * b(torch.cat([_energy(x), c(x).clamp(-4, 4).exp()], 1)),
        conv(3, 3), conv(6, 3), conv(3, 3),
    ),
    "extremes": Net(
        lambda x, a, b: b(torch.minimum(torch.maximum(a(x), x), x.amax(1, keepdim=True)) * (x > 0.5)),
        conv(3, 3), conv(3, 3),
    ),
}  # fmt: skip


def picture(height, width, dtype=np.float32, seed=0):
    values = np.random.default_rng(seed).random((height, width, 3), np.float32)
    return (values * np.iinfo(dtype).max).round().astype(dtype) if np.issubdtype(dtype, np.integer) else values


@pytest.mark.parametrize("name", NETWORKS)
def test_is_the_cpus(sessions, name):
    plan, image = engine.compile(NETWORKS[name]), picture(13, 18)
    out, report = sessions.run(sessions.open(plan), image)
    np.testing.assert_allclose(out, plan.session().run(image, clip=False), atol=2e-5)
    assert report.strips == 1 and report.non_finite == 0


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["dncnn", "unet", "shuffled", "quotients", "extremes"])
def test_in_half_precision(sessions, name, precision):
    """The type's rounding through a few layers, in units of the result's root mean square."""
    plan, image = engine.compile(NETWORKS[name]), picture(13, 18)
    out, _ = sessions.run(sessions.open(plan, precision), image)
    exact = plan.session().run(image, clip=False)
    error = np.sqrt(np.mean((out - exact) ** 2) / np.mean(exact**2))
    assert error < (2e-3 if precision == "float16" else 1.6e-2), f"{error:.2g}"


@pytest.mark.parametrize("name", ["dncnn", "unet", "quotients"])
def test_tiles_change_no_bit(sessions, name):
    plan, image = engine.compile(NETWORKS[name]), picture(34, 38)
    whole, one = sessions.run(sessions.open(plan, "float16"), image)
    tiled, many = sessions.run(sessions.open(plan, "float16", one.working_bytes // 2), image)
    assert one.strips == 1 and many.strips > 2
    assert many.working_bytes <= one.working_bytes // 2
    np.testing.assert_array_equal(tiled, whole)


def test_a_budget_that_is_too_small(sessions):
    session = sessions.open(engine.compile(NETWORKS["unet"]), memory=1000)
    with pytest.raises(MemoryError, match="1000 bytes is too small"):
        sessions.run(session, picture(13, 18))


PUBLISHED = {
    "nafnet": dict(width=8, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)),
    "nafnet local": dict(width=8, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,), local=6),
    "restormer": dict(width=8, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 1, 1, 1)),
    "swinir": dict(width=12, blocks=(2,), heads=(2,)),
}


def randomised(name, config):
    """name: of the architecture, and what else tells it from others."""
    torch.manual_seed(1)
    model = fr.create(name.split()[0], **config).eval()
    for parameter in model.parameters():  # some begin at 0, and would hide what they multiply
        with torch.no_grad():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(sessions, name):
    """Norms, gates, means over the picture, attention between channels and within windows."""
    plan, image = engine.compile(randomised(name, PUBLISHED[name])), picture(16, 16)
    out, _ = sessions.run(sessions.open(plan), image)
    np.testing.assert_allclose(out, plan.session().run(image, clip=False), atol=1e-4)


def test_windows_stay_where_they_are_in_tiles(sessions):
    torch.manual_seed(1)
    plan, image = engine.compile(fr.create("swinir", **PUBLISHED["swinir"]).eval()), picture(16, 64)
    whole, one = sessions.run(sessions.open(plan, "float16"), image)
    tiled, many = sessions.run(sessions.open(plan, "float16", one.working_bytes * 7 // 8), image)
    assert many.strips > one.strips == 1
    np.testing.assert_array_equal(tiled, whole)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float16])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_every_kind(sessions, kind, channels):
    plan = engine.compile(NETWORKS["dncnn"])
    image = picture(9, 11, kind)[..., :channels].astype(kind).copy()
    out, _ = sessions.run(sessions.open(plan), image, strength=0.5, clip=True)
    wanted = plan.session().run(image, strength=0.5)
    top = np.iinfo(kind).max if np.issubdtype(kind, np.integer) else 1.0
    step = 1 / top if top > 1 else 2.0**-11
    np.testing.assert_allclose(out / top, wanted / top, atol=1.01 * step)


def test_sigma(sessions):
    model = fr.create("ffdnet", channels=3, width=16, depth=3)
    plan, image = engine.compile(model), picture(12, 14)
    out, _ = sessions.run(sessions.open(plan), image, sigma=25.0)
    np.testing.assert_allclose(out, plan.session().run(image, sigma=25.0, clip=False), atol=2e-5)
    with pytest.raises(ValueError, match="needs sigma"):
        sessions.run(sessions.open(plan), image)


def test_not_finite_values_are_counted(sessions):
    plan, image = engine.compile(NETWORKS["dncnn"]), picture(12, 14)
    image[3, 4, 0] = np.nan
    out, report = sessions.run(sessions.open(plan), image)
    assert report.non_finite == np.count_nonzero(~np.isfinite(out)) > 0


def test_a_result_that_16_bits_do_not_hold_is_computed_again(sessions):
    """float16 ends at 65504; the counted infinities stand if the memory has no room for float32."""
    plan = engine.compile(Net(lambda x, a, b: b(4e5 * a(x)) / 4e5, conv(3, 8), conv(8, 3)))
    image = picture(12, 14) + 1
    session = sessions.open(plan, "float16")
    out, report = sessions.run(session, image)
    assert report.recomputed == report.strips == 1 and report.non_finite == 0
    np.testing.assert_allclose(out, plan.session().run(image, clip=False), atol=2e-5)
    again, _ = sessions.run(session, image)  # its own memory is there again
    np.testing.assert_array_equal(again, out)
    bounded = sessions.open(plan, "float32", 10_000)
    needed = sessions.run(bounded, image)[1].working_bytes
    out, report = sessions.run(sessions.open(plan, "float16", needed // 4), image)
    assert report.recomputed == 0 and report.non_finite == np.count_nonzero(~np.isfinite(out)) > 0


def ways(session):
    return Counter(way for way, _ in session.steps)


def test_the_ways_are_told(sessions):
    taken = ways(sessions.open(engine.compile(NETWORKS["unet"]), "bfloat16"))
    assert taken["conv3x3"] == 4 and taken["implicit"] == 2 and taken["concat"] == 1


FUSED = {
    "nafnet": (dict(width=32, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)),
               {"gated_front": 3, "gated_back": 3, "mean": 3}, "layer_norm"),
    "nafnet local": (dict(width=32, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,), local=6),
                     {"gated_front": 3, "gated_back": 3, "local_mean": 3}, "layer_norm"),
    "restormer": (dict(width=16, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 1, 2, 2)),
                  {"folded_mix": 8, "partial_gram": 8}, "mix"),
}  # fmt: skip


@pytest.mark.parametrize("name", FUSED)
def test_blocks_are_fused(sessions, name):
    """In 16 bits the plan shows the fusions, every node is in one step, and the result is the CPU's."""
    config, wanted, gone = FUSED[name]
    plan, image = engine.compile(randomised(name, config)), picture(16, 16)
    session = sessions.open(plan, "float16")
    taken = ways(session)
    assert {way: taken[way] for way in wanted} == wanted and gone not in taken
    nodes = sorted(node for _, nodes in session.steps for node in nodes)
    assert nodes == [n for n, step in enumerate(plan.steps) if step["op"] != "input"]
    out, _ = sessions.run(session, image)
    exact = plan.session().run(image, clip=False)
    error = np.sqrt(np.mean((out - exact) ** 2) / np.mean(exact**2))
    assert error < 4e-3, f"{error:.2g}"
    assert not any(way.startswith("gated") for way in ways(sessions.open(plan, "float32")))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_states_go_from_picture_to_picture(sessions, precision):
    """As the CPU's sessions keep them, in parts too, and to be read, replaced and forgotten."""
    plan, images = engine.compile(recurrent.randomised(recurrent.Video())), recurrent.frames(2, 8, 38)
    session, cpu = sessions.open(plan, precision), plan.session(threads=1)
    atol = 2e-5 if precision == "float32" else 5e-3
    assert [session.state(i) for i in range(4)] == [None] * 4
    results = [sessions.run(session, image)[0] for image in images]
    for result, image in zip(results, images, strict=True):
        np.testing.assert_allclose(result, cpu.run(image, clip=False), atol=atol)
    states = [session.state(i) for i in range(4)]
    for mine, theirs in zip(states, cpu.states, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=atol)
    if precision == "float32":  # the emulation of tensor cores takes its time
        parted = sessions.open(plan, precision, sessions.run(session, images[0])[1].working_bytes * 9 // 10)
        for result, image in zip(results, images, strict=True):
            out, report = sessions.run(parted, image)
            np.testing.assert_array_equal(out, result)
            assert report.strips > 1
    session.reset()
    np.testing.assert_array_equal(sessions.run(session, images[0])[0], results[0])
    for number, state in enumerate(states):
        session.set_state(number, state)
        np.testing.assert_array_equal(session.state(number), state)
    following = sessions.run(session, images[0])[0]
    np.testing.assert_allclose(following, cpu.run(images[0], clip=False), atol=2 * atol)
    with pytest.raises(ValueError, match="there is no state 4"):
        session.state(4)
    with pytest.raises(ValueError, match="has 8 channels"):
        session.set_state(0, np.zeros((2, 2, 3), np.float32))


def test_what_was_before_is_moved(sessions):
    """warp, whose flow the network finds itself."""
    plan, images = engine.compile(recurrent.randomised(recurrent.Moving())), recurrent.frames(2, 9, 14)
    session, cpu = sessions.open(plan), plan.session(threads=1)
    for image in images:
        np.testing.assert_allclose(sessions.run(session, image)[0], cpu.run(image, clip=False), atol=5e-5)


class Emulated(emulated.Sessions):
    """What engine.CudaSession finds in place of the core's kernels, by their names."""

    class NoDevice(RuntimeError):
        pass

    def Session(self, plan, precision, memory):
        self.path.write_bytes(engine._C.plan_bytes(plan, "{}"))
        return self.module.open_session(str(self.path), precision or "float16", memory)


@pytest.fixture
def on_gpu(module, tmp_path, monkeypatch):
    kernels = Emulated(module, tmp_path)
    monkeypatch.setattr(dispatch, "built", lambda: True)
    monkeypatch.setattr(dispatch, "kernels", lambda: kernels)
    return kernels


def test_a_restorer_on_a_gpu(on_gpu, tmp_path):
    """A named model, a picture file and arrays, in the memory that it is given."""
    restorer = fr.Restorer(NETWORKS["dncnn"], device="cuda", memory="1MiB")
    assert restorer.info["device"] == "cuda" and restorer.info["precision"] == "float16"
    image = picture(30, 34, np.uint8)
    wanted = fr.Restorer(NETWORKS["dncnn"], precision="float32")(image)
    assert np.abs(restorer(image).astype(int) - wanted).max() <= 1
    np.testing.assert_array_equal(fr.Restorer(NETWORKS["dncnn"], device="cuda", memory="48KiB")(image), restorer(image))
    images.write(tmp_path / "in.png", images.Image(image))
    report = restorer.file(tmp_path / "in.png", tmp_path / "out.png")
    assert report["height"] == 30
    np.testing.assert_array_equal(images.read(tmp_path / "out.png").pixels, restorer(image))
    with pytest.raises(MemoryBudgetError, match="too small"):
        fr.Restorer(NETWORKS["dncnn"], device="cuda", memory="1KiB")(image)
    with pytest.raises(ValueError, match="'tpu'"):
        fr.Restorer(NETWORKS["dncnn"], device="tpu")


def test_a_named_model_on_a_gpu(on_gpu):
    restorer, image = fr.Restorer("denoise-cnn", device="cuda"), picture(20, 24, np.uint8)
    wanted = fr.Restorer("denoise-cnn", precision="float32")(image, sigma=20.0)
    assert np.abs(restorer(image, sigma=20.0).astype(int) - wanted).max() <= 1


def off(actual, exact):
    """The root mean square of the difference."""
    return np.sqrt(np.square(actual.astype(np.float64) - exact).mean())


NETWORKS_OF_STREAMS = {"recurrent-unet": dict(width=16, depth=1), "fusion-unet": {}}


@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-5), ("float16", 2e-3)])
@pytest.mark.parametrize("name", NETWORKS_OF_STREAMS)
def test_streams_and_bursts_on_a_gpu(on_gpu, name, precision, most):
    """A recurrent network and its fusion are plans: as on the CPU, state and all, and to be resumed."""
    model = streams.create(name, **NETWORKS_OF_STREAMS[name])
    frames = list(streams.clip(2, height=21, width=26, dtype=np.float32))
    restorer, cpu = fr.Restorer(model, device="cuda", precision=precision), fr.Restorer(model, threads=1)
    session, resumed, wanted = Stream(restorer), Stream(restorer), list(cpu.stream(frames, sigma=12, clip=False))
    assert session.info["device"] == "cuda" and session.info["path"] == "plan"
    assert off(session(frames[0], sigma=12, clip=False), wanted[0]) < most
    resumed.resume(session.state())
    second = session(frames[1], sigma=12, clip=False)
    assert off(second, wanted[1]) < most
    assert off(second, restorer(frames[1], sigma=12, clip=False)) > 5 * most  # the past matters
    np.testing.assert_array_equal(resumed(frames[1], sigma=12, clip=False), second)
    if precision == "float32":
        burst, theirs = (one.burst(frames, sigma=12, clip=False, reference=0, notices=[]) for one in (restorer, cpu))
        assert off(burst, theirs) < most


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_named_model_restores_a_stream_on_a_gpu(on_gpu, precision):
    """With trained weights 16 bits stay above the 50 dB at which a precision is offered."""
    frames = list(streams.clip(2, height=24, width=32, dtype=np.float32))
    wanted = list(fr.Restorer("denoise-rnn", threads=1).stream(frames, sigma=12, clip=False))
    ours = list(fr.Restorer("denoise-rnn", device="cuda", precision=precision).stream(frames, sigma=12, clip=False))
    for mine, theirs in zip(ours, wanted, strict=True):
        assert fr.metrics.psnr(mine, theirs) > 50


def test_a_burst_network_on_a_gpu(on_gpu):
    """Its shots by the plan, their fusion over torch, wherever that computes."""
    model = fr.create("burst-unet", widths=(16, 16), blocks=1, width=16)
    shots = list(streams.clip(2, height=21, width=26))
    ours, theirs = (fr.Restorer(model, device=device).burst(shots, sigma=12, reference=1, notices=[])
                    for device in ("cuda", "cpu"))  # fmt: skip
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_a_gpu_before_ampere_is_refused(sessions):
    sessions.module.set_device(**{**emulated.RTX, "capability": 75}, seed=1)
    with pytest.raises(RuntimeError, match=r"no usable CUDA device: its compute capability is 7\.5"):
        sessions.open(engine.compile(NETWORKS["dncnn"]))


def test_without_a_gpu_the_error_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceError, match=r"no usable CUDA device|built without nvcc"):
        engine.compile(NETWORKS["dncnn"]).session(device="cuda")


def test_the_command_line_says_so_too(tmp_path, capsys, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    monkeypatch.setattr("logging.disable", lambda: None)
    images.write(tmp_path / "in.png", images.Image(picture(4, 5, np.uint8)))
    command = ["denoise", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"), "--device", "cuda"]
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 3 and not (tmp_path / "out.png").exists()
    assert re.search("no usable CUDA device|built without nvcc", capsys.readouterr().err)


def test_devices_and_precisions_are_checked():
    plan = engine.compile(NETWORKS["dncnn"])
    with pytest.raises(ValueError, match="'tpu'"):
        plan.session(device="tpu")
    with pytest.raises(ValueError, match="'float16'"):
        plan.session(precision="float16")
