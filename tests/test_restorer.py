"""Any picture in, the same kind out.  The model here is a small local filter whose result is known."""

import numpy as np
import pytest
import torch
from PIL import Image as PilImage
from torch import Tensor, nn

import fastrestore as fr
from fastrestore import image as images
from fastrestore.errors import ImageError

FULL = {"uint8": 255, "uint16": 65535, "float16": 1, "float32": 1, "float64": 1}


class Smooth(nn.Module):
    """Mean over 3 x 3 pixels, zero outside, in every channel; the plan covers it."""

    halo, multiple_of, takes_sigma = 1, 1, False

    def __init__(self, channels: int):
        super().__init__()
        self.config = type("Config", (), {"channels": channels})()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(channels)[:, :, None, None] / 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Brighter(nn.Module):
    """x + sigma / 255 / 4, by an operator that no plan covers: runs tiled by torch."""

    halo, multiple_of, takes_sigma = 0, 1, True

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        return torch.asinh(torch.sinh(x)) + sigma / 255 / 4


def smoothed(x: np.ndarray) -> np.ndarray:
    """What Smooth gives, float64 in [0, 1].  x: [H, W, C]."""
    padded = np.pad(x.astype(np.float64) / FULL[x.dtype.name], ((1, 1), (1, 1), (0, 0)))
    height, width = x.shape[:2]
    return sum(padded[i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9


def sample(dtype: str, *shape: int) -> np.ndarray:
    return (np.random.default_rng(0).random(shape) * FULL[dtype]).astype(dtype)


def assert_restored(result: np.ndarray, source: np.ndarray) -> None:
    """result is the smoothed source to its dtype's accuracy.  Both [H, W, C]."""
    assert (result.dtype, result.shape) == (source.dtype, source.shape)
    unit = {"uint8": 0.51 / 255, "uint16": 0.6 / 65535, "float16": 1e-3}.get(source.dtype.name, 1e-6)
    assert np.abs(result / FULL[source.dtype.name] - smoothed(source)).max() <= unit


@pytest.fixture(scope="module")
def colour() -> fr.Restorer:
    return fr.Restorer(Smooth(3), threads=1)


@pytest.fixture(scope="module")
def grey() -> fr.Restorer:
    return fr.Restorer(Smooth(1), threads=1)


@pytest.fixture(scope="module")
def brighter() -> fr.Restorer:
    return fr.Restorer(Brighter())


@pytest.mark.parametrize("dtype", FULL)
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (23, 17, 3), (23, 17, 1)], ids=str)
def test_arrays(colour, grey, dtype, shape):
    source = sample(dtype, *shape)
    before = source.copy()
    assert_restored(colour(source), source)
    assert_restored(grey(source), source)  # plane by plane
    np.testing.assert_array_equal(source, before)


def test_strides_order_and_read_only(colour):
    base = sample("uint8", 20, 22, 4)
    for source in (
        base[::-1, ::-2, :3],
        np.asfortranarray(base[..., :3]),
        base[..., 2::-1],
        base.transpose(1, 0, 2)[..., :3],
    ):
        assert_restored(colour(source), source)
    locked = base[..., :3].copy()
    locked.flags.writeable = False
    assert_restored(colour(locked), locked)
    big = sample("uint16", 9, 8, 3).astype(">u2")
    assert colour(big).dtype == big.dtype
    np.testing.assert_array_equal(colour(big), colour(big.astype(np.uint16)))


def test_two_dimensions_and_alpha(colour):
    flat = sample("uint8", 9, 8)
    assert_restored(colour(flat)[..., None], flat[..., None])
    for channels in (2, 4):
        source = sample("float32", 9, 8, channels)
        result = colour(source)
        np.testing.assert_array_equal(result[..., -1], source[..., -1])
        assert_restored(result[..., :-1], source[..., :-1])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16", "F"])
