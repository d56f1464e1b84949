"""Lossy compression."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastrestore.degrade.camera import checked, compressed


@dataclass(frozen=True)
class Jpeg:
    """The compression."""

    quality: int = 30  # libjpeg's, 1 to 100

    def __post_init__(self):
        if not 1 <= self.quality <= 100:
            raise ValueError(f"degrade.jpeg: quality must be from 1 to 100, got {self.quality}")

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Jpeg":
        """Where the blocks and rings are seen."""
        return cls(quality=int(rng.integers(10, 61)))


class JpegResult(NamedTuple):
    image: np.ndarray  # as the file gives it back, float32 of the picture's shape
    clean: np.ndarray  # the picture, float32
    parameters: Jpeg


def jpeg(
    image: np.ndarray, parameters: Jpeg | None = None, *, seed: int | np.random.Generator | None = None
) -> JpegResult:
    """Compresses a picture and reads it again.

    image: float [H, W, C] or [H, W] in [0, 1], C 1 or 3.  parameters: drawn from the seed where not given.
    Raises TypeError for integer images, ValueError for other shapes.
    """
    picture = checked("degrade.jpeg", image)
    if parameters is None:
        parameters = Jpeg.random(np.random.default_rng(seed))
    result = compressed(picture, parameters.quality)
    return JpegResult(result.reshape(image.shape), picture.reshape(image.shape), parameters)
