"""Blur of a shaken camera, of a lens out of focus and of straight motion, with the camera's noise and compression."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from fastrestore.degrade.camera import checked, compressed

KINDS = ("shake", "defocus", "linear")
FINE = 5  # samples a pixel and side of an anti-aliased disc


@dataclass(frozen=True)
class Blur:
    """What blurred the picture, and what the camera added.  A kernel given to `blur` replaces kind to angle."""

    kind: str = "shake"  # one of KINDS
    size: float = 15.0  # pixels: the larger side of a trajectory, the length of a line, the diameter of a disc
    anxiety: float = 0.01  # shake: how hard the hand trembles against its inertia, 0 (straight) to 0.1
    exposure: float = 1.0  # shake: share of the trajectory during which the shutter is open
    angle: float = 0.0  # linear: degrees
    gamma: float = 2.2  # of the picture: light adds up in linear values; 1: the picture is linear
    sigma: float = 0.5  # of the noise after the blur, in 0-255 units
    quality: int = 0  # of the JPEG; 0: not compressed

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"degrade.blur: kind is one of {', '.join(KINDS)}, got {self.kind!r:.50}")
        checks = {
            "size": 0 < self.size <= 255,
            "anxiety": self.anxiety >= 0,
            "exposure": 0 < self.exposure <= 1,
            "gamma": self.gamma > 0,
            "sigma": self.sigma >= 0,
            "quality": 0 <= self.quality <= 100,
        }
        wrong = [name for name, fine in checks.items() if not fine]
        if wrong:
            raise ValueError(f"degrade.blur: out of range: {', '.join(wrong)}")

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Blur":
        """A blur as found in pictures that are worth restoring, slight to medium: of 2 to 8 pixels."""
        kind = str(rng.choice(KINDS, p=(0.45, 0.35, 0.2)))
        return cls(
            kind=kind,
            size=rng.uniform(2, 6) if kind == "defocus" else rng.uniform(2, 8),
            anxiety=10 ** rng.uniform(-3, -1.5),
            exposure=rng.uniform(0.4, 1.0),
            angle=rng.uniform(0, 180),
            gamma=2.2,
            sigma=rng.uniform(0.0, 0.8),
            quality=int(rng.integers(90, 100)) if rng.random() < 0.15 else 0,
        )


class BlurResult(NamedTuple):
    image: np.ndarray  # the blurred picture, float32 of the picture's shape, not clipped unless compressed
    clean: np.ndarray  # the picture itself, float32
    parameters: Blur
    kernel: np.ndarray  # float32 [K, K], K odd, sum 1, its centre of mass in the middle


def blur(
    image: np.ndarray,
    kernel: np.ndarray | None = None,
    parameters: Blur | None = None,
    *,
    seed: int | np.random.Generator | None = None,
) -> BlurResult:
    """Blurs a picture and adds the camera's noise; beyond its borders the picture is taken as mirrored.

    image: float [H, W, C] or [H, W] in [0, 1], C 1 or 3.  kernel: [K, L] of odd sizes, not negative; it is used
    scaled to the sum 1; None: made by the parameters.  parameters: drawn from the seed where not given.  seed: an
    integer makes the result repeatable.
    Raises TypeError for integer images, ValueError for other shapes and for a kernel that is none.
    """
    picture = checked("degrade.blur", image)
    rng = np.random.default_rng(seed)
    if parameters is None:
        parameters = Blur.random(rng)
    kernel = make_kernel(parameters, rng) if kernel is None else _checked_kernel(kernel)
    light = picture.clip(0, None) ** np.float32(parameters.gamma)
    reach = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = np.pad(light, [(reach[0], reach[0]), (reach[1], reach[1]), (0, 0)], "symmetric")
    turned = np.ascontiguousarray(kernel[::-1, ::-1])  # filter2D correlates
    seen = cv2.filter2D(padded, -1, turned, borderType=cv2.BORDER_REFLECT).reshape(padded.shape)
    seen = seen[reach[0] : reach[0] + picture.shape[0], reach[1] : reach[1] + picture.shape[1]]
    blurred = np.maximum(seen, 0) ** np.float32(1 / parameters.gamma)
    blurred += rng.standard_normal(blurred.shape, np.float32) * np.float32(parameters.sigma / 255)
    blurred = compressed(blurred, parameters.quality)
    return BlurResult(blurred.reshape(image.shape), picture.reshape(image.shape), parameters, kernel)


def make_kernel(parameters: Blur, seed: int | np.random.Generator | None = None) -> np.ndarray:
    """The point spread function of a kind of blur: float32 [K, K], K odd, sum 1, centre of mass in the middle."""
    if parameters.kind == "defocus":
        return _disc(parameters.size / 2)
    if parameters.kind == "linear":
        reach = parameters.size / 2 * np.linspace(-1, 1, 1 + 8 * math.ceil(parameters.size))
        turn = math.radians(parameters.angle)
        return _drawn(reach * np.exp(1j * turn))
    return _drawn(trajectory(np.random.default_rng(seed), parameters))


def trajectory(rng: np.random.Generator, parameters: Blur, steps: int = 2000) -> np.ndarray:
    """The way of the image over the sensor while the shutter is open: complex [n], in pixels, x + iy.

    Boracchi and Foi, "Modeling the performance of image restoration from motion blur" (2012): a particle with
    inertia that trembles, is pulled back to where it began, and now and then makes an abrupt turn.
    """
    length = 60.0  # of the whole way, in the paper's units, in which the pull to the start is given
    pace = length / (steps - 1)
    pull, tremble, abrupt = np.array([0.7, 10.0, 0.2]) * rng.random(3) * parameters.anxiety
    velocity = pace * np.exp(2j * math.pi * rng.random())
    tremors = tremble * (rng.standard_normal(steps) + 1j * rng.standard_normal(steps))
    turns = np.where(rng.random(steps) < abrupt, 2 * np.exp(1j * (math.pi + rng.random(steps) - 0.5)), 0)
    way = np.zeros(steps, complex)
    for i in range(1, steps):
        velocity += turns[i] * velocity + (tremors[i] - pull * way[i - 1]) * pace
        velocity *= pace / max(abs(velocity), 1e-12)
        way[i] = way[i - 1] + velocity
    way = way[: max(2, round(parameters.exposure * steps))]
    extent = max(np.ptp(way.real), np.ptp(way.imag))
    return way * (parameters.size / max(extent, 1e-12))


def _drawn(way: np.ndarray) -> np.ndarray:
    """The kernel of a way: each point spread bilinearly over four pixels."""
    way = way - way.mean()
    reach = math.ceil(max(np.abs(way.real).max(), np.abs(way.imag).max())) + 1
    side = 2 * reach + 1
    kernel = np.zeros((side, side))
    x, y = np.floor(way.real).astype(int), np.floor(way.imag).astype(int)
    right, down = way.real - x, way.imag - y
    for dy, share_y in ((0, 1 - down), (1, down)):
        for dx, share_x in ((0, 1 - right), (1, right)):
            np.add.at(kernel, (y + dy + reach, x + dx + reach), share_y * share_x)
    return (kernel / kernel.sum()).astype(np.float32)


def _disc(radius: float) -> np.ndarray:
    """An even disc, anti-aliased."""
    reach = math.ceil(radius)
    fine = (np.arange((2 * reach + 1) * FINE) + 0.5) / FINE - reach - 0.5
    inside = (fine[:, None] ** 2 + fine**2 <= max(radius, 0.5 / FINE) ** 2).astype(np.float64)
    kernel = inside.reshape(2 * reach + 1, FINE, 2 * reach + 1, FINE).sum((1, 3))
    return (kernel / kernel.sum()).astype(np.float32)


def _checked_kernel(kernel: np.ndarray) -> np.ndarray:
    kernel = np.asarray(kernel, np.float64)
    if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(f"degrade.blur: a kernel is [K, L] of odd sizes, got {list(kernel.shape)}")
    if not np.isfinite(kernel).all() or kernel.min() < 0 or not kernel.sum() > 0:
        raise ValueError("degrade.blur: a kernel's values are finite, not negative, and not all zero")
    return (kernel / kernel.sum()).astype(np.float32)
