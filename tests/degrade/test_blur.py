"""Blur: kernels with the moments they should have, convolution in linear light, noise of the stated deviation."""

import dataclasses

import numpy as np
import pytest

from fastrestore.degrade import Blur, blur, make_kernel

PLAIN = Blur(gamma=1.0, sigma=0.0, quality=0)  # nothing but the kernel


def picture(height=40, width=52, channels=3):
    return np.random.default_rng(5).random((height, width, channels), np.float32)


def moments(kernel):
    """Mean and variance along y and x, in float64."""
    kernel = kernel.astype(np.float64)
    y, x = (np.arange(size) - size // 2 for size in kernel.shape)
    rows, columns = kernel.sum(1), kernel.sum(0)
    mean = (rows @ y, columns @ x)
    return mean, (rows @ y**2 - mean[0] ** 2, columns @ x**2 - mean[1] ** 2)


@pytest.mark.parametrize("kind", ["shake", "defocus", "linear"])
@pytest.mark.parametrize("seed", range(6))
def test_kernels_are_odd_positive_centred_and_sum_to_one(kind, seed):
    parameters = dataclasses.replace(Blur.random(np.random.default_rng(seed)), kind=kind)
    kernel = make_kernel(parameters, seed)
    assert kernel.shape[0] % 2 == kernel.shape[1] % 2 == 1
    assert kernel.min() >= 0
    assert kernel.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
    assert np.abs(moments(kernel)[0]).max() < 1e-4
    np.testing.assert_array_equal(kernel, make_kernel(parameters, seed))


def test_a_discs_variance_is_a_quarter_of_its_squared_radius():
    for diameter in (3.0, 7.3, 20.0):
        _, (y, x) = moments(make_kernel(Blur(kind="defocus", size=diameter)))
        assert y == pytest.approx(x, rel=1e-6)
        assert y == pytest.approx((diameter / 2) ** 2 / 4, rel=0.05)


def test_a_line_points_where_it_should():
    for angle, along, across in ((0, 1, 0), (90, 0, 1)):
        variance = moments(make_kernel(Blur(kind="linear", size=15.0, angle=angle)))[1]
        assert variance[across] == pytest.approx(0, abs=0.3)  # a pixel's width
        assert variance[along] == pytest.approx(15**2 / 12, rel=0.05)
    kernel = make_kernel(Blur(kind="linear", size=9.0, angle=45))
    assert kernel[kernel.shape[0] // 2 + 2, kernel.shape[1] // 2 + 2] > 0.05 > kernel[2, -3]


def test_a_trajectory_fills_its_size_and_trembles_with_anxiety():
    extents, lengths = [], []
    for anxiety in (0.0, 0.05):
        kernel = make_kernel(Blur(kind="shake", size=19.0, anxiety=anxiety), 1)
        filled = [np.flatnonzero(kernel.sum(axis)) for axis in (0, 1)]
        extents.append(max(int(f[-1] - f[0]) for f in filled))
        lengths.append((kernel > 0).sum())
    assert all(18 <= extent <= 21 for extent in extents)
    assert lengths[1] > 1.3 * lengths[0]


def test_it_convolves():
    point = np.zeros((31, 31), np.float32)
    point[15, 12] = 1
    kernel = np.array([[0, 1, 2], [0, 0, 0], [0, 0, 5]], np.float64)
    result = blur(point, kernel, PLAIN)
    np.testing.assert_allclose(result.image[14:17, 11:14], kernel / 8, atol=1e-7)
    assert result.image.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(result.kernel, kernel / 8, atol=1e-7)


def test_the_border_is_mirrored():
    flat = np.full((9, 30), 0.4, np.float32)
    np.testing.assert_allclose(
        blur(flat, parameters=dataclasses.replace(PLAIN, size=21.0), seed=3).image, 0.4, atol=1e-6
    )


def test_light_adds_up_in_linear_values():
    halves = np.zeros((20, 20), np.float32)
    halves[:, ::2] = 1
    result = blur(halves, np.ones((1, 3)), dataclasses.replace(PLAIN, gamma=2.2)).image[5:15, 5:15]
    assert {round(float(value) ** 2.2, 4) for value in np.unique(result.round(5))} == {0.3333, 0.6667}


def test_the_noise_has_the_stated_deviation():
    flat = np.full((700, 700), 0.5, np.float32)
    result = blur(flat, np.ones((1, 1)), dataclasses.replace(PLAIN, sigma=5.0), seed=1)
    noise = result.image.astype(np.float64) - 0.5
    assert noise.std() * 255 == pytest.approx(5, rel=4 / np.sqrt(2 * noise.size))
    assert abs(noise.mean()) * 255 < 4 * 5 / np.sqrt(noise.size)


def test_a_seed_repeats_and_the_parameters_say_what_was_done():
    first, again, other = (blur(picture(), seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.parameters == again.parameters != other.parameters
    assert not np.array_equal(first.image, other.image)
    np.testing.assert_array_equal(first.clean, picture())
    quiet = dataclasses.replace(first.parameters, sigma=0.0, quality=0)
    without = blur(picture(), first.kernel, quiet).image
    assert np.abs(without - first.image).mean() < 0.05


@pytest.mark.parametrize("shape", [(30, 41), (30, 41, 1), (30, 41, 3)], ids=str)
def test_shapes_stay(shape):
    source = np.random.default_rng(0).random(shape)
    result = blur(source, parameters=Blur(quality=80), seed=0)
    assert result.image.shape == result.clean.shape == shape
    assert result.image.dtype == np.float32


def test_what_is_refused():
    with pytest.raises(TypeError, match="uint8"):
        blur(np.zeros((4, 4), np.uint8))
    for shape in [(4,), (0, 4), (4, 4, 2), (1, 4, 4, 3)]:
        with pytest.raises(ValueError, match="image must be"):
            blur(np.zeros(shape))
    for kernel in [np.ones((2, 3)), np.zeros((3, 3)), -np.ones((3, 3)), np.full((3, 3), np.nan), np.ones(3)]:
        with pytest.raises(ValueError, match="kernel"):
            blur(picture(), kernel)
    for change in [
        {"kind": "zoom"},
        {"size": 0.0},
        {"size": 1e9},
        {"sigma": -1.0},
        {"exposure": 0.0},
        {"quality": 101},
    ]:
        with pytest.raises(ValueError, match=r"degrade\.blur"):
            Blur(**change)
