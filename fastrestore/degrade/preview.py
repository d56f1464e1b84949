"""Degradations to look at: a sheet with a row for each kind."""

import cv2
import numpy as np

from fastrestore import degrade

TILE = 256  # pixels, the side of a part
COLUMNS = 4  # seeds


def sheet(picture: np.ndarray, kinds: list[str], seed: int = 0) -> np.ndarray:
    """uint8 [rows, columns, 3]: the clean part and COLUMNS degraded ones, seeds counted up from seed; or, of a kind of
    clips, as many frames of one.

    picture: float32 [H, W, 1 or 3] in [0, 1]; its middle is taken.
    """
    top, left = (max(0, (size - TILE) // 2) for size in picture.shape[:2])
    part = picture[top : top + TILE, left : left + TILE]
    part = np.ascontiguousarray(np.broadcast_to(part, (*part.shape[:2], 3)), np.float32)
    rows = []
    for kind in kinds:
        if kind in degrade.CLIPS:
            degraded = degrade.CLIPS[kind](part, COLUMNS, seed=seed).image
        else:
            degraded = [degrade.KINDS[kind](part, seed=seed + i).image for i in range(COLUMNS)]
        rows.append(np.concatenate([part, *(_filled(one, part) for one in degraded)], 1))
    return np.rint(np.concatenate(rows).clip(0, 1) * 255).astype(np.uint8)


def _filled(picture: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The picture, with grey around it where it is smaller than the part."""
    grey = np.full_like(part, 0.5)
    top, left = ((size - own) // 2 for size, own in zip(part.shape, picture.shape[:2], strict=False))
    grey[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return grey


def chart() -> np.ndarray:
    """A test chart: a star of lines, text, a ramp, patches of colour.  float32 [TILE, TILE, 3]."""
    y, x = np.mgrid[0:TILE, 0:TILE] / (TILE - 1)
    angle = np.arctan2(y - 0.35, x - 0.35)
    star = 0.5 + 0.4 * np.sin(24 * angle)
    picture = np.repeat(star[..., None], 3, 2)
    side = TILE // 8
    colours = [(0.8, 0.2, 0.2), (0.2, 0.6, 0.2), (0.2, 0.3, 0.8), (0.9, 0.8, 0.2), (0.9, 0.7, 0.6), (0.9, 0.9, 0.9)]
    for i, colour in enumerate(colours):
        picture[i * side : (i + 1) * side, -side:] = colour
    picture[-2 * side :] = x[-2 * side :, :, None]
    samples = np.rint(picture * 255).astype(np.uint8)
    cv2.putText(samples, "fastrestore", (8, TILE - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (230, 25, 25), 2, cv2.LINE_AA)
    return samples.astype(np.float32) / 255
