"""Plans give what the module gives, whatever the size, and the same bits however the picture is cut."""

import copy
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

from fastrestore import engine, models
from fastrestore.errors import MemoryBudgetError, ModelError, UnsupportedOperator

SMALL = {
    "dncnn": {"depth": 5, "width": 16},
    "ffdnet": {"depth": 4, "width": 32},
    "rednet": {"layers": 4, "width": 16},
    "unet": {"widths": (16, 32, 48), "blocks": 1},
    "unet with gain": {"widths": (16, 16, 32, 32), "blocks": 1, "sigma": False, "gain": True},
    "autoencoder": {"widths": (16, 32), "blocks": 2},
    "drunet": {"widths": (16, 32, 48, 64), "blocks": 1},
}
SIGMA = 20.0


def small_model(name: str) -> nn.Module:
    torch.manual_seed(1)
    model = models.create(name.split()[0], **SMALL[name])
    with torch.no_grad():
        for parameter in model.parameters():  # last layers start near zero: give every layer a say in the result
            parameter.copy_(torch.randn_like(parameter) * (1.5 / max(1, parameter[0].numel()) ** 0.5))
    return model.eval()


def sigma_of(model: nn.Module) -> float | None:
    return SIGMA if model.takes_sigma else None


def eager(model: nn.Module, image: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    x = torch.from_numpy(image).permute(2, 0, 1)[None].to(dtype)
    arguments = (SIGMA,) if model.takes_sigma else ()
    with torch.enable_grad():  # plain torch, not our operators
        y = copy.deepcopy(model).to(dtype)(x, *arguments)
    return y.detach()[0].permute(1, 2, 0).numpy()


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, channels), dtype=np.float32)


@pytest.fixture(scope="module")
def plans() -> dict[str, engine.Plan]:
    return {name: engine.compile(small_model(name)) for name in SMALL}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (67, 3), (37, 41), (96, 101)], ids=str)
def test_matches_eager_float64(plans, name, size):
    """float32 sums in another order: a few times plain float32's own distance, and never above 1e-4 of full scale."""
    model, image = small_model(name), picture(*size)
    exact = eager(model, image, torch.float64)
    actual = plans[name].session(threads=2).run(image, sigma=sigma_of(model), clip=False)
    plain = np.abs(eager(model, image, torch.float32) - exact).max()
    scale = max(1.0, np.abs(exact).max())
    error = np.abs(actual - exact).max()
    assert error <= max(4 * plain, 2e-6 * scale)
    assert error <= 1e-4 * scale
    assert np.abs(exact - image).max() > 1e-2  # else the test would prove nothing


@pytest.mark.parametrize("name", ["dncnn", "unet"])
def test_every_size(name):
    """All sizes from 1 x 1 to 67 x 67 where a padded grid does not make them equal, else those along three lines."""
    if name == "dncnn":
        torch.manual_seed(0)
        model = models.create("dncnn", depth=3, width=16).eval()
        sizes = [(height, width) for height in range(1, 68) for width in range(1, 68)]
    else:
        model = small_model(name)
        sizes = [size for side in range(1, 68) for size in ((side, side), (side, 33), (34, side))]
    session = engine.compile(model).session(threads=1)
    exactly = copy.deepcopy(model).double()
    whole = picture(67, 67)
    arguments = (SIGMA,) if model.takes_sigma else ()
    for height, width in sizes:
        image = np.ascontiguousarray(whole[:height, :width])
        actual = session.run(image, sigma=sigma_of(model), clip=False)
        x = torch.from_numpy(image).permute(2, 0, 1)[None].double()
        exact = exactly(x, *arguments).detach()[0].permute(1, 2, 0).numpy()
        assert np.abs(actual - exact).max() <= 1e-5 * max(1.0, np.abs(exact).max()), (height, width)


