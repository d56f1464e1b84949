"""A photograph of a screen: the picture is shown by red, green and blue subpixels, seen through a lens at an angle,
sampled by a camera's colour filter array, developed and compressed.  Screen grid and sensor grid beat: moiré.

The clean picture goes through the same geometry without screen and sensor, so that the pair is aligned by
construction, to the fraction of a pixel.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from fastrestore.degrade.camera import BAYER, checked, compressed, filtered, sensor_deviation

CELL = 6  # fine samples a screen pixel and side
GAMMA = 2.2  # of screen and picture
BLOCK = 384  # camera pixels a side that are rendered at once: bounds the memory, changes nothing
LAYOUTS = ("stripe", "stripe-bgr", "delta", "chevron", "diamond")


@dataclass(frozen=True)
class Moire:
    """How the photograph was taken.  Distances are in half diagonals of the picture, unless said otherwise."""

    layout: str = "stripe"  # of the subpixels, one of LAYOUTS
    contrast: float = 0.9  # of the subpixel grid; 0: an even screen
    pitch: float = 0.55  # screen pixels a camera pixel
    oversampling: float = 1.8  # camera pixels a pixel of the result: the photograph is scaled down by this
    rotation: float = 2.0  # degrees
    tilt: tuple[float, float] = (0.02, 0.01)  # perspective: change of scale over the half diagonal, along x and y
    zoom: float = 1.0  # picture pixels a pixel of the result, at the centre
    shift: tuple[float, float] = (0.0, 0.0)  # in pixels of the result
    distortion: float = 0.01  # radial, of third order
    defocus: float = 0.4  # deviation of the optical blur in camera pixels, the pixel's own area included
    brightness: float = 0.85  # of the screen against the picture, linear light
    falloff: tuple[float, float] = (0.0, 0.0)  # relative change of the light over the half diagonal, along x and y
    balance: tuple[float, float, float] = (1.0, 1.0, 1.0)  # gains of red, green and blue
    veil: float = 0.01  # light reflected by the screen, linear, added everywhere
    gain: float = 0.0005  # shot noise: variance per unit of linear signal
    read_noise: float = 0.002  # deviation, linear
    demosaic: str = "bilinear"  # or "edge-aware"
    gamma: float = 2.2  # of the camera's development
    sharpening: float = 0.3  # unsharp mask of the camera
    quality: int = 92  # of the JPEG; 0: not compressed

    def __post_init__(self):
        if self.layout not in LAYOUTS or self.demosaic not in tuple(BAYER):
            raise ValueError(f"degrade.moire: layout is one of {LAYOUTS}, demosaic of {tuple(BAYER)}")
        positive = ("pitch", "oversampling", "zoom", "defocus", "brightness", "gamma")
        wrong = [name for name in positive if not getattr(self, name) > 0]
        wrong += [name for name in ("veil", "gain", "read_noise", "sharpening") if not getattr(self, name) >= 0]
        wrong += [] if 0 <= self.contrast <= 1 else ["contrast"]
        wrong += [] if 0 <= self.quality <= 100 else ["quality"]
        wrong += [] if self.oversampling <= 8 and self.pitch <= 8 else ["pitch or oversampling"]
        wrong += [] if math.hypot(*self.tilt) < 0.5 else ["tilt"]  # beyond, the horizon comes near the picture
        if wrong:
            raise ValueError(f"degrade.moire: out of range: {', '.join(wrong)}")

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Moire":
        """A photograph as people take them: near enough that the screen's grid is just about resolved, exposed so that
        the picture is about as light as the screen's."""
        # Around one half the screen's period is two camera pixels, that of the colour filters: the widest bands.
        usual = rng.random() < 0.8
        pitch = min(0.6, max(0.42, rng.normal(0.5, 0.035))) if usual else rng.uniform(0.42, 0.7)
        turned = rng.random() < 0.15  # held upright before a lying screen, or the other way
        return cls(
            layout=str(rng.choice(LAYOUTS, p=(0.45, 0.15, 0.1, 0.15, 0.15))),
            contrast=rng.uniform(0.8, 1.0),
            pitch=pitch,
            oversampling=max(1.2, rng.uniform(0.9, 1.3) / pitch),  # the screen shows all the picture's detail
            rotation=rng.normal(0, 4) + (90 if turned else 0),
            tilt=tuple(rng.normal(0, 0.035, 2).clip(-0.2, 0.2).tolist()),
            zoom=rng.uniform(0.92, 1.05),
            shift=tuple(rng.uniform(-8, 8, 2).tolist()),
            distortion=rng.normal(0, 0.012),
            defocus=rng.uniform(0.3, 0.42),
            brightness=rng.uniform(0.9, 1.1),
            falloff=tuple(rng.normal(0, 0.03, 2).clip(-0.3, 0.3).tolist()),
            balance=tuple(np.exp(rng.normal(0, 0.025, 3)).tolist()),
            veil=rng.uniform(0.0, 0.005),
            gain=10 ** rng.uniform(-4.5, -2.8),
            read_noise=10 ** rng.uniform(-3.5, -2.3),
            demosaic=str(rng.choice(list(BAYER))),
            gamma=rng.uniform(2.1, 2.3),
            sharpening=rng.uniform(0.0, 0.6),
            quality=int(rng.integers(75, 99)),
        )


