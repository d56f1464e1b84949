"""Sensor noise, low-dose CT, JPEG: what they keep, and how strong their noise is against its formula."""

import dataclasses
import importlib

import numpy as np
import pytest

from fastrestore.degrade import KINDS, Jpeg, LowDose, Sensor, jpeg, low_dose, noise, sensor

ct = importlib.import_module("fastrestore.degrade.ct")
pipeline = importlib.import_module("fastrestore.degrade.sensor")
QUIET = Sensor(gain=0.0, read_noise=0.0)


def picture(height=40, width=52, channels=3):
    y, x = np.mgrid[0:height, 0:width]
    waves = 0.5 + 0.35 * np.sin(x / 5 + np.arange(channels)[:, None, None]) * np.cos(y / 7)
    return np.ascontiguousarray(np.moveaxis(waves, 0, 2), np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(33, 42), (33, 42, 1), (24, 31, 3), (1, 1, 3)], ids=str)
def test_every_kind_keeps_shapes_repeats_and_tells_its_parameters(kind, shape):
    source = np.random.default_rng(0).random(shape)
    first, again, other = (KINDS[kind](source, seed=seed) for seed in (1, 1, 2))
    assert first.image.shape == first.clean.shape == shape
    assert first.image.dtype == first.clean.dtype == np.float32
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.clean, again.clean)
    assert first.parameters == again.parameters != other.parameters
    assert dataclasses.asdict(first.parameters)
    assert np.isfinite(first.image).all()
    with pytest.raises(TypeError):
        KINDS[kind](np.zeros((8, 8), np.uint8))


def test_unprocessing_and_processing_are_inverse():
    """Of a smooth picture: what the colour filters did not see is filled in again."""
    for seed in range(3):
        camera = dataclasses.replace(Sensor.random(np.random.default_rng(seed)), gain=0.0, read_noise=0.0, quality=0)
        source = 0.1 + 0.6 * picture(80, 90)
        result = sensor(source, camera, seed=0)
        np.testing.assert_array_equal(result.image, result.clean)
        assert np.abs(result.clean - source).mean() < 0.006
        assert np.abs((result.clean - source).mean((0, 1))).max() < 0.001


def test_the_raw_noise_has_the_stated_variance(monkeypatch):
    seen = []
    monkeypatch.setattr(pipeline, "process", lambda raw, p: seen.append(raw) or np.zeros((*raw.shape, 3), np.float32))
    camera = Sensor(gain=0.003, read_noise=0.01)
    sensor(np.full((500, 500, 3), 0.6, np.float32), camera, seed=0)
    noisy, clean = (raw.astype(np.float64) for raw in seen)
    for y, x in ((0, 0), (0, 1), (1, 1)):  # red, green, blue
        level = clean[y::2, x::2]
        assert level.std() < 1e-6
        wanted = 0.003 * level.mean() + 0.01**2
        error = (noisy - clean)[y::2, x::2]
        assert error.var() == pytest.approx(wanted, rel=4 * np.sqrt(2 / error.size))


def test_camera_noise_is_coloured_and_stronger_in_the_dark():
    camera = Sensor(gain=0.001, read_noise=0.01)
    spread = []
    for level in (0.15, 0.7):
        result = sensor(np.full((200, 200, 3), level, np.float32), camera, seed=0)
        error = (result.image - result.clean).astype(np.float64)[..., 0]
        spread.append(error.std())
        neighbours = np.corrcoef(error[:, :-1].ravel(), error[:, 1:].ravel())[0, 1]
        assert neighbours > 0.2  # white noise: 0
    assert spread[0] > 1.3 * spread[1]


def test_poisson_gaussian_noise_of_float_images():
    ramp = np.repeat(np.linspace(0, 1, 5), 400_000)
    error = (noise(ramp, 5.0, gain=0.01, seed=1) - ramp).reshape(5, -1)
    wanted = (5 / 255) ** 2 + 0.01 * np.linspace(0, 1, 5)
    np.testing.assert_allclose(error.var(1), wanted, rtol=4 * np.sqrt(2 / 400_000))


def test_a_ramp_filtered_projection_gives_the_slice_back():
    """Filtered back-projection of the exact projections of a disc: its value inside, nothing outside."""
    side, angles, radius = 101, 180, 30
    offset = np.arange(side) - side // 2
    chords = 2 * np.sqrt(np.maximum(radius**2 - offset**2, 0))
    rows = ct._ramp_filtered(np.repeat(chords[None], angles, 0))
    assert rows[0, side // 2] * np.pi == pytest.approx(1, abs=0.05)  # the middle: every angle gives the same sample


def test_dose_and_noise():
    """Half the variance for twice the photons, where electronics add nothing."""
    flat = np.full((64, 64), 0.3, np.float32)
    scan = LowDose(photons=2e4, electronic=0.0, angles=90)
    weak, strong = (
        np.var([low_dose(flat, dataclasses.replace(scan, photons=n), seed=s).image - flat for s in range(4)])
        for n in (2e4, 8e4)
    )
    assert weak / strong == pytest.approx(4, rel=0.15)


def test_ct_noise_is_streaks_without_bias():
    flat = np.full((64, 64), 0.3, np.float32)
    error = (low_dose(flat, LowDose(photons=5e4), seed=0).image - flat).astype(np.float64)
    assert abs(error.mean()) < 0.2 * error.std()
    spectrum = np.abs(np.fft.fft2(error)) ** 2
    assert spectrum[8:24, 8:24].mean() > 2 * spectrum[:3, :3].mean()  # the ramp filter: little at low frequencies


def test_jpeg_is_the_librarys():
    source = picture()
    qualities = [np.abs(jpeg(source, Jpeg(quality)).image - source).mean() for quality in (10, 50, 95)]
    assert qualities[0] > qualities[1] > qualities[2] > 0
    assert len(np.unique(np.rint(jpeg(source, Jpeg(50)).image * 255) - jpeg(source, Jpeg(50)).image * 255)) < 20


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sensor(gain=-1.0),
        lambda: Sensor(cameras=(0.0, 0.0, 0.0, 0.0)),
        lambda: Sensor(quality=101),
        lambda: LowDose(photons=0.0),
        lambda: LowDose(angles=1),
        lambda: Jpeg(quality=0),
    ],
)
def test_parameters_out_of_range(make):
    with pytest.raises(ValueError, match=r"degrade\."):
        make()
