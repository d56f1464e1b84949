"""Blur that no single kernel makes: of a camera that turns while the shutter is open, and of frames in which things
move, averaged (Nah et al., 2017)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from fastrestore.degrade.blur import Blur, trajectory
from fastrestore.degrade.camera import checked, compressed


@dataclass(frozen=True)
class Turn:
    """How a shaken camera moved, and what it added."""

    size: float = 6.0  # pixels: the larger side of the shift's trajectory
    angle: float = 1.0  # degrees that the camera turns about the picture's middle, between its extremes
    anxiety: float = 0.01  # as Blur's
    gamma: float = 2.2  # of the picture: light adds up in linear values; 1: the picture is linear
    sigma: float = 0.5  # of the noise after the blur, in 0-255 units
    quality: int = 0  # of the JPEG; 0: not compressed

    def __post_init__(self):
        checks = {
            "size": 0 < self.size <= 255,
            "angle": 0 <= self.angle <= 45,
            "anxiety": self.anxiety >= 0,
            "gamma": self.gamma > 0,
            "sigma": self.sigma >= 0,
            "quality": 0 <= self.quality <= 100,
        }
        _refuse("turn", checks)

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Turn":
        """Slight to medium: corners of a picture of some 400 pixels are blurred over up to 12."""
        return cls(
            size=rng.uniform(1, 6),
            angle=rng.uniform(0.2, 2.0),
            anxiety=10 ** rng.uniform(-3, -1.5),
            sigma=rng.uniform(0.0, 0.8),
            quality=int(rng.integers(90, 100)) if rng.random() < 0.15 else 0,
        )


class TurnResult(NamedTuple):
    image: np.ndarray  # the blurred picture, float32 of the picture's shape, not clipped unless compressed
    clean: np.ndarray  # the picture itself, float32
    parameters: Turn
    way: np.ndarray  # where the picture's middle was, over time: complex [n], pixels, x + iy, of mean 0
    roll: np.ndarray  # how far the camera was turned, over the same times: [n], degrees, of mean 0


def turn(
    image: np.ndarray, parameters: Turn | None = None, *, seed: int | np.random.Generator | None = None
) -> TurnResult:
    """Blurs a picture as a camera does that shifts and turns: differently at each place.

    It is the mean, in linear light, of the picture as seen from each point of the way (Whyte et al., 2012, for turns
    about the optical axis); beyond its borders the picture is taken as mirrored.

    image: float [H, W, C] or [H, W] in [0, 1], C 1 or 3.  parameters: drawn from the seed where not given.  seed: an
    integer makes the result repeatable.
    Raises TypeError for integer images, ValueError for other shapes.
    """
    picture = checked("degrade.turn", image)
    rng = np.random.default_rng(seed)
    p = Turn.random(rng) if parameters is None else parameters
    height, width = picture.shape[:2]
    walk = Blur(size=p.size, anxiety=p.anxiety)
    furthest = p.size + math.radians(p.angle) * math.hypot(height, width) / 2  # that a corner moves, about
    points = np.linspace(0, 1999, max(8, math.ceil(3 * furthest))).round().astype(int)
    way = trajectory(rng, walk)[points]
    roll = trajectory(rng, walk)[points].real
    way, roll = way - way.mean(), roll * (p.angle / max(np.ptp(roll), 1e-12))
    roll = roll - roll.mean()
    light = picture.clip(0, None) ** np.float32(p.gamma)
    border = cv2.BORDER_REFLECT if min(height, width) > 1 else cv2.BORDER_REPLICATE
    seen = np.zeros_like(light)
    for place, degrees in zip(way, roll, strict=True):
        view = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
        view[:, 2] += place.real, place.imag
        seen += cv2.warpAffine(light, view, (width, height), flags=cv2.INTER_LINEAR, borderMode=border).reshape(
            light.shape
        )
    blurred = _finished(seen / len(way), p.gamma, p.sigma, p.quality, rng)
    return TurnResult(blurred.reshape(image.shape), picture.reshape(image.shape), p, way, roll)


@dataclass(frozen=True)
class Motion:
    """Which frames the shutter was open for, and what the camera added."""

    first: int = 0
    count: int = 7  # frames that are averaged; odd, so that one is in the middle
    gamma: float = 2.2  # of the frames: light adds up in linear values; 1: they are linear
    sigma: float = 0.5  # of the noise after the blur, in 0-255 units
    quality: int = 0  # of the JPEG; 0: not compressed

    def __post_init__(self):
        checks = {
            "first": self.first >= 0,
            "count": self.count > 0 and self.count % 2 == 1,
            "gamma": self.gamma > 0,
            "sigma": self.sigma >= 0,
            "quality": 0 <= self.quality <= 100,
        }
        _refuse("motion", checks)

    @classmethod
    def random(cls, rng: np.random.Generator, frames: int) -> "Motion":
        """Three to thirteen of the frames that there are, in a row."""
        count = 2 * int(rng.integers(1, 1 + max(1, min(6, (frames - 1) // 2)))) + 1 if frames > 2 else 1
        return cls(
            first=int(rng.integers(frames - count + 1)),
            count=count,
            sigma=rng.uniform(0.0, 0.8),
            quality=int(rng.integers(90, 100)) if rng.random() < 0.15 else 0,
        )


class MotionResult(NamedTuple):
    image: np.ndarray  # the blurred picture, float32 [H, W, C] or [H, W], not clipped unless compressed
    clean: np.ndarray  # the frame in the middle of those averaged, float32
    parameters: Motion


def motion(
    frames: np.ndarray, parameters: Motion | None = None, *, seed: int | np.random.Generator | None = None
) -> MotionResult:
    """Averages frames of a quick camera, in linear light, to what a slow one would have seen.

    frames: float [T, H, W, C] or [T, H, W] in [0, 1], C 1 or 3.  parameters: drawn from the seed where not given.
    seed: an integer makes the result repeatable.
    Raises TypeError for integer frames, ValueError for other shapes and for fewer frames than are wanted.
    """
    if frames.ndim not in (3, 4) or len(frames) == 0:
        raise ValueError(f"degrade.motion: frames must be [T, H, W] or [T, H, W, 1 or 3], got {list(frames.shape)}")
    rng = np.random.default_rng(seed)
    p = Motion.random(rng, len(frames)) if parameters is None else parameters
    if p.first + p.count > len(frames):
        raise ValueError(f"degrade.motion: {p.count} frames from number {p.first} on are wanted, {len(frames)} there")
    pictures = [checked("degrade.motion", frame) for frame in frames[p.first : p.first + p.count]]
    light = np.mean([picture.clip(0, None) ** np.float32(p.gamma) for picture in pictures], axis=0)
    blurred = _finished(light, p.gamma, p.sigma, p.quality, rng)
    shape = frames.shape[1:]
    return MotionResult(blurred.reshape(shape), pictures[p.count // 2].reshape(shape), p)


def _finished(light: np.ndarray, gamma: float, sigma: float, quality: int, rng: np.random.Generator) -> np.ndarray:
    """From the light on the sensor to the picture that is kept: float32 [H, W, C]."""
    picture = np.maximum(light, 0) ** np.float32(1 / gamma)
    picture += rng.standard_normal(picture.shape, np.float32) * np.float32(sigma / 255)
    return compressed(picture, quality)


def _refuse(name: str, checks: dict[str, bool]) -> None:
    wrong = [key for key, fine in checks.items() if not fine]
    if wrong:
        raise ValueError(f"degrade.{name}: out of range: {', '.join(wrong)}")