def test_pil_pictures(colour, mode):
    dtype = {"I;16": "uint16", "F": "float32"}.get(mode, "uint8")
    source = sample(dtype, 9, 8, len(mode) if dtype == "uint8" else 1)
    picture = PilImage.fromarray(source[..., 0] if source.shape[2] == 1 else source)
    picture.info["icc_profile"] = b"profile"
    assert picture.mode == mode
    result = colour(picture)
    assert (result.mode, result.size, result.info) == (mode, picture.size, picture.info)
    np.testing.assert_array_equal(np.asarray(result), colour(np.asarray(picture)))


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "YCbCr", "HSV", "LAB", "I"])
def test_pil_modes_that_are_refused(colour, mode):
    with pytest.raises(ImageError, match=f"'{mode}'"):
        colour(PilImage.new(mode, (4, 4)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_tensors(colour, dtype):
    x = torch.from_numpy(sample("float32", 2, 9, 8, 3)).permute(0, 3, 1, 2)
    x = (x * 255).to(dtype) if dtype == torch.uint8 else x.to(dtype)
    y = colour(x)
    assert (y.dtype, y.shape, y.device) == (x.dtype, x.shape, x.device)
    for n in range(2):
        item = x[n].permute(1, 2, 0)
        item = (item.float() if dtype == torch.bfloat16 else item).numpy()
        expected = torch.from_numpy(colour(item)).to(dtype)
        torch.testing.assert_close(y[n].permute(1, 2, 0), expected, rtol=0, atol=0)
    assert not colour((x.float() / 255).requires_grad_()).requires_grad


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0), np.uint8),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4, 4), bool),
        np.zeros((4, 4), np.int32),
        np.zeros((4, 4), np.complex64),
        np.zeros((4, 4), object),
        np.full((4, 4), np.nan, np.float32),
        np.full((4, 4), np.inf),
        np.full((4, 4), 200.0),
        torch.zeros(3, 4, 4),
        torch.zeros(0, 3, 4, 4),
        torch.zeros(1, 3, 4, 4, dtype=torch.int32),
        torch.full((1, 3, 4, 4), float("nan")),
        [[0, 1]],
        "picture.png",
        None,
    ],
    ids=lambda x: f"{type(x).__name__} {getattr(x, 'dtype', '')} {tuple(getattr(x, 'shape', ()))}",
)
def test_what_is_no_picture_is_refused(colour, source):
    with pytest.raises(ImageError) as caught:
        colour(source)
    if isinstance(source, np.ndarray):
        assert str(source.dtype) in str(caught.value) and str(list(source.shape)) in str(caught.value)


def test_float_range(colour):
    source = (np.random.default_rng(0).random((9, 8, 3)) * 4 - 1).astype(np.float32)
    expected = smoothed(source)
    assert expected.min() < 0 and expected.max() > 1  # or the test shows nothing
    np.testing.assert_allclose(colour(source), expected.clip(0, 1), atol=1e-6)
    np.testing.assert_allclose(colour(source, clip=False), expected, atol=1e-6)
    hundred = source * 100
    np.testing.assert_allclose(colour(hundred, clip=False), smoothed(hundred), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_strength(colour, dtype):
    source = sample(dtype, 9, 8, 3)
    np.testing.assert_array_equal(colour(source, strength=0), source)
    half = colour(source, strength=0.5) / FULL[dtype]
    between = (source / FULL[dtype] + smoothed(source)) / 2
    assert np.abs(half - between).max() <= (0.51 / 255 if dtype == "uint8" else 1e-6)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strength_out_of_range(colour, strength):
    with pytest.raises(ValueError, match="strength"):
        colour(sample("uint8", 4, 4), strength=strength)


def test_sigma(brighter, colour, monkeypatch):
    source = np.full((20, 20, 3), 0.25, np.float32)
    np.testing.assert_allclose(brighter(source, sigma=102), 0.35, atol=1e-6)
    monkeypatch.setattr(brighter, "_noise_level", lambda pixels: 51.0)
    np.testing.assert_allclose(brighter(source), 0.30, atol=1e-6)
    assert "sinh" in brighter.info["path"]
    for sigma in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="sigma"):
            brighter(source, sigma=sigma)
    with pytest.raises(ValueError, match="takes no noise level"):
        colour(source, sigma=10)


