"""Moiré: pairs aligned to a fraction of a pixel, coloured bands where physics has them, noise as stated."""

import dataclasses

import cv2
import numpy as np
import pytest

from fastrestore.degrade import Moire, moire
from fastrestore.degrade.camera import sensor_deviation

# A perfect camera before an even screen: nothing is left but the geometry.
IDEAL = Moire(
    contrast=0.0,
    brightness=1.0,
    veil=0.0,
    gain=0.0,
    read_noise=0.0,
    sharpening=0.0,
    quality=0,
    defocus=0.3,
    oversampling=2.0,
    pitch=0.6,
)
TURNS = [
    {},
    {"rotation": 17.0, "shift": (3.3, -2.6)},
    {"tilt": (0.1, -0.06), "zoom": 0.93},
    {"distortion": 0.05, "rotation": -90.0},
]


def internals():
    import importlib

    return importlib.import_module("fastrestore.degrade.moire")


def picture(height=96, width=120):
    """Smooth enough that resampling loses little, with detail to align by."""
    rng = np.random.default_rng(2)
    small = rng.random((height // 6, width // 6, 3), np.float32)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).clip(0.05, 0.95)


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_the_clean_picture_is_aligned(turn):
    result = moire(picture(), dataclasses.replace(IDEAL, **turn), seed=0)
    error = result.image - result.clean
    assert -10 * np.log10(np.mean(error**2)) > 32
    photo, clean = (part[8:-8, 8:-8].astype(np.float64) for part in (result.image, result.clean))
    slopes = np.stack([slope.ravel() for slope in np.gradient(clean, axis=(0, 1))], 1)
    shift = np.linalg.lstsq(slopes, (photo - clean).ravel(), rcond=None)[0]
    assert np.abs(shift).max() < 0.02  # pixels


def test_the_geometry_is_what_was_asked():
    source = picture()
    flat = dataclasses.replace(IDEAL, rotation=0.0, tilt=(0.0, 0.0), distortion=0.0)
    turned = moire(source, dataclasses.replace(flat, rotation=180.0), seed=0).clean
    np.testing.assert_allclose(turned, source[::-1, ::-1], atol=2e-3)
    moved = moire(source, dataclasses.replace(flat, shift=(5.0, 2.0)), seed=0).clean
    np.testing.assert_allclose(moved[:-4, :-8], source[2:-2, 5:-3], atol=2e-3)


def bands(result):
    """How much colour varies over several pixels, where the picture has none."""
    chroma = result.image - result.image.mean(2, keepdims=True)
    return cv2.GaussianBlur(chroma, (0, 0), 3.0)[10:-10, 10:-10].std()


def test_a_grid_of_half_the_pixels_makes_coloured_bands():
    grey = np.full((96, 96, 3), 0.5, np.float32)
    shot = dataclasses.replace(IDEAL, contrast=0.9, pitch=0.51, rotation=1.5)
    assert bands(moire(grey, shot, seed=0)) > 0.02
    assert bands(moire(grey, dataclasses.replace(shot, contrast=0.0), seed=0)) < 1e-3
    assert bands(moire(grey, dataclasses.replace(shot, defocus=2.0), seed=0)) < 1e-3  # out of focus: no grid, no bands


def test_the_tone_follows_the_parameters():
    grey = np.full((48, 48, 3), 0.6, np.float32)
    shot = dataclasses.replace(IDEAL, brightness=0.5, balance=(1.2, 1.0, 0.8), veil=0.02)
    light = moire(grey, shot, seed=0).image[8:-8, 8:-8].astype(np.float64).mean((0, 1)) ** 2.2
    np.testing.assert_allclose(light, 0.6**2.2 * 0.5 * np.array([1.2, 1.0, 0.8]) + 0.02, rtol=0.02)


@pytest.mark.parametrize("layout", internals().LAYOUTS)
def test_a_grid_takes_no_light_away(layout):
    for contrast in (0.0, 0.5, 1.0):
        mask = internals()._mask(layout, contrast).astype(np.float64)
        np.testing.assert_allclose(mask.mean((0, 1)), 1, atol=1e-6)
        assert mask.min() >= -1e-6
        assert (mask.std() > 0) == (contrast > 0)


def test_blocks_do_not_show(monkeypatch):
    shot = dataclasses.replace(IDEAL, contrast=0.8, rotation=7.0, tilt=(0.05, 0.02))
    whole = moire(picture(), shot, seed=0).image
    monkeypatch.setattr(internals(), "BLOCK", 50)
    np.testing.assert_allclose(moire(picture(), shot, seed=0).image, whole, atol=5e-4)  # positions are rounded


def test_the_sensors_noise():
    light = np.linspace(0, 1, 5)
    np.testing.assert_allclose(sensor_deviation(light, 0.01, 0.02) ** 2, 0.0004 + 0.01 * light, rtol=1e-12)
    assert sensor_deviation(np.array(-1.0), 0.01, 0.02) == 0.02
    # Green is a quarter of the neighbours at red and blue pixels: the noise of the photo is that of its raw values.
    grey = np.full((300, 300, 3), 0.5, np.float32)
    shot = dataclasses.replace(IDEAL, read_noise=0.02, oversampling=1.0, gamma=1.0)
    noise = moire(grey, shot, seed=0).image[..., 1].astype(np.float64)
    assert noise.mean() == pytest.approx(0.5**2.2, rel=0.01)
    assert noise.std() == pytest.approx(0.02 * np.sqrt((1 + 1 / 4) / 2), rel=0.03)


def test_a_seed_repeats():
    first, again, other = (moire(picture(), seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.clean, again.clean)
    assert first.parameters == again.parameters != other.parameters
    same = moire(picture(), first.parameters, seed=9)  # other noise, the same photograph
    np.testing.assert_array_equal(same.clean, first.clean)
    assert 0 < np.abs(same.image - first.image).mean() < 0.1


@pytest.mark.parametrize("shape", [(30, 41), (30, 41, 1), (1, 1, 3), (2, 70, 3)], ids=str)
def test_shapes_stay(shape):
    result = moire(np.random.default_rng(0).random(shape), seed=0)
    assert result.image.shape == result.clean.shape == shape
    assert np.isfinite(result.image).all()
    assert result.image.min() >= 0 and result.image.max() <= 1


def test_what_is_refused():
    with pytest.raises(TypeError, match="uint8"):
        moire(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="image must be"):
        moire(np.zeros((4, 4, 2)))
    for change in [
        {"layout": "oled"},
        {"pitch": 0.0},
        {"oversampling": 100.0},
        {"tilt": (0.9, 0.0)},
        {"contrast": 2.0},
    ]:
        with pytest.raises(ValueError, match=r"degrade\.moire"):
            Moire(**change)
