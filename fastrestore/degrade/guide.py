"""Guides: what another sensor, or the same one under a flash, sees of a picture's scene, with little noise of its own.

A still picture does not say what a flash or an infrared camera would have seen, nor how far away things are.  What is
made here shares the picture's edges, as such guides do, and differs as they do: in colours and tones, light, texture.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from fastrestore.degrade.camera import checked

KINDS = ("flash", "infrared", "depth")


@dataclass(frozen=True)
class Guide:
    """What the other sensor is like."""

    kind: str = "flash"  # one of KINDS
    mix: tuple[float, float, float] = (1.0, 1.0, 1.0)  # flash: gains of red, green and blue; infrared: their weights
    gamma: float = 1.0  # of the tone, after the mix
    falloff: float = 0.5  # flash: how much darker the corners are than the light's middle, 0 to 1
    middle: tuple[float, float] = (0.5, 0.5)  # flash: of the light, in shares of width and height
    levels: int = 6  # depth: distances that the picture's tones are taken for
    smooth: float = 3.0  # depth: pixels; finer detail than this has no depth of its own
    tones: tuple[float, ...] = (0.1, 0.7, 0.4, 0.9, 0.2, 0.6)  # depth: one a level
    sigma: float = 3.0  # of the guide's own noise, in 0-255 units
    shift: tuple[float, float] = (0.0, 0.0)  # pixels along x and y by which what the guide shows lies aside; 0: aligned

    def __post_init__(self):
        checks = {
            "kind": self.kind in KINDS,
            "gamma": self.gamma > 0,
            "falloff": 0 <= self.falloff <= 1,
            "levels": 0 < self.levels <= len(self.tones),
            "smooth": self.smooth > 0,
            "sigma": self.sigma >= 0,
        }
        wrong = [name for name, fine in checks.items() if not fine]
        if wrong:
            raise ValueError(f"degrade.guide: out of range: {', '.join(wrong)}")

    @classmethod
    def random(cls, rng: np.random.Generator, kind: str | None = None) -> "Guide":
        """Any guide, or any of a kind."""
        kind = str(rng.choice(KINDS)) if kind is None else kind
        # An infrared camera sees some colours the other way round: leaves are bright, and so are some dark cloths.
        mix = (
            rng.uniform(0.75, 1.3, 3)
            if kind == "flash"
            else rng.dirichlet((1, 1, 1)) * rng.choice((1, -1), 3, p=(0.8, 0.2))
        )
        levels = int(rng.integers(3, 9))
        return cls(
            kind=kind,
            mix=tuple(mix.tolist()),
            gamma=math.exp(rng.uniform(-0.5, 0.5)),
            falloff=rng.uniform(0.0, 0.8),
            middle=tuple(rng.uniform(0, 1, 2).tolist()),
            levels=levels,
            smooth=rng.uniform(1.5, 4),
            tones=tuple(rng.random(levels).tolist()),
            sigma=rng.uniform(1, 5),
        )


class GuideResult(NamedTuple):
    image: np.ndarray  # the guide, float32 [H, W, 3], in [0, 1]; infrared and depth repeat their plane
    parameters: Guide


def guide(
    image: np.ndarray, parameters: Guide | None = None, *, seed: int | np.random.Generator | None = None
) -> GuideResult:
    """A guide that fits a picture to the pixel, unless the parameters shift it.

    image: the clean picture, float [H, W, C] or [H, W] in [0, 1], C 1 or 3.  parameters: drawn from the seed where not
    given.  seed: an integer makes the result repeatable.
    Raises TypeError for integer images, ValueError for other shapes.
    """
    picture = checked("degrade.guide", image)
    rng = np.random.default_rng(seed)
    p = Guide.random(rng) if parameters is None else parameters
    picture = np.broadcast_to(picture, (*picture.shape[:2], 3)).clip(0, 1)
    made = {"flash": _flash, "infrared": _infrared, "depth": _depth}[p.kind](picture, p)
    if any(p.shift):
        move = np.float64([[1, 0, p.shift[0]], [0, 1, p.shift[1]]])
        moved = cv2.warpAffine(made, move, made.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)
        made = moved.reshape(made.shape)
    noise = rng.standard_normal(made.shape, np.float32) * np.float32(p.sigma / 255)
    return GuideResult(np.broadcast_to((made + noise).clip(0, 1), picture.shape).astype(np.float32), p)


def _flash(picture: np.ndarray, p: Guide) -> np.ndarray:
    """Another colour and tone, and a light that falls off."""
    height, width = picture.shape[:2]
    v, u = np.ogrid[:height, :width]
    distance = np.hypot(u / width - p.middle[0], v / height - p.middle[1])[..., None]
    light = np.asarray(p.mix, np.float32) * (1 - p.falloff * np.minimum(distance, 1))
    return (picture ** np.float32(p.gamma) * light).astype(np.float32)


def _infrared(picture: np.ndarray, p: Guide) -> np.ndarray:
    """One plane, stretched to the whole range."""
    plane = (picture @ np.asarray(p.mix, np.float32))[..., None]
    plane = (plane - plane.min()) / max(float(np.ptp(plane)), 0.1)
    return plane ** np.float32(p.gamma)


def _depth(picture: np.ndarray, p: Guide) -> np.ndarray:
    """Areas of a like tone at one distance each, without texture."""
    grey = cv2.cvtColor(np.ascontiguousarray(picture, np.float32), cv2.COLOR_RGB2GRAY)
    even = cv2.medianBlur(np.rint(cv2.GaussianBlur(grey, (0, 0), p.smooth / 2) * 255).astype(np.uint8), 5)
    return np.asarray(p.tones, np.float32)[even.astype(int) * p.levels // 256][..., None]