def test_progress_can_stop_the_work(colour):
    seen = []
    colour(sample("uint8", 64, 64, 3), progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == 1.0

    def stop(done: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        colour(sample("uint8", 64, 64, 3), progress=stop)
    source = sample("uint8", 9, 8, 3)
    assert_restored(colour(source), source)  # it still works


def test_arguments_of_restorer():
    for arguments, words in (
        ({"device": "tpu"}, "device"),
        ({"precision": "int3"}, "precision"),
        ({"memory": "much"}, "memory"),
        ({"threads": 0}, "threads"),
    ):
        with pytest.raises(ValueError, match=words):
            fr.Restorer(Smooth(3), **arguments)
    with pytest.raises(fr.ModelError, match="no-such-model"):
        fr.Restorer("no-such-model")
    with pytest.raises(fr.ModelError, match="knit"):
        fr.Restorer(task="knit")


def test_info(colour):
    info = colour.info
    assert info["model"] == "Smooth" and info["path"] == "plan" and info["threads"] == 1
    assert info["precision"] == "float32" and info["isa"]


@pytest.mark.parametrize("suffix, dtype", [(".png", "uint8"), (".png", "uint16"), (".tif", "float32")])
def test_files(colour, tmp_path, suffix, dtype):
    pixels, alpha = sample(dtype, 9, 8, 3), sample(dtype, 9, 8)
    form = "TIFF" if suffix == ".tif" else "PNG"
    images.write(tmp_path / f"in{suffix}", images.Image(pixels, alpha, format=form, dpi=(300.0, 300.0)))
    report = colour.file(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}")
    back = images.read(tmp_path / f"out{suffix}")
    assert_restored(back.pixels, pixels)
    np.testing.assert_array_equal(back.alpha, alpha)
    assert back.dpi == pytest.approx((300, 300), abs=0.01)
    assert (report["height"], report["width"], report["sigma"], report["notices"]) == (9, 8, None, [])


def test_float_files_outside_the_range_are_not_clipped(colour, tmp_path):
    pixels = sample("float32", 9, 8, 3) * 3
    images.write(tmp_path / "in.tif", images.Image(pixels, format="TIFF"))
    report = colour.file(tmp_path / "in.tif", tmp_path / "out.tif")
    np.testing.assert_allclose(images.read(tmp_path / "out.tif").pixels, smoothed(pixels), atol=1e-5)
    assert "nothing is clipped" in report["notices"][0]


def test_restore_keeps_named_models_ready(monkeypatch):
    from fastrestore import restorer

    made = []

    def load(name):
        made.append(name)
        return Smooth(3)

    monkeypatch.setattr(restorer.zoo, "load", load)
    monkeypatch.setattr(restorer.zoo, "names", lambda: ["known"])
    monkeypatch.setattr(restorer.zoo, "default", lambda task: "known")
    restorer._named.cache_clear()
    try:
        source = sample("uint8", 9, 8, 3)
        for _ in range(2):
            assert_restored(fr.restore(source), source)
            assert_restored(fr.restore(source, model="known"), source)
            assert_restored(fr.restore(source, model=Smooth(3)), source)
    finally:
        restorer._named.cache_clear()
    assert made == ["known", "known"]


def test_import_is_quick_and_public_names_resolve():
    import subprocess
    import sys

    code = "import sys, fastrestore; print(sorted(m for m in ('torch', 'numpy', 'cv2', 'PIL') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    for name in fr.__all__:
        assert getattr(fr, name) is not None
    assert callable(fr.models)
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = fr.nothing_such


def test_bfloat16_is_close_to_float32():
    noisy = np.random.default_rng(3).random((61, 83, 3), dtype=np.float32)
    exact = fr.Restorer("denoise-cnn", precision="float32")(noisy, sigma=25)
    restorer = fr.Restorer("denoise-cnn", precision="bfloat16")
    assert restorer.info["precision"] == "bfloat16"
    assert fr.metrics.psnr(restorer(noisy, sigma=25), exact) > 50  # below that a precision is not offered
    with pytest.raises(ValueError, match="float8"):
        fr.Restorer("denoise-cnn", precision="float8")