class MoireResult(NamedTuple):
    image: np.ndarray  # the photograph, float32 [H, W, C] in [0, 1]
    clean: np.ndarray  # what it would be without screen and camera, aligned with it, float32 [H, W, C]
    parameters: Moire


def moire(
    image: np.ndarray,
    parameters: Moire | None = None,
    *,
    seed: int | np.random.Generator | None = None,
) -> MoireResult:
    """Photographs a screen that shows the picture.

    image: float [H, W, C] or [H, W] in [0, 1], C 1 or 3; a grey picture comes back grey.  parameters: drawn from the
    seed where not given.  seed: an integer makes the result repeatable.
    Raises TypeError for integer images, ValueError for other shapes.
    """
    picture = checked("degrade.moire", image)
    rng = np.random.default_rng(seed)
    if parameters is None:
        parameters = Moire.random(rng)
    photo, clean = photograph(picture, lit_screen(picture, parameters), parameters, rng)
    return MoireResult(photo.reshape(image.shape), clean.reshape(image.shape), parameters)


def lit_screen(picture: np.ndarray, p: Moire) -> np.ndarray:
    """The light of the screen's pixels, without the grid, linear: float32 [rows, columns, 3]."""
    height, width = picture.shape[:2]
    density = p.pitch * p.oversampling * p.zoom  # screen pixels a picture pixel
    shown = max(1, round(width * density)), max(1, round(height * density))
    scaled = cv2.resize(picture, shown, interpolation=cv2.INTER_AREA if density < 1 else cv2.INTER_CUBIC)
    return np.broadcast_to(scaled.reshape(*shown[::-1], -1), (*shown[::-1], 3)).clip(0, 1) ** GAMMA


