"""Turns and averaged frames: blur that differs over the picture, light that adds up in linear values."""

import dataclasses

import numpy as np
import pytest

from fastrestore.degrade import Motion, Turn, motion, turn

PLAIN = Turn(gamma=1.0, sigma=0.0)


def points(side=101, step=20):
    """Single bright pixels on black."""
    picture = np.zeros((side, side), np.float32)
    picture[step // 2 :: step, step // 2 :: step] = 1
    return picture


def spread(blurred, y, x, reach=10):
    """Deviation of the light around a point, in pixels."""
    part = blurred[y - reach : y + reach + 1, x - reach : x + reach + 1].astype(np.float64).clip(0, None)
    v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    part = part / part.sum()
    centre = (part * v).sum(), (part * u).sum()
    return np.sqrt((part * ((v - centre[0]) ** 2 + (u - centre[1]) ** 2)).sum())


def test_a_turn_blurs_the_corners_most_and_the_middle_least():
    parameters = dataclasses.replace(PLAIN, size=0.01, angle=6.0)
    result = turn(points(), parameters, seed=0)
    middle, edge, corner = (spread(result.image, y, x) for y, x in ((50, 50), (50, 90), (90, 90)))
    assert middle < 0.7 < edge < corner
    # A point at a distance r moves by r times the roll, in radians.
    expected = np.deg2rad(result.roll.std()) * 40
    assert edge == pytest.approx(expected, rel=0.25)


def test_without_an_angle_it_is_the_same_everywhere():
    result = turn(points(), dataclasses.replace(PLAIN, size=8.0, angle=0.0), seed=1)
    np.testing.assert_allclose(result.image[40:60, 40:60], result.image[60:80, 20:40], atol=1e-5)
    assert np.all(result.roll == 0)
    assert spread(result.image, 50, 50) == pytest.approx(np.sqrt((np.abs(result.way) ** 2).mean()), rel=0.15)


def test_light_is_kept_and_adds_up_in_linear_values():
    flat = np.full((30, 40, 3), 0.4, np.float32)
    for gamma in (1.0, 2.2):
        result = turn(flat, dataclasses.replace(PLAIN, gamma=gamma, size=9.0), seed=2)
        np.testing.assert_allclose(result.image, 0.4, atol=1e-5)
    result = turn(points(), dataclasses.replace(PLAIN, size=4.0, angle=0.0), seed=3)
    assert result.image[41:60, 41:60].sum() == pytest.approx(1, rel=0.02)


def test_a_seed_repeats_a_turn():
    picture = np.random.default_rng(0).random((20, 31, 3))
    first, again, other = (turn(picture, seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.parameters == again.parameters != other.parameters
    assert first.image.shape == first.clean.shape == picture.shape
    assert turn(picture[:1, :1, 0], seed=0).image.shape == (1, 1)


def frames(count=9):
    """A bright square that moves by a pixel a frame: [count, 12, 30]."""
    made = np.zeros((count, 12, 30), np.float32)
    for i, frame in enumerate(made):
        frame[4:8, 5 + i : 10 + i] = 1
    return made


def test_motion_is_the_mean_of_the_frames_in_linear_light():
    parameters = Motion(first=2, count=3, gamma=2.0, sigma=0.0)
    result = motion(frames(), parameters)
    np.testing.assert_allclose(result.image**2, frames()[2:5].mean(0), atol=1e-6)
    np.testing.assert_array_equal(result.clean, frames()[3])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 30])
def test_drawn_motion_fits_the_frames(count):
    drawn = [motion(frames(count)[..., None], seed=seed).parameters for seed in range(60)]
    assert all(p.count % 2 == 1 and p.first + p.count <= count for p in drawn)
    assert {p.count for p in drawn} == ({1} if count < 3 else {3} if count < 5 else {3, 5, 7, 9, 11, 13})
    colour = np.repeat(frames(count)[..., None], 3, -1)
    first, again = (motion(colour, seed=1).image for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == colour.shape[1:]


def test_what_is_refused():
    with pytest.raises(TypeError, match="uint8"):
        motion(np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="frames must be"):
        motion(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="5 frames from number 2 on are wanted, 6 there"):
        motion(np.zeros((6, 4, 4)), Motion(first=2, count=5))
    with pytest.raises(TypeError, match="uint8"):
        turn(np.zeros((4, 4), np.uint8))
    for change in [{"size": 0.0}, {"angle": -1.0}, {"angle": 90.0}, {"sigma": -1.0}, {"quality": 101}]:
        with pytest.raises(ValueError, match=r"degrade\.turn"):
            Turn(**change)
    for change in [{"count": 2}, {"count": 0}, {"first": -1}, {"gamma": 0.0}]:
        with pytest.raises(ValueError, match=r"degrade\.motion"):
            Motion(**change)