def test_rows_far_apart(plans):
    """Rows a GiB apart, so that the picture spans more than 2^31 values; only the pages of its rows are touched."""
    step, image = 2**30, (picture(3, 40) * 255).astype(np.uint8)
    try:
        memory = [np.empty(2 * step + 4096, np.uint8) for _ in range(2)]
    except MemoryError:
        pytest.skip("this machine refuses 4 GiB of untouched memory")
    views = [np.lib.stride_tricks.as_strided(block, image.shape, (step, 3, 1)) for block in memory]
    views[0][:] = image
    expected = plans["dncnn"].session().run(image)
    plans["dncnn"].session().run(views[0], out=views[1])
    np.testing.assert_array_equal(views[1], expected)


@pytest.mark.parametrize("name", SMALL)
def test_same_bits_for_every_cut(plans, name):
    image, model = picture(150, 333), small_model(name)
    plan = plans[name]
    whole = plan.session(threads=1).run(image, sigma=sigma_of(model), clip=False)
    smallest = needed(plan, image, "1KiB")
    strips = set()
    for threads in (1, 2, 5):
        for memory in (needed(plan, image, "1KiB", threads), smallest * 3 // 2 + 2**20, "1GiB"):
            session = plan.session(threads=threads, memory=memory)
            actual = session.run(image, sigma=sigma_of(model), clip=False)
            np.testing.assert_array_equal(actual, whole)
            assert session.report.working_bytes <= engine.parse_memory(memory)
            strips.add(session.report.strips)
    assert max(strips) > 1 and min(strips) == 1


def needed(plan: engine.Plan, image: np.ndarray, memory: str, threads: int = 1) -> int:
    """The bytes that a refusal for too small a budget names."""
    with pytest.raises(MemoryBudgetError, match=r"needs (\d+) bytes") as caught:
        plan.session(threads=threads, memory=memory).run(image, sigma=SIGMA if plan.takes_sigma else None)
    return int(str(caught.value).split("needs ")[1].split()[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32], ids=lambda d: d.__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_pixel_types(plans, dtype, channels):
    plan, model = plans["unet"], small_model("unet")
    peak = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    image = (picture(29, 31, channels) * peak).astype(dtype)
    actual = plan.session().run(image, sigma=SIGMA)
    assert actual.shape == image.shape and actual.dtype == dtype
    source = (image / peak).astype(np.float32)
    exact = eager(model, np.repeat(source, 3 // channels, 2), torch.float64)
    exact = exact if channels == 3 else exact.mean(2, keepdims=True)
    scale = max(1.0, np.abs(exact).max()) * peak
    step = 1 if peak > 1 else np.finfo(dtype).eps
    error = np.abs(actual.astype(np.float64) - exact.clip(0, 1) * peak).max()
    assert error <= step / 2 + 1e-5 * scale  # rounding to the type, and float32's own error at this scale


def test_rows_may_be_apart(plans):
    wide = picture(40, 80)
    view = wide[::2, :40]
    session = plans["dncnn"].session()
    np.testing.assert_array_equal(session.run(view, clip=False), session.run(view.copy(), clip=False))


def test_strength(plans):
    image = picture(33, 35)
    session = plans["dncnn"].session()
    full = session.run(image, clip=False)
    np.testing.assert_array_equal(session.run(image, strength=0.0, clip=False), image)
    np.testing.assert_allclose(session.run(image, strength=0.5, clip=False), (image + full) / 2, atol=1e-6)


def test_float_input_is_not_clipped_on_the_way_in(plans):
    image = picture(20, 20) * 3 - 1
    model = small_model("dncnn")
    actual = plans["dncnn"].session().run(image, clip=False)
    np.testing.assert_allclose(actual, eager(model, image, torch.float64), atol=1e-4)
    clipped = plans["dncnn"].session().run(image)
    assert clipped.min() >= 0 and clipped.max() <= 1


def test_nan_spreads_within_the_halo_only_and_is_counted(plans):
    image = picture(64, 64)
    image[32, 32] = np.nan
    plan = plans["dncnn"]
    session = plan.session()
    bad = np.isnan(session.run(image, clip=False)).any(2)
    assert bad[32, 32] and session.report.non_finite == np.isnan(session.run(image, clip=False)).sum() > 0
    rows, columns = np.nonzero(bad)
    reach = plan.halo + 6  # a Winograd tile mixes its own 6 x 6 inputs
    assert max(np.abs(rows - 32).max(), np.abs(columns - 32).max()) <= reach
    clean = picture(64, 64)
    assert np.isfinite(session.run(clean, clip=False)).all()  # nothing of the bad picture stays behind


@pytest.mark.parametrize("name", SMALL)
def test_halo_and_multiple_agree_with_the_model(plans, name):
    model = small_model(name)
    assert plans[name].halo == model.halo
    assert plans[name].multiple_of == model.multiple_of


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa):
    if isa not in engine.build_info()["built_isas"]:
        pytest.skip(f"{isa} was not built for this machine")
    model, image = small_model("unet"), picture(45, 70)
    try:
        plan = engine.compile(model, isa=isa)
        actual = plan.session().run(image, sigma=SIGMA, clip=False)
    except ValueError as error:
        pytest.skip(str(error))
    exact = eager(model, image, torch.float64)
    assert np.abs(actual - exact).max() <= 1e-4 * max(1.0, np.abs(exact).max())
    assert {step["kernel"].rsplit("_", 1)[-1] for step in plan.steps if step["kernel"]} == {isa}


def test_sessions_of_one_plan_run_at_the_same_time(plans):
    image = picture(60, 70)
    expected = plans["unet"].session(threads=1).run(image, sigma=SIGMA)
    results: list[np.ndarray] = []

    def work():
        session = plans["unet"].session(threads=2)
        results.extend(session.run(image, sigma=SIGMA) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    assert all(np.array_equal(result, expected) for result in results)


def test_works_after_fork(plans):
    script = """
import os, numpy as np, torch
from fastrestore import engine, models
plan = engine.compile(models.create("dncnn", depth=4, width=16))
image = np.random.default_rng(0).random((200, 200, 3), dtype=np.float32)
session = plan.session(threads=2)
before = session.run(image)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(session.run(image), before) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_progress_and_cancel(plans):
    image = picture(400, 64)
    shares: list[float] = []
    session = plans["dncnn"].session(memory="1MiB")
    session.run(image, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) > 3

    def stop(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.run(image, progress=stop)
    assert np.isfinite(session.run(image)).all()


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        (np.zeros((4, 4), np.float32), {}, ValueError, "H, W, C"),
        (np.zeros((4, 4, 2), np.float32), {}, ValueError, "channels"),
        (np.zeros((0, 4, 3), np.float32), {}, ValueError, "empty"),
        (np.zeros((4, 4, 3), np.float64), {}, TypeError, "float64"),
        (np.zeros((4, 4, 3), np.float32)[:, ::-1], {}, ValueError, "contiguous"),
        (np.zeros((4, 4, 3), np.float32), {"sigma": 5.0}, ValueError, "no sigma"),
        (np.zeros((4, 4, 3), np.float32), {"strength": float("nan")}, ValueError, "strength"),
        (np.zeros((4, 4, 3), np.float32), {"out": np.zeros((4, 5, 3), np.float32)}, ValueError, "shape"),
    ],
)
def test_refuses(plans, image, options, error, message):
    with pytest.raises(error, match=message):
        plans["dncnn"].session().run(image, **options)


@pytest.mark.parametrize("sigma", [None, -1.0, float("nan"), float("inf")])
def test_refuses_bad_sigma(plans, sigma):
    with pytest.raises(ValueError, match="sigma"):
        plans["unet"].session().run(picture(8, 8), sigma=sigma)


def test_out_must_not_overlap(plans):
    image = picture(8, 8)
    with pytest.raises(ValueError, match="overlaps"):
        plans["dncnn"].session().run(image, out=image)


@pytest.mark.parametrize(
    ("text", "size"), [("64MiB", 64 * 2**20), ("1GiB", 2**30), ("1.5KiB", 1536), ("100", 100), (7, 7), ("2M", 2**21)]
)
def test_memory_strings(text, size):
    assert engine.parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1MiB", "0", 0, "1PB", "1e3", True])
def test_refuses_memory_strings(text):
    with pytest.raises(ValueError, match="memory"):
        engine.parse_memory(text)


class TestForeignModules:
    """Plain torch modules, with the operators that torch itself records."""

    def check(self, module: nn.Module, image: np.ndarray) -> engine.Plan:
        torch.manual_seed(0)
        module = module.eval()
        plan = engine.compile(module)
        with torch.no_grad():
            exact = copy.deepcopy(module).double()(torch.from_numpy(image).permute(2, 0, 1)[None].double())
        actual = plan.session().run(image, clip=False)
        np.testing.assert_allclose(actual, exact[0].permute(1, 2, 0).numpy(), atol=1e-5)
        return plan

    def test_batch_norm_and_relu_fuse(self):
        body = nn.Sequential(
            nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 3, 5, padding=2)
        )
        with torch.no_grad():
            body[1].running_mean.normal_()
            body[1].running_var.uniform_(0.5, 2)
            body[1].weight.normal_()
        plan = self.check(body, picture(20, 23))
        assert [step["op"] for step in plan.steps] == ["input", "conv2d", "conv2d"]

    def test_gelu_fuses(self):
        body = nn.Sequential(
            nn.Conv2d(3, 40, 3, padding=1), nn.GELU(), nn.Conv2d(40, 20, 1), nn.GELU(), nn.Conv2d(20, 3, 1)
        )
        plan = self.check(body, 4 * picture(20, 23) - 2)
        assert [step["op"] for step in plan.steps] == ["input", "conv2d", "conv2d", "conv2d"]
        assert [step["conv"]["activation"] for step in plan.steps[1:]] == ["gelu", "gelu", "none"]

    def test_residuals_scaling_and_concat(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
                self.c = nn.Conv2d(32, 3, 3, padding=1, bias=False)

            def forward(self, x):
                y = nn.functional.leaky_relu(self.a(x), 0.2)
                z = nn.functional.relu(self.b(y) + y)
                return x - 0.1 * self.c(torch.cat([y, z], 1))

        self.check(Net(), picture(17, 33))

    @pytest.mark.parametrize(("kernel", "padding", "extra"), [(2, 0, 0), (3, 1, 1), (4, 1, 0)])
    def test_transposed_convolution(self, kernel, padding, extra):
        down = nn.Conv2d(3, 16, 4, stride=2, padding=1)
        up = nn.ConvTranspose2d(16, 3, kernel, stride=2, padding=padding, output_padding=extra)
        module = nn.Sequential(down, up)
        module.multiple_of = 2
        self.check(module, picture(22, 30))

    def test_depthwise_and_grouped(self):
        module = nn.Sequential(
            nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 3, 3, padding=2, dilation=2)
        )
        self.check(module, picture(19, 24))

    def test_unsupported_operator_names_itself_and_its_module(self):
        module = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Sequential(nn.Softmax(1)))
        with pytest.raises(UnsupportedOperator, match=r"softmax.* in 1\.0"):
            engine.compile(module)

    def test_sizes_that_do_not_stay(self):
        with pytest.raises(UnsupportedOperator, match="size"):
            engine.compile(nn.Conv2d(3, 3, 3))

    def test_half_weights_are_refused(self):
        with pytest.raises(ModelError, match="float16"):
            engine.compile(nn.Conv2d(3, 3, 3, padding=1).half())
