"""Clips from still pictures in which every frame is degraded anew: a screen filmed by hand, whose moiré moves by more
than the camera does, and a shaken camera, whose frames are blurred each in its own way.  Clean frames lie as theirs do.
"""

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from fastrestore.degrade.blur import Blur, trajectory
from fastrestore.degrade.camera import checked, compressed
from fastrestore.degrade.handheld import Handheld, instants, scene
from fastrestore.degrade.moire import Moire, lit_screen, photograph

STEPS = 500  # of a shake's trajectory


@dataclass(frozen=True)
class MovingMoire:
    """A screen, filmed by hand."""

    photo: Moire = field(default_factory=Moire)  # the frame in the middle; screen, light and camera are those of all
    motion: Handheld = field(default_factory=Handheld)  # drift to zoom: how the camera moves against the screen

    @classmethod
    def random(cls, rng: np.random.Generator) -> "MovingMoire":
        """A screen as Moire.random's, and a hand that tries to hold still: at most some two pixels a frame."""
        return cls(Moire.random(rng), _steady(rng, scale=1.0, turn=0.1))

    def frame(self, time: float) -> Moire:
        """The photograph at a time, in frames from the middle of the clip."""
        move, degrees, zoom = self.motion.at(time)
        p = self.photo
        shift = p.shift[0] + float(move[0]), p.shift[1] + float(move[1])
        pitch = p.pitch / zoom  # the screen's pixels stay as large as they are
        return replace(p, shift=shift, rotation=p.rotation + degrees, zoom=p.zoom * zoom, pitch=pitch)


class MovingMoireResult(NamedTuple):
    image: np.ndarray  # the frames, float32 [T, H, W, C] or [T, H, W] in [0, 1]
    clean: np.ndarray  # what each would be without screen and camera, aligned with it, float32
    parameters: MovingMoire


def moving_moire(
    image: np.ndarray,
    frames: int,
    parameters: MovingMoire | None = None,
    *,
    seed: int | np.random.Generator | None = None,
) -> MovingMoireResult:
    """Films a screen that shows the picture.

    image: float [H, W, C] or [H, W] in [0, 1], C 1 or 3.  frames: of the clip, at least 1.  parameters: drawn from the
    seed where not given.  seed: an integer makes the result repeatable; the noise of each frame is its own.
    Raises TypeError for integer images, ValueError for other shapes.
    """
    picture = checked("degrade.moving_moire", image)
    rng = np.random.default_rng(seed)
    if parameters is None:
        parameters = MovingMoire.random(rng)
    screen = lit_screen(picture, parameters.photo)
    made = [photograph(picture, screen, parameters.frame(time), rng) for time in instants(frames)]
    photos, clean = (np.stack(parts).reshape(frames, *image.shape) for parts in zip(*made, strict=True))
    return MovingMoireResult(photos, clean, parameters)


@dataclass(frozen=True)
class Shaken:
    """How the camera moves and shakes.  Each frame draws the extent of its shake and the time its shutter is open."""

    motion: Handheld = field(default_factory=Handheld)  # its own exposure is not used
    shake: tuple[float, float] = (0.5, 8.0)  # pixels: least and most extent of a frame's shake, log-uniform between
    exposure: tuple[float, float] = (0.2, 0.8)  # least and most share of a frame's time, uniform between
    anxiety: float = 0.01  # as Blur's
    gamma: float = 2.2  # of the picture: light adds up in linear values; 1: the picture is linear
    sigma: float = 0.5  # of the noise after the blur, in 0-255 units
    quality: int = 0  # of each frame's JPEG; 0: not compressed

    def __post_init__(self):
        checks = {
            "shake": 0 < self.shake[0] <= self.shake[1] <= 64,
            "exposure": 0 <= self.exposure[0] <= self.exposure[1] <= 1,
            "anxiety": self.anxiety >= 0,
            "gamma": self.gamma > 0,
            "sigma": self.sigma >= 0,
            "quality": 0 <= self.quality <= 100,
        }
        wrong = [name for name, fine in checks.items() if not fine]
        if wrong:
            raise ValueError(f"degrade.shaken: out of range: {', '.join(wrong)}")

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Shaken":
        """Blur as Blur.random's, now slight, now strong, while the camera moves by at most some two pixels a frame."""
        return cls(
            motion=_steady(rng, rng.uniform(0.8, 1.6), turn=0.2),
            shake=(1.5, rng.uniform(4, 9)),
            anxiety=10 ** rng.uniform(-3, -1.5),
            sigma=rng.uniform(0.0, 0.8),
        )


