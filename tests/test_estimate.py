"""The blind noise level: near the truth for white noise, useful for a camera's, 0 for none."""

import cv2
import numpy as np
import pytest
from PIL import Image as PilImage

from fastrestore.estimate import noise_level


def scene(height=200, width=260, channels=3) -> np.ndarray:
    """Smooth shades, edges and a textured part, in [0, 1]."""
    y, x = np.mgrid[:height, :width]
    shade = 0.3 + 0.3 * np.sin(y / 41) * np.cos(x / 53)
    shade[height // 2 :, : width // 2] += 0.2
    shade[:60, :60] += 0.1 * np.sin(y[:60, :60] * 1.3) * np.sin(x[:60, :60] * 0.9)
    return np.repeat(shade[..., None], channels, 2) * np.linspace(0.8, 1.0, channels)


def noisy(clean: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    return (clean + np.random.RandomState(seed).normal(0, sigma / 255, clean.shape)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [2, 5, 15, 25, 50])
def test_white_noise(sigma, channels):
    assert noise_level(noisy(scene(channels=channels), sigma)) == pytest.approx(sigma, rel=0.06, abs=0.1)


def test_every_dtype_and_layout_says_the_same():
    picture = np.clip(noisy(scene(), 10), 0, 1)
    level = noise_level(picture)
    assert noise_level(np.rint(picture * 255).astype(np.uint8)) == pytest.approx(level, rel=0.02)
    assert noise_level(np.rint(picture * 65535).astype(np.uint16)) == pytest.approx(level, rel=0.001)
    assert noise_level(picture.astype(np.float16)) == pytest.approx(level, rel=0.01)
    assert noise_level(picture[::-1]) == pytest.approx(level, rel=0.05)
    assert noise_level(picture[..., 0]) == noise_level(picture[..., :1])


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (7, 7), (8, 8, 1), (20, 31, 3), (300, 200, 3)])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_flat_pictures_have_none(shape, value):
    assert noise_level(np.full(shape, value, np.uint8)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(9, 300, 3), (24, 24, 1), (40, 40, 3)])
def test_small_pictures(shape):
    assert noise_level(noisy(np.full(shape, 0.5), 25)) == pytest.approx(25, rel=0.3)


def test_clipped_parts_do_not_hide_the_noise():
    picture = scene() + 0.0
    picture[:, :120] = 1.2  # blown out: no noise is seen there
    assert noise_level(np.clip(noisy(picture, 20), 0, 1)) == pytest.approx(20, rel=0.1)


def test_noise_that_is_not_white_is_not_missed():
    rough = np.random.RandomState(0).normal(0, 1, (100, 130, 3))
    coloured = cv2.resize(rough, (260, 200), interpolation=cv2.INTER_CUBIC)  # grains of some pixels, as a camera's
    picture = (scene() + coloured / coloured.std() * 5 / 255).astype(np.float32)
    assert noise_level(picture) >= 5


def test_a_large_picture_costs_no_more(monkeypatch):
    seen = []
    monkeypatch.setattr("fastrestore.estimate._eigenvalue_sigma", lambda crops: seen.append(crops) or 1.0)
    for shape in ((10_000, 10_000, 3), (3, 100_000_000, 3), (8, 1_000_000, 3), (1_000_000, 8, 1)):
        noise_level(np.broadcast_to(np.uint8(0), shape))
    assert len(seen) == 3 and all(sum(crop.size for crop in crops) <= 48 * 96 * 96 * 3 for crops in seen)


def test_photographs(shared_data):
    """The table in the module's docstring, on every sixth picture."""
    files = sorted((shared_data / "train" / "bsds500_val32").glob("*.jpg"))[::6]
    pictures = [np.asarray(PilImage.open(path)) / 255 for path in files]
    for sigma in (5, 25):
        errors = np.array([noise_level(noisy(picture, sigma)) - sigma for picture in pictures])
        assert np.sqrt((errors**2).mean()) < 0.04 * sigma
    luma = [picture @ [0.299, 0.587, 0.114] for picture in pictures]
    errors = np.array([noise_level(noisy(picture, 10)) - 10 for picture in luma])
    assert np.sqrt((errors**2).mean()) < 2  # the eigenvalues alone: above 3


def test_camera_noise(shared_data):
    """Best for a denoiser on these pictures: 7.5 to 25 (FFDNet); what is white in them is below 1."""
    files = sorted((shared_data / "noise" / "cc15").glob("*_real.png"))[::3]
    levels = [noise_level(np.asarray(PilImage.open(path))) for path in files]
    assert min(levels) > 5 and max(levels) < 25