def photograph(
    picture: np.ndarray, screen: np.ndarray, p: Moire, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The photograph of a lit screen, and the picture as it stands there: both float32 [H, W, C], as the picture."""
    height, width, channels = picture.shape
    camera = max(2, round(height * p.oversampling)), max(2, round(width * p.oversampling))
    raw = _expose(screen, (height, width), camera, p)
    raw += sensor_deviation(raw, p.gain, p.read_noise) * rng.standard_normal(raw.shape, np.float32)
    photo = _develop(raw, (height, width), p)
    if channels == 1:
        photo = photo.mean(2, keepdims=True)
    x, y = _positions((height, width), (height, width), p, slice(0, height), slice(0, width))
    border = cv2.BORDER_REFLECT_101 if min(height, width) > 1 else cv2.BORDER_REPLICATE  # of one pixel, it never ends
    clean = cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=border).clip(0, 1)
    return photo, clean.reshape(picture.shape)


def _positions(
    grid: tuple[int, int], size: tuple[int, int], p: Moire, rows: slice, columns: slice
) -> tuple[np.ndarray, np.ndarray]:
    """Where in the picture, in its pixels, the samples of a grid over the result lie: x and y, float32.

    grid: samples over the whole result, (rows, columns).  rows, columns: the part that is wanted.
    """
    height, width = size
    half = math.hypot(height, width) / 2
    v, u = np.ogrid[rows, columns]
    u = ((u + 0.5) * (width / grid[1]) - width / 2 + p.shift[0]) / half
    v = ((v + 0.5) * (height / grid[0]) - height / 2 + p.shift[1]) / half
    # A picture smaller than its shift would be seen beyond the horizon: the limits act on nothing else.
    lens = p.zoom * (1 + p.distortion * np.minimum(u * u + v * v, 4))
    depth = np.maximum(1 + p.tilt[0] * u + p.tilt[1] * v, 0.25)
    cos, sin = math.cos(math.radians(p.rotation)), math.sin(math.radians(p.rotation))
    x = (cos * u - sin * v) * lens / depth * half + width / 2 - 0.5
    y = (sin * u + cos * v) * lens / depth * half + height / 2 - 0.5
    return x.astype(np.float32), y.astype(np.float32)


def _expose(screen: np.ndarray, size: tuple[int, int], camera: tuple[int, int], p: Moire) -> np.ndarray:
    """Light on the camera's pixels behind their colour filters (red, green / green, blue), linear, float32 [H, W].

    size: rows and columns of the result, camera: of the sensor.
    """
    (height, width), shown = size, screen.shape[:2]
    mask = _mask(p.layout, p.contrast)
    spread = p.defocus * p.pitch * CELL  # of the blur, in fine samples
    margin = 2 + math.ceil(4 * spread / CELL)  # OpenCV cuts a Gaussian of floats off there
    raw = np.empty(camera, np.float32)
    for top in range(0, camera[0], BLOCK):
        for left in range(0, camera[1], BLOCK):
            rows = slice(top, min(top + BLOCK, camera[0]))
            columns = slice(left, min(left + BLOCK, camera[1]))
            x, y = _positions(camera, size, p, rows, columns)
            x = (x + 0.5) * (shown[1] / width) - 0.5  # from here on in screen pixels
            y = (y + 0.5) * (shown[0] / height) - 0.5
            x0, y0 = (math.floor(axis.min() - margin) // 2 * 2 for axis in (x, y))  # where a period of the mask begins
            x1, y1 = (math.ceil(axis.max() + margin) // 2 * 2 + 2 for axis in (x, y))
            part = screen[_reflect(np.arange(y0, y1), shown[0])[:, None], _reflect(np.arange(x0, x1), shown[1])]
            fine = cv2.resize(part, None, fx=CELL, fy=CELL, interpolation=cv2.INTER_NEAREST)
            periods = fine.reshape(-1, *mask.shape[:1], fine.shape[1] * 3)  # one row of them each
            periods *= np.tile(mask, (1, (x1 - x0) // 2, 1)).reshape(mask.shape[0], -1)
            fine = cv2.GaussianBlur(fine, (0, 0), spread)
            x = (x - x0 + 0.5) * CELL - 0.5
            y = (y - y0 + 0.5) * CELL - 0.5
            seen = cv2.remap(fine, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            raw[rows, columns] = filtered(seen, rows.start, columns.start)
    gains = np.asarray(p.balance, np.float32) * np.float32(p.brightness)
    v, u = np.ogrid[0 : camera[0], 0 : camera[1]]
    half = math.hypot(*camera) / 2
    light = 1 + p.falloff[0] * (u - camera[1] / 2) / half + p.falloff[1] * (v - camera[0] / 2) / half
    every = np.broadcast_to(gains, (2, 2, 3))
    gains = np.tile(filtered(every, 0, 0), (-(-camera[0] // 2), -(-camera[1] // 2)))[: camera[0], : camera[1]]
    return (raw * gains * light + p.veil).astype(np.float32)


def _develop(raw: np.ndarray, size: tuple[int, int], p: Moire) -> np.ndarray:
    """From the sensor's values to the picture that is kept: float32 [H, W, 3]."""
    bits = np.rint(raw.clip(0, 1) * 65535).astype(np.uint16)
    colours = cv2.cvtColor(bits, BAYER[p.demosaic]).astype(np.float32) / 65535
    photo = colours ** np.float32(1 / p.gamma)
    photo = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_AREA)
    if p.sharpening:
        photo = photo + p.sharpening * (photo - cv2.GaussianBlur(photo, (0, 0), 1.0))
    return compressed(photo.clip(0, 1), p.quality)


def _reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Indices mirrored at both ends as often as needed."""
    index = np.mod(index, max(1, 2 * size - 2))
    return np.where(index < size, index, 2 * size - 2 - index)


def _mask(layout: str, contrast: float) -> np.ndarray:
    """Light of the subpixels over one period of 2 x 2 pixels, float32 [2 CELL, 2 CELL, 3]; each colour's mean is 1."""
    mask = np.zeros((2 * CELL, 2 * CELL, 3), np.float32)
    lit = CELL - 1  # the last row and, for stripes, the gap between pixels are black
    for row in range(2):
        for column in range(2):
            cell = mask[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
            for colour in range(3):
                if layout == "diamond":  # green in each pixel, red and blue in every second, in turn
                    if colour == 1:
                        cell[1:5, 3:5, 1] = 1
                    elif (row + column) % 2 == colour // 2:
                        cell[1:5, 0:3, colour] = 1
                    continue
                place = 2 - colour if layout == "stripe-bgr" else colour
                for line in range(lit):
                    offset = 0
                    if layout == "delta" and row == 1:
                        offset = CELL // 2
                    if layout == "chevron":  # slanted one way in a row of pixels, the other way in the next
                        offset = line // 2 if row == 0 else (lit - 1 - line) // 2
                    at = (np.arange(2) + 2 * place + offset) % CELL
                    cell[line, at, colour] = 1
    mask /= mask.mean((0, 1))
    return 1 + np.float32(contrast) * (mask - 1)
