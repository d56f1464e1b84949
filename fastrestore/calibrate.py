"""Which images of a network are kept as 8 bits, and what their levels mean: chosen by running it on some pictures.

An image of 8 bits is 256 equal steps from `low` to `high`, of which 0 is one; values beyond are cut off.  Two ways to
choose the ends, from a histogram of what the float32 plan's image holds over all pictures:
  - "mse": those with the least mean squared error, of rounding within and cutting off beyond;
  - "percentile": those that cut off one value in 100000 at either end, wherever 0 is not the end.
If the result over these pictures is then less like the float32 plan's than it should be at least, images are given
back, those first without which the others come nearest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrestore.core import _C
from fastrestore.estimate import noise_level
from fastrestore.image import convert

RANGES = ("mse", "percentile")
_BEYOND = 1e-5  # share of values that percentile cuts off at an end
_SHRINKS = np.linspace(1.0, 0.1, 91)  # shares of the whole range that mse tries
_MEMORY = 1 << 40  # bytes, of a session: no limit, so that each picture is one strip

Levels = tuple[int, float, int]  # of an image: its node, the size of a step, the step that 0 is


@dataclass(frozen=True)
class Calibrated:
    """levels: of the images of 8 bits.  wide: how many that could be are not, because they would have cost too much.
    psnr: dB between this plan's and the float32 plan's results over the pictures, against a peak of 1."""

    levels: list[Levels]
    wide: int
    psnr: float


def calibrate(
    graph: "_C.Graph", isa: str, pictures: Iterable[Any], ranges: str, least_psnr: float, threads: int
) -> Calibrated:
    """pictures: arrays [H, W, C] as a session takes them, C the graph's channels, or pairs of such an array and its
    sigma; without, a graph that takes one is told the estimated noise level.  least_psnr: dB, against a peak of 1,
    that the results are to be from the float32 plan's.

    Raises ValueError for no pictures, such that do not fit or hold what is not finite, and for a graph without a
    convolution that could read 8 bits.
    """
    if ranges not in RANGES:
        raise ValueError(f"ranges must be one of {', '.join(RANGES)}, got {ranges!r}")
    samples = [_sample(picture, graph) for picture in pictures]
    if not samples:
        raise ValueError("calibration needs at least one picture")
    counter = _C.Calibration(_C.Plan(graph, "float32", isa), threads)
    if not counter.images():
        raise ValueError("no convolution of this model can be of 8 bits: the first and the last stay wide")
    for image, sigma in samples:
        counter.measure(image, sigma)
    for image, sigma in samples:
        counter.count(image, sigma)
    levels = [(node, *_steps(*_ends(least, most, counts, ranges))) for node, least, most, counts in counter.images()]
    compare = _Comparison(graph, isa, samples, threads)
    return _give_back(levels, compare, least_psnr)


def _sample(picture: Any, graph: "_C.Graph") -> tuple[np.ndarray, float | None]:
    image, sigma = picture if isinstance(picture, tuple) else (picture, None)
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != graph.channels or image.size == 0:
        raise ValueError(f"calibration: pictures must be [H, W, {graph.channels}] and not empty, got {image.shape}")
    if image.dtype not in (np.uint8, np.uint16, np.float16, np.float32):
        raise ValueError(f"calibration: pictures must be uint8, uint16, float16 or float32, got {image.dtype}")
    if not graph.takes_sigma:
        if sigma is not None:
            raise ValueError("calibration: this model takes no sigma")
    elif sigma is None:
        sigma = noise_level(image)
    image = np.ascontiguousarray(convert(image, np.float32))
    if not np.isfinite(image).all():
        raise ValueError("calibration: a picture holds values that are not finite")
    return image, sigma


def _ends(least: float, most: float, counts: np.ndarray, ranges: str) -> tuple[float, float]:
    """The range that is kept, 0 within it."""
    width = (most - least) / len(counts)
    if width <= 0:
        return 0.0, 0.0
    centres = least + width * (np.arange(len(counts)) + 0.5)
    if ranges == "percentile":
        share = np.cumsum(counts) / counts.sum()
        low = centres[np.searchsorted(share, _BEYOND)]
        high = centres[min(np.searchsorted(share, 1 - _BEYOND), len(counts) - 1)]
        return min(low, 0.0) if least < 0 else 0.0, max(high, 0.0)
    errors = []
    for shrink in _SHRINKS:
        scale, zero = _steps(least * shrink, most * shrink)
        kept = (np.clip(np.rint(centres / scale) + zero, 0, 255) - zero) * scale
        errors.append(np.dot(counts, (kept - centres) ** 2))
    best = _SHRINKS[np.argmin(errors)]
    return least * best, most * best


def _steps(low: float, high: float) -> tuple[float, int]:
    """The size of a step, and which of 0 to 255 stands for 0."""
    scale = min(max((high - low) / 255, 1e-30), 1e30)
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


class _Comparison:
    """How far plans of 8 bits are from the float32 plan."""

    def __init__(self, graph: "_C.Graph", isa: str, samples: list[tuple[np.ndarray, float | None]], threads: int):
        self.graph, self.isa, self.samples, self.threads = graph, isa, samples, threads
        self.wide = self._run("float32", [])

    def _run(self, precision: str, levels: Sequence[Levels]) -> list[np.ndarray]:
        plan = _C.Plan(self.graph, precision, self.isa, list(levels))
        session = _C.Session(plan, self.threads, _MEMORY)
        results = []
        for image, sigma in self.samples:
            results.append(np.empty_like(image))
            session.run(image, results[-1], sigma, 1.0, False, None)
        return results

    def error(self, levels: Sequence[Levels]) -> float:
        """The mean squared error of a plan with these images of 8 bits."""
        results = self._run("int8", levels)
        squares = sum(np.square(a - b, dtype=np.float64).sum() for a, b in zip(results, self.wide, strict=True))
        return float(squares) / sum(result.size for result in results)


def _give_back(levels: list[Levels], compare: _Comparison, least_psnr: float) -> Calibrated:
    target = 10 ** (-least_psnr / 10)
    error, kept = compare.error(levels), list(levels)
    while error > target and kept:
        gains = {entry: error - compare.error([other for other in kept if other != entry]) for entry in kept}
        excess = error - target
        for entry in sorted(kept, key=gains.__getitem__, reverse=True):  # gains add up, nearly
            kept.remove(entry)
            excess -= gains[entry]
            if excess <= 0 or gains[entry] <= 0:
                break
        error = compare.error(kept)
    return Calibrated(kept, len(levels) - len(kept), -10 * float(np.log10(max(error, 1e-20))))
