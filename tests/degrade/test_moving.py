"""Clips in which every frame is degraded anew: a filmed screen, a shaken camera."""

import dataclasses

import cv2
import numpy as np
import pytest

from fastrestore import align, degrade
from fastrestore.degrade import Handheld, Moire, MovingMoire, Shaken
from fastrestore.degrade.preview import COLUMNS, TILE, sheet


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    return cv2.resize(rng.random((30, 40, 3), np.float32), (140, 110), interpolation=cv2.INTER_CUBIC).clip(0, 1)


@pytest.mark.parametrize("kind", degrade.CLIPS)
def test_a_seed_repeats_a_clip(picture, kind):
    first, again, other = (degrade.CLIPS[kind](picture, 3, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.parameters == again.parameters != other.parameters
    assert first.image.shape == first.clean.shape == (3, *first.image.shape[1:3], 3)
    assert first.image.dtype == first.clean.dtype == np.float32
    assert 0 <= first.clean.min() <= first.clean.max() <= 1
    assert np.abs(first.image - first.clean).mean() > 0.005
    grey = degrade.CLIPS[kind](picture[..., :1], 2, seed=1)
    assert grey.image.shape[3] == 1
    with pytest.raises(TypeError, match="float"):
        degrade.CLIPS[kind]((picture * 255).astype(np.uint8), 3)


@pytest.mark.parametrize("kind", degrade.CLIPS)
def test_the_frames_lie_as_their_clean_ones(picture, kind):
    """Against the clean frame itself, the clean frame one pixel aside explains a degraded one worse."""
    made = degrade.CLIPS[kind](picture, 4, seed=3)
    for image, clean in zip(made.image, made.clean, strict=True):
        inner = image[8:-8, 8:-8]
        errors = {
            (dy, dx): np.abs(inner - clean[8 + dy : -8 + dy or None, 8 + dx : -8 + dx or None]).mean()
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        }
        assert min(errors, key=errors.get) == (0, 0)


SCREEN = Moire(rotation=3.0, gain=0.0, read_noise=0.0, quality=0)


def test_the_content_moves_as_the_camera_and_the_moire_by_more(picture):
    flat = np.full((96, 96, 3), 0.5, np.float32)
    motion = Handheld(drift=(1.5, -0.5))
    clean = degrade.moving_moire(picture, 3, MovingMoire(SCREEN, motion)).clean
    outlines = [align.outline(frame) for frame in clean]
    flow = align.flow(outlines[1], outlines[0])[16:-16, 16:-16]
    assert np.abs(np.median(flow.reshape(-1, 2), 0) - (1.5, -0.5)).max() < 0.2
    moire = degrade.moving_moire(flat, 3, MovingMoire(SCREEN, motion)).image
    moved = np.float32([[1, 0, -1.5], [0, 1, 0.5]])
    carried = cv2.warpAffine(moire[0], moved, (96, 96), borderMode=cv2.BORDER_REFLECT_101)
    strength = (moire[1] - moire[1].mean((0, 1)))[8:-8, 8:-8].std()
    assert np.abs(carried - moire[1])[8:-8, 8:-8].std() > 0.5 * strength  # its pattern has not moved with the content


def test_a_camera_that_stands_still_sees_the_same_screen(picture):
    made = degrade.moving_moire(picture, 2, MovingMoire(SCREEN, Handheld(drift=(0.0, 0.0))))
    np.testing.assert_array_equal(made.image[0], made.image[1])
    np.testing.assert_allclose(made.image[0], degrade.moire(picture, SCREEN).image, atol=1e-6)
    noisy = dataclasses.replace(SCREEN, read_noise=0.02)
    made = degrade.moving_moire(picture, 2, MovingMoire(noisy, Handheld(drift=(0.0, 0.0))), seed=0)
    assert not np.array_equal(made.image[0], made.image[1])
    np.testing.assert_array_equal(made.clean[0], made.clean[1])


def test_coming_nearer_makes_the_screens_pixels_larger():
    moving = MovingMoire(SCREEN, Handheld(zoom=0.01))
    near, far = moving.frame(-4), moving.frame(4)
    assert near.pitch * near.zoom == pytest.approx(far.pitch * far.zoom)  # screen pixels a picture pixel: the screen's
    assert near.pitch > far.pitch


STILL = Shaken(motion=Handheld(drift=(0.0, 0.0)), gamma=1.0, sigma=0.0)


def test_each_frame_is_blurred_in_its_own_way(picture):
    made = degrade.shaken(picture, 12, 96, dataclasses.replace(STILL, shake=(0.5, 9.0)), seed=4)
    detail = [np.abs(cv2.Laplacian(frame, cv2.CV_32F)).mean() for frame in made.image]
    order = np.argsort(made.extents)
    assert min(detail[i] for i in order[:3]) > 1.5 * max(detail[i] for i in order[-3:])
    np.testing.assert_allclose(made.clean, np.broadcast_to(made.clean[:1], made.clean.shape), atol=1e-6)
    assert made.extents.min() >= 0.5
    assert made.extents.max() <= 9
    means = made.image.mean((1, 2)), made.clean.mean((1, 2))
    np.testing.assert_allclose(*means, atol=0.01)  # the light is kept


def test_an_open_shutter_blurs_along_the_drift(picture):
    p = dataclasses.replace(STILL, motion=Handheld(drift=(8.0, 0.0)), shake=(0.01, 0.01), exposure=(1.0, 1.0))
    made = degrade.shaken(picture, 2, 64, p, seed=0)
    across, down = ([np.abs(np.diff(part, axis=axis)).mean() for part in (made.image, made.clean)] for axis in (2, 1))
    assert across[0] < 0.65 * across[1]
    assert down[0] > 0.65 * down[1]
    assert (made.exposures == 1).all()
    closed = degrade.shaken(picture, 2, 64, dataclasses.replace(p, exposure=(0.0, 0.0)), seed=0)
    np.testing.assert_allclose(closed.image, closed.clean, atol=2e-3)


def test_out_of_range_is_refused():
    for wrong in ({"shake": (0.0, 2.0)}, {"shake": (3.0, 2.0)}, {"exposure": (0.5, 1.2)}, {"gamma": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Shaken(**wrong)


def test_the_preview_shows_clips(picture):
    assert sheet(picture, ["moving-moire", "shaken"], seed=0).shape == (2 * 110, 140 * (COLUMNS + 1), 3)
    large = sheet(np.kron(picture, np.ones((3, 3, 1), np.float32)), ["shaken"])
    assert large.shape == (TILE, TILE * (COLUMNS + 1), 3)
