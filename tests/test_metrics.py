"""PSNR, SSIM and MSE against their formulas, written out here in the slowest way."""

import math

import numpy as np
import pytest
import torch

from fastrestore import metrics


def pair(shape, dtype="uint8", seed=0):
    rng = np.random.default_rng(seed)
    top = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    a = rng.random(shape) * top
    b = np.clip(a + rng.normal(0, 0.1 * top, shape), 0, top)
    return a.astype(dtype), b.astype(dtype)


def slow_ssim(a: np.ndarray, b: np.ndarray, top: float) -> float:
    """Wang et al. (2004), equations 13 to 15, one window at a time; a, b: float64 [H, W]."""
    axis = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(axis, axis) / axis.sum() ** 2
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
            cov = (window * (p - mean_p) * (q - mean_q)).sum()
            c1, c2 = (0.01 * top) ** 2, (0.03 * top) ** 2
            value = (2 * mean_p * mean_q + c1) * (2 * cov + c2)
            values.append(value / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("dtype, top", [("uint8", 255), ("uint16", 65535), ("float32", 1)])
def test_psnr_and_mse(dtype, top):
    a, b = pair((7, 5, 3), dtype)
    error = sum((float(x) - float(y)) ** 2 for x, y in zip(a.flat, b.flat, strict=True)) / a.size
    assert metrics.mse(a, b) == pytest.approx(error)
    assert metrics.psnr(a, b) == pytest.approx(10 * math.log10(top**2 / error))
    assert metrics.psnr(a, b, data_range=2 * top) == pytest.approx(metrics.psnr(a, b) + 20 * math.log10(2))


@pytest.mark.parametrize("dtype, top", [("uint8", 255), ("uint16", 65535), ("float32", 1)])
def test_ssim(dtype, top):
    a, b = pair((19, 14, 3), dtype)
    slow = [slow_ssim(a[..., c].astype(float), b[..., c].astype(float), top) for c in range(3)]
    assert metrics.ssim(a, b) == pytest.approx(np.mean(slow), abs=1e-9)
    assert metrics.ssim(a[..., 0], b[..., 0]) == pytest.approx(slow[0], abs=1e-9)


@pytest.mark.parametrize(
    ("shape", "seed", "theirs"), [((48, 64), 0, 0.9475486850389465), ((33, 40, 3), 1, 0.9473767787890237)], ids=str
)
def test_ssim_is_that_of_scikit_image(shape, seed, theirs):
    """What scikit-image 0.26.0 gives for these: its structural_similarity with gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=255."""
    assert metrics.ssim(*pair(shape, "uint8", seed)) == pytest.approx(theirs, abs=1e-9)


def test_psnr_of_the_luma_follows_rgb2ycbcr():
    a, b = pair((9, 8, 3))
    luma = [16 + x.astype(float) @ [65.481, 128.553, 24.966] / 255 for x in (a, b)]
    assert metrics.psnr_y(a, b) == pytest.approx(10 * math.log10(255**2 / np.mean((luma[0] - luma[1]) ** 2)))
    assert metrics.psnr_y(a, a) == math.inf
    with pytest.raises(ValueError, match="three channels"):
        metrics.psnr_y(a[..., :1], b[..., :1])


def test_equal_pictures():
    a, _ = pair((16, 16, 3))
    assert metrics.psnr(a, a) == math.inf
    assert metrics.ssim(a, a) == pytest.approx(1)


def test_tensors_are_batches_of_planes():
    a, b = pair((16, 12, 3), "float32")
    to_tensor = [torch.from_numpy(x).permute(2, 0, 1)[None] for x in (a, b)]
    for metric in (metrics.mse, metrics.psnr, metrics.ssim):
        assert metric(*to_tensor) == pytest.approx(metric(a, b))
    half = [x.to(torch.bfloat16) for x in to_tensor]
    assert metrics.psnr(*half) == pytest.approx(metrics.psnr(a, b), abs=0.2)


@pytest.mark.parametrize(
    "a, b",
    [
        (np.zeros((4, 4)), np.zeros((4, 5))),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.float32)),
        (np.zeros((4, 4), np.int32), np.zeros((4, 4), np.int32)),
        (np.zeros((0, 4)), np.zeros((0, 4))),
        (np.zeros(4), np.zeros(4)),
        (np.zeros((4, 4), bool), np.zeros((4, 4), bool)),
    ],
    ids=["shapes", "dtypes", "range unknown", "empty", "rank", "bool"],
)
def test_what_cannot_be_compared_is_refused(a, b):
    with pytest.raises(ValueError, match="metrics"):
        metrics.psnr(a, b)


def test_ssim_needs_room_for_its_window():
    with pytest.raises(ValueError, match="at least 11"):
        metrics.ssim(np.zeros((10, 40)), np.zeros((10, 40)))
