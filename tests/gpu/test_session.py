"""Plans on an emulated GPU: the executor's own code, kernels and all, against the CPU's sessions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastrestore as fr
from fastrestore import engine
from fastrestore.errors import DeviceError
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
}  # fmt: skip


def picture(height, width, dtype=np.float32, seed=0):
    values = np.random.default_rng(seed).random((height, width, 3), np.float32)
    return (values * np.iinfo(dtype).max).round().astype(dtype) if np.issubdtype(dtype, np.integer) else values


class Sessions:
    """Sessions of the emulated GPU, by way of the plan's file."""

    def __init__(self, module, folder):
        self.module, self.path = module, folder / "plan.frp"
        emulated.Emulation(module, emulated.H100)
        module.announce([])

    def open(self, plan, precision="float32", memory=1 << 40):
        plan.save(self.path)
        return self.module.open_session(str(self.path), precision, memory)

    def run(self, session, image, sigma=None, strength=1.0, clip=False):
        out = np.empty_like(image)
        report = session.run(image, out, sigma, strength, clip, None)
        return out, report


@pytest.fixture
def sessions(module, tmp_path):
    return Sessions(module, tmp_path)


@pytest.mark.parametrize("name", NETWORKS)
def test_is_the_cpus(sessions, name):
    plan, image = engine.compile(NETWORKS[name]), picture(13, 18)
    out, report = sessions.run(sessions.open(plan), image)
    np.testing.assert_allclose(out, plan.session().run(image, clip=False), atol=2e-5)
    assert report.strips == 1 and report.non_finite == 0


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["dncnn", "unet", "shuffled"])
def test_in_half_precision(sessions, name, precision):
    """The type's rounding through a few layers, in units of the result's root mean square."""
    plan, image = engine.compile(NETWORKS[name]), picture(13, 18)
    out, _ = sessions.run(sessions.open(plan, precision), image)
    exact = plan.session().run(image, clip=False)
    error = np.sqrt(np.mean((out - exact) ** 2) / np.mean(exact**2))
    assert error < (2e-3 if precision == "float16" else 1.6e-2), f"{error:.2g}"


@pytest.mark.parametrize("name", ["dncnn", "unet"])
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
    "restormer": dict(width=8, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 1, 1, 1)),
    "swinir": dict(width=12, blocks=(2,), heads=(2,)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(sessions, name):
    """Norms, gates, means over the picture, attention between channels and within windows."""
    torch.manual_seed(1)
    model = fr.create(name, **PUBLISHED[name]).eval()
    for parameter in model.parameters():  # some begin at 0, and would hide what they multiply
        with torch.no_grad():
            parameter.add_(0.05 * torch.randn_like(parameter))
    plan, image = engine.compile(model), picture(16, 16)
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


def test_the_ways_are_told(sessions):
    ways = sessions.open(engine.compile(NETWORKS["unet"]), "bfloat16").ways
    assert ways["conv3x3"] == 4 and ways["implicit"] == 2 and ways["concat"] == 1


def test_without_a_gpu_the_error_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceError, match=r"no usable CUDA device|built without nvcc"):
        engine.compile(NETWORKS["dncnn"]).session(device="cuda")


def test_devices_and_precisions_are_checked():
    plan = engine.compile(NETWORKS["dncnn"])
    with pytest.raises(ValueError, match="'tpu'"):
        plan.session(device="tpu")
    with pytest.raises(ValueError, match="'float16'"):
        plan.session(precision="float16")
