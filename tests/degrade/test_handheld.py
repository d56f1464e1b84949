"""Clips from still pictures."""

import dataclasses

import cv2
import numpy as np
import pytest

from fastrestore import align, degrade
from fastrestore.degrade import Handheld


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    return cv2.resize(rng.random((40, 50, 3), np.float32), (200, 160), interpolation=cv2.INTER_CUBIC).clip(0, 1)


STILL = Handheld(drift=(0.0, 0.0))


def test_a_clip_is_repeatable_and_in_range(picture):
    a, b = (degrade.handheld(picture, 6, 64, seed=3) for _ in range(2))
    assert np.array_equal(a.image, b.image)
    assert a.parameters == b.parameters
    assert a.clean.shape == (6, 64, 64, 3)
    assert a.clean.dtype == np.float32
    assert 0 <= a.clean.min() <= a.clean.max() <= 1
    assert not np.array_equal(a.clean, degrade.handheld(picture, 6, 64, seed=4).clean)


@pytest.mark.parametrize("drift", [(3.0, 0.0), (-1.5, 2.25)], ids=str)
def test_the_content_moves_as_the_parameters_say(picture, drift):
    made = degrade.handheld(picture, 3, 96, dataclasses.replace(STILL, drift=drift), seed=0)
    outlines = [align.outline(frame) for frame in made.clean]
    flow = align.flow(outlines[1], outlines[0])[24:-24, 24:-24]
    assert np.abs(np.median(flow.reshape(-1, 2), 0) - drift).max() < 0.2


def test_a_still_camera_and_whole_pixels_are_exact(picture):
    made = degrade.handheld(picture, 3, 64, STILL, seed=0).clean
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[1], made[2])
    moved = degrade.handheld(picture, 3, 64, dataclasses.replace(STILL, drift=(2.0, 1.0)), seed=0).clean
    np.testing.assert_allclose(moved[1][:-1, :-2], moved[0][1:, 2:], atol=2e-3)


def test_an_open_shutter_blurs_along_the_motion_and_keeps_the_light(picture):
    parameters = dataclasses.replace(STILL, drift=(8.0, 0.0), exposure=1.0)
    made = degrade.handheld(picture, 3, 96, parameters, seed=0)
    across = [np.abs(np.diff(part, axis=2)).mean() for part in (made.image, made.clean)]
    assert across[0] < 0.6 * across[1]
    assert ((made.image**2.2).mean() / (made.clean**2.2).mean()) == pytest.approx(1, abs=0.02)
    still = degrade.handheld(picture, 2, 64, dataclasses.replace(STILL, exposure=1.0), seed=0)
    np.testing.assert_allclose(still.image, still.clean, atol=1e-4)


def test_a_visitor_passes(picture):
    parameters = dataclasses.replace(STILL, visitor=0.4, visit=(5.0, 0.0))
    with_it, without = (degrade.handheld(picture, 4, 80, p, seed=0).clean for p in (parameters, STILL))
    covered = (np.abs(with_it - without).max(3) > 1e-3).mean((1, 2))
    assert (covered > 0.03).all()
    assert (covered < 0.2).all()
    assert not np.array_equal(with_it[0], with_it[3])


def test_what_is_refused(picture):
    with pytest.raises(TypeError, match="float"):
        degrade.handheld((picture * 255).astype(np.uint8), 3, 32)
    for wrong in ({"exposure": 1.5}, {"period": 0.0}, {"scale": 9.0}, {"zoom": 0.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Handheld(**wrong)