class ShakenResult(NamedTuple):
    image: np.ndarray  # the frames, float32 [T, side, side, C], not clipped unless compressed
    clean: np.ndarray  # what the camera looks at in the middle of each exposure, float32 [T, side, side, C]
    parameters: Shaken
    extents: np.ndarray  # of each frame's shake, in pixels: [T]
    exposures: np.ndarray  # share of its time that each frame's shutter was open: [T]


def shaken(
    image: np.ndarray,
    frames: int,
    side: int | None = None,
    parameters: Shaken | None = None,
    *,
    seed: int | np.random.Generator | None = None,
) -> ShakenResult:
    """A clip of a part of a picture in which each frame is the mean, in linear light, of what a hand-held camera sees
    from each point of its way while the shutter is open.

    The way is the camera's slow motion plus a shake of its own (blur.trajectory) whose mean is 0, so that blurred and
    clean frames lie alike.  image: float [H, W, C] in [0, 1], C 1 or 3; beyond its borders it is taken as mirrored.
    frames, side: of the clip, at least 1; None: three quarters of the picture's shorter side.  parameters: drawn from
    the seed where not given.  seed: an integer makes the result repeatable.
    Raises TypeError for integer images, ValueError for other shapes.
    """
    picture = checked("degrade.shaken", image)
    side = max(1, 3 * min(picture.shape[:2]) // 4) if side is None else side
    rng = np.random.default_rng(seed)
    p = Shaken.random(rng) if parameters is None else parameters
    seen = scene(picture.clip(0, 1) ** np.float32(p.gamma), side, p.motion, None, rng)
    extents = np.exp(rng.uniform(*np.log(p.shake), frames))
    exposures = rng.uniform(*p.exposure, frames)
    light, clean = [], []
    for time, extent, exposure in zip(instants(frames), extents, exposures, strict=True):
        way = trajectory(rng, Blur(size=float(extent), anxiety=p.anxiety), STEPS)
        move = p.motion.at(time + exposure / 2)[0] - p.motion.at(time - exposure / 2)[0]
        points = max(3, math.ceil(extent + np.abs(move).max()) + 1)  # about one a pixel of the way's extent
        way = way[np.linspace(0, STEPS - 1, points).round().astype(int)]
        way -= way.mean()
        open_at = time + exposure * ((np.arange(points) + 0.5) / points - 0.5)
        views = [seen(t, (offset.real, offset.imag)) for t, offset in zip(open_at, way, strict=True)]
        light.append(np.mean(views, 0))
        clean.append(seen(time))
    blurred, clean = (np.stack(part) ** np.float32(1 / p.gamma) for part in (light, clean))
    blurred += rng.standard_normal(blurred.shape, np.float32) * np.float32(p.sigma / 255)
    if p.quality:
        blurred = np.stack([compressed(frame, p.quality) for frame in blurred])
    return ShakenResult(blurred, clean, p, extents, exposures)


def _steady(rng: np.random.Generator, scale: float, turn: float) -> Handheld:
    """A camera whose holder tries to keep it still.  turn: standard deviation, in degrees a frame."""
    speed, heading = 10 ** rng.uniform(-1, 0.3), rng.uniform(0, 2 * math.pi)
    return Handheld(
        drift=(speed * math.cos(heading), speed * math.sin(heading)),
        sway=tuple(rng.uniform(0, 1.5, 2).tolist()),
        period=rng.uniform(3, 20),
        phase=rng.random(),
        turn=float(rng.normal(0, turn)),
        zoom=float(np.clip(rng.normal(0, 0.001), -0.005, 0.005)),
        scale=scale,
    )
