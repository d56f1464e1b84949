"""Augmentation: parts, turns and mirrors of training pictures, and mixes of two of them."""

import numpy as np


def crop(rng: np.random.Generator, pictures: np.ndarray, side: int) -> np.ndarray:
    """A random square part, turned and mirrored at random; all pictures alike.  pictures: [..., H, W, C]."""
    y = rng.integers(pictures.shape[-3] - side + 1)
    x = rng.integers(pictures.shape[-2] - side + 1)
    part = np.rot90(pictures[..., y : y + side, x : x + side, :], rng.integers(4), (-3, -2))
    return part[..., ::-1, :] if rng.integers(2) else part


def cutmix(rng: np.random.Generator, pairs: np.ndarray, share: float) -> np.ndarray:
    """Puts a rectangle of another pair into some of a batch's pairs (Yun et al., 2019; Yoo et al., 2020, for
    restoration), so that a model sees two strengths of degradation side by side.

    pairs: [N, K, H, W, C], each picture of a pair alike.  share: of the batch, 0 to 1.  Returns a new array.
    """
    mixed = pairs.copy()
    count, _, height, width, _ = pairs.shape
    chosen = np.flatnonzero(rng.random(count) < share)
    others = rng.permutation(count)
    for i in chosen:
        size = [max(1, round(length * rng.uniform(0.2, 0.7))) for length in (height, width)]
        y, x = (rng.integers(length - part + 1) for length, part in zip((height, width), size, strict=True))
        mixed[i, :, y : y + size[0], x : x + size[1]] = pairs[others[i], :, y : y + size[0], x : x + size[1]]
    return mixed
