"""Low-dose computed tomography: fewer photons, and the streaks that reconstruction makes of their noise.

The picture is taken for a slice of attenuation: projected along parallel rays, the photons of each ray counted
(Poisson, with the electronics' noise), the logarithm taken and the slice reconstructed by filtered back-projection.
What the noise of the counts makes of the reconstruction is added to the picture itself, so that nothing else changes.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from fastrestore.degrade.camera import checked


@dataclass(frozen=True)
class LowDose:
    """The scan."""

    photons: float = 1e5  # that leave the source for each ray
    attenuation: float = 4.0  # of a ray through the middle of a white picture, as a natural logarithm
    electronic: float = 5.0  # deviation of the detector's own noise, in photons
    angles: int = 180  # projections over half a turn

    def __post_init__(self):
        if not (self.photons >= 1 and self.attenuation > 0 and self.electronic >= 0 and 2 <= self.angles <= 4096):
            raise ValueError("degrade.low_dose: photons >= 1, attenuation > 0, electronic >= 0, 2 to 4096 angles")

    @classmethod
    def random(cls, rng: np.random.Generator) -> "LowDose":
        """From a quarter to a hundredth of a usual dose."""
        return cls(
            photons=10 ** rng.uniform(4.2, 5.4),
            attenuation=rng.uniform(3.0, 5.0),
            electronic=rng.uniform(0.0, 10.0),
        )


class LowDoseResult(NamedTuple):
    image: np.ndarray  # the noisy slice, float32 of the picture's shape, not clipped
    clean: np.ndarray  # the picture, float32
    parameters: LowDose


def low_dose(
    image: np.ndarray, parameters: LowDose | None = None, *, seed: int | np.random.Generator | None = None
) -> LowDoseResult:
    """Adds the noise of a low-dose CT scan; colours are scanned one by one.

    image: float [H, W, C] or [H, W] in [0, 1], C 1 or 3.  parameters: drawn from the seed where not given.  seed: an
    integer makes the result repeatable.  Raises TypeError for integer images, ValueError for other shapes.
    """
    picture = checked("degrade.low_dose", image)
    rng = np.random.default_rng(seed)
    if parameters is None:
        parameters = LowDose.random(rng)
    noise = [_noise(picture[..., c], parameters, rng) for c in range(picture.shape[2])]
    return LowDoseResult((picture + np.stack(noise, 2)).reshape(image.shape), picture.reshape(image.shape), parameters)


def _noise(plane: np.ndarray, p: LowDose, rng: np.random.Generator) -> np.ndarray:
    """The reconstruction of the error of the projections, float32 [H, W]."""
    height, width = plane.shape
    side = math.ceil(math.hypot(height, width)) + 2  # turned by any angle, the picture stays inside
    scale = p.attenuation / side  # attenuation of a white pixel
    turns = [_turn((height, width), side, math.pi * i / p.angles) for i in range(p.angles)]
    square = (side, side)
    rays = np.stack([cv2.warpAffine(plane, turn, square, flags=cv2.INTER_LINEAR).sum(0) for turn in turns])
    depth = np.maximum(rays, 0).astype(np.float64) * scale
    expected = p.photons * np.exp(-depth)
    counted = rng.poisson(expected) + p.electronic * rng.standard_normal(expected.shape)
    error = np.log(expected / np.maximum(counted, 1)) / scale
    error = _ramp_filtered(error)
    total = np.zeros((height, width), np.float32)
    for turn, row in zip(turns, error.astype(np.float32), strict=True):
        smeared = np.broadcast_to(row, square)
        back = cv2.warpAffine(
            np.ascontiguousarray(smeared), turn, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        total += back
    return total * np.float32(math.pi / p.angles)


def _turn(size: tuple[int, int], side: int, angle: float) -> np.ndarray:
    """From the picture to the square in which rays run down: a rotation about the middle, float64 [2, 3]."""
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = np.array([[cos, -sin], [sin, cos]])
    centre = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return np.hstack([matrix, ((side - 1) / 2 - matrix @ centre)[:, None]])


def _ramp_filtered(rays: np.ndarray) -> np.ndarray:
    """Ram-Lak filter of each row, by its samples in space (Kak and Slaney, 1988, chapter 3)."""
    length = rays.shape[1]
    size = 1 << math.ceil(math.log2(2 * length))
    n = np.minimum(np.arange(size), size - np.arange(size))
    odd = n % 2 == 1
    kernel = np.where(odd, -1 / (math.pi * np.maximum(n, 1)) ** 2, 0.0)
    kernel[0] = 0.25
    return np.fft.irfft(np.fft.rfft(rays, size) * np.fft.rfft(kernel).real, size)[:, :length]
