"""Clips from still pictures: a hand-held camera looks at a part of the picture, something may pass before it, and each
frame gathers light while its shutter is open.  Blurred and sharp frame are aligned by construction.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

from fastrestore.degrade.camera import checked

GAMMA = 2.2  # of the picture: light adds up in linear values
SAMPLES = 9  # instants over the whole time of a frame; fewer for a shutter that is open for less


@dataclass(frozen=True)
class Handheld:
    """How the camera moves, and what passes before it.  Times are in frames, lengths in pixels of the result."""

    drift: tuple[float, float] = (1.0, 0.0)  # steady motion along x and y, a frame
    sway: tuple[float, float] = (0.0, 0.0)  # amplitude of the trembling along x and y
    period: float = 7.0  # of the trembling
    phase: float = 0.0  # of the trembling, in turns
    turn: float = 0.0  # degrees a frame
    zoom: float = 0.0  # relative change of scale a frame
    scale: float = 1.0  # picture pixels a pixel of the result, at the first frame
    exposure: float = 0.0  # share of a frame's time during which the shutter is open; 0: no motion blur
    visitor: float = 0.0  # diameter of what passes before the camera, as a share of the result's side; 0: nothing does
    visit: tuple[float, float] = (0.0, 0.0)  # its own motion along x and y, a frame

    def __post_init__(self):
        checks = {
            "sway": min(self.sway) >= 0,
            "period": self.period > 0,
            "zoom": abs(self.zoom) < 0.1,
            "scale": 0 < self.scale <= 8,
            "exposure": 0 <= self.exposure <= 1,
            "visitor": self.visitor >= 0,
        }
        wrong = [name for name, fine in checks.items() if not fine]
        if wrong:
            raise ValueError(f"degrade.handheld: out of range: {', '.join(wrong)}")

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Handheld":
        """A camera held by hand: now and then at rest, mostly by about a pixel a frame, at most by some twelve."""
        still = rng.random() < 0.12
        speed = 0.0 if still else 10 ** rng.uniform(-1, 1.1)
        heading, away = rng.uniform(0, 2 * math.pi, 2)
        visit = 10 ** rng.uniform(-0.5, 0.9)
        return cls(
            drift=(speed * math.cos(heading), speed * math.sin(heading)),
            sway=tuple((rng.uniform(0, 1.5, 2) * min(speed, 3)).tolist()),
            period=rng.uniform(3, 20),
            phase=rng.random(),
            turn=0.0 if still else float(rng.normal(0, 0.4)),
            zoom=0.0 if still else float(np.clip(rng.normal(0, 0.003), -0.02, 0.02)),
            scale=rng.uniform(0.8, 1.6),
            visitor=rng.uniform(0.2, 0.7) if rng.random() < 0.4 else 0.0,
            visit=(visit * math.cos(away), visit * math.sin(away)),
        )

    def at(self, time: float) -> tuple[np.ndarray, float, float]:
        """Where the camera looks at a time, against time 0: pixels along x and y, degrees, and change of scale."""
        turns = 2 * math.pi * (time / self.period + self.phase), 2 * math.pi * (time / self.period - self.phase) + 1
        move = np.array(self.drift) * time + np.array(self.sway) * np.sin(turns)
        return move, self.turn * time, (1 + self.zoom) ** time


class HandheldResult(NamedTuple):
    image: np.ndarray  # what the camera records, float32 [T, side, side, C] in [0, 1]
    clean: np.ndarray  # what it sees in the middle of each exposure, float32 [T, side, side, C]
    parameters: Handheld


def handheld(
    image: np.ndarray,
    frames: int,
    side: int,
    parameters: Handheld | None = None,
    *,
    visitor: np.ndarray | None = None,
    seed: int | np.random.Generator | None = None,
) -> HandheldResult:
    """A clip of a moving part of a picture; beyond its borders the picture is taken as mirrored.

    image: float [H, W, C] in [0, 1], C 1 or 3.  frames, side: of the clip, at least 1.  parameters: drawn from the
    seed where not given.  visitor: a picture of as many channels, a disc of which passes where the parameters say so;
    None: the picture itself, upside down.  seed: an integer makes the result repeatable; it also places the part.
    Raises TypeError for integer images, ValueError for other shapes.
    """
    picture = checked("degrade.handheld", image)
    rng = np.random.default_rng(seed)
    if parameters is None:
        parameters = Handheld.random(rng)
    seen = scene(picture, side, parameters, visitor, rng)
    times = instants(frames)
    clean = np.stack([seen(time) for time in times])
    if not parameters.exposure:
        return HandheldResult(clean, clean, parameters)
    samples = 2 * math.ceil(SAMPLES * parameters.exposure / 2) + 1
    open_for = parameters.exposure * ((np.arange(samples) + 0.5) / samples - 0.5)
    light = [np.mean([seen(time + instant) ** GAMMA for instant in open_for], 0) for time in times]
    return HandheldResult(np.stack(light).astype(np.float32) ** np.float32(1 / GAMMA), clean, parameters)


def instants(frames: int) -> np.ndarray:
    """The frames' times, 0 in the middle of the clip, where the camera looks at its part."""
    return np.arange(frames) - (frames - 1) / 2


def scene(
    picture: np.ndarray, side: int, p: Handheld, visitor: np.ndarray | None, rng: np.random.Generator
) -> Callable[..., np.ndarray]:
    """seen(time, offset) -> what the camera sees at a time, pushed aside by so many pixels along x and y: float32
    [side, side, C] in [0, 1].  picture: as checked() returns it; the other arguments are handheld's."""
    other = picture[::-1] if visitor is None else checked("degrade.handheld", visitor)
    start = np.array([rng.uniform(0.2, 0.8) * size for size in (picture.shape[1], picture.shape[0])])
    place = [rng.uniform(0.2, 0.8) * side for _ in range(2)]

    def seen(time: float, offset: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        frame = _view(picture, _camera(p, start + p.scale * np.array(offset), time, side), side)
        return _with_visitor(frame, other, p, place, time) if p.visitor else frame

    return seen


def _camera(p: Handheld, start: np.ndarray, time: float, side: int) -> np.ndarray:
    """From the result's pixels to the picture's: float64 [2, 3]."""
    move, degrees, zoom = p.at(time)
    scale, angle = p.scale * zoom, math.radians(degrees)
    turned = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = np.full(2, (side - 1) / 2)
    return np.column_stack([turned, start + p.scale * move - turned @ middle])


def _view(picture: np.ndarray, camera: np.ndarray, side: int) -> np.ndarray:
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(picture, camera, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return seen.clip(0, 1).reshape(side, side, picture.shape[2])


def _with_visitor(frame: np.ndarray, other: np.ndarray, p: Handheld, place: list[float], time: float) -> np.ndarray:
    """Puts the disc, whose content moves with it, over a frame."""
    side = frame.shape[0]
    x, y = (at + speed * time for at, speed in zip(place, p.visit, strict=True))
    content = replace(p, drift=(0.0, 0.0), sway=(0.0, 0.0), turn=0.0, zoom=0.0)
    camera = _camera(content, np.array([other.shape[1] / 2, other.shape[0] / 2]), 0.0, side)
    camera[:, 2] += camera[:, :2] @ (np.array([side / 2, side / 2]) - (x, y))
    rows, columns = np.ogrid[:side, :side]
    inside = (p.visitor * side / 2 - np.hypot(columns - x, rows - y) + 0.5).clip(0, 1)  # a pixel of soft edge
    share = inside[..., None].astype(np.float32)
    return frame + share * (_view(np.ascontiguousarray(other), camera, side) - frame)
