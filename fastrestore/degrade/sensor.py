"""Noise as a camera leaves it: added to the raw values of the sensor, then developed with them.

The picture is taken back to raw values and developed again (Brooks et al., "Unprocessing images for learned raw
denoising", 2019): tone curve, gamma, colour matrix, white balance, colour filters and demosaicking, so that the noise
is stronger in the shadows, coloured, and the same over neighbouring pixels.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from fastrestore.degrade.camera import BAYER, checked, compressed, filtered, sensor_deviation

# From linear sRGB to XYZ, and from XYZ to the raw colours of four cameras: those of the paper's authors.
_RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_XYZ_TO_CAMERA = np.array(
    [
        [[1.0234, -0.2969, -0.2266], [-0.5625, 1.6328, -0.0469], [-0.0703, 0.2188, 0.6406]],
        [[0.4913, -0.0541, -0.0202], [-0.613, 1.3513, 0.2906], [-0.1564, 0.2151, 0.7183]],
        [[0.838, -0.263, -0.0639], [-0.2887, 1.0725, 0.2496], [-0.0627, 0.1427, 0.5438]],
        [[0.6596, -0.2079, -0.0562], [-0.4782, 1.3016, 0.1933], [-0.097, 0.1581, 0.5181]],
    ]
)
GAMMA = 2.2


@dataclass(frozen=True)
class Sensor:
    """The camera.  Variance of the raw noise: gain * value + read_noise ** 2, raw values in [0, 1]."""

    gain: float = 0.002
    read_noise: float = 0.004
    cameras: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)  # shares of the four colour matrices
    exposure: float = 1.25  # digital gain of the development
    red: float = 2.1  # gains of the white balance
    blue: float = 1.7
    quality: int = 0  # of the JPEG; 0: not compressed

    def __post_init__(self):
        least = min(self.gain, self.read_noise, *self.cameras)
        if not (least >= 0 and sum(self.cameras) > 0 and min(self.exposure, self.red, self.blue) > 0):
            raise ValueError("degrade.sensor: noise and shares must be >= 0, gains > 0")
        if not 0 <= self.quality <= 100:
            raise ValueError(f"degrade.sensor: quality must be from 0 to 100, got {self.quality}")

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Sensor":
        """A camera and a light as in the paper: from a sunny day to a dim room."""
        log_gain = rng.uniform(math.log(0.0001), math.log(0.012))
        log_read_variance = 2.18 * log_gain + 1.20 + rng.normal(0, 0.26)
        return cls(
            gain=math.exp(log_gain),
            read_noise=math.exp(log_read_variance / 2),
            cameras=tuple(rng.dirichlet(np.ones(4)).tolist()),
            exposure=1 / min(1.2, max(0.5, rng.normal(0.8, 0.1))),
            red=rng.uniform(1.9, 2.4),
            blue=rng.uniform(1.5, 1.9),
            quality=int(rng.integers(75, 100)) if rng.random() < 0.5 else 0,
        )


class SensorResult(NamedTuple):
    image: np.ndarray  # the noisy picture, float32 of the picture's shape, in [0, 1]
    clean: np.ndarray  # the same development without noise and JPEG, float32
    parameters: Sensor


def sensor(
    image: np.ndarray, parameters: Sensor | None = None, *, seed: int | np.random.Generator | None = None
) -> SensorResult:
    """Adds a camera's noise to a picture.

    image: float [H, W, C] or [H, W] in [0, 1], C 1 or 3; a grey picture comes back grey.  parameters: drawn from the
    seed where not given.  seed: an integer makes the result repeatable.
    Raises TypeError for integer images, ValueError for other shapes.
    """
    picture = checked("degrade.sensor", image)
    rng = np.random.default_rng(seed)
    if parameters is None:
        parameters = Sensor.random(rng)
    grey = picture.shape[2] == 1
    height, width = picture.shape[:2]
    even = np.pad(picture, ((2, 2 + height % 2), (2, 2 + width % 2), (0, 0)), "symmetric")
    raw = unprocess(np.broadcast_to(even, (*even.shape[:2], 3)), parameters)
    noise = sensor_deviation(raw, parameters.gain, parameters.read_noise) * rng.standard_normal(raw.shape, np.float32)
    developed = [process(values, parameters)[2 : 2 + height, 2 : 2 + width] for values in (raw + noise, raw)]
    if grey:
        developed = [part.mean(2, keepdims=True) for part in developed]
    noisy = compressed(developed[0], parameters.quality)
    return SensorResult(noisy.reshape(image.shape), developed[1].reshape(image.shape), parameters)


def unprocess(picture: np.ndarray, p: Sensor) -> np.ndarray:
    """Raw values behind the colour filters, float32 [H, W].  picture: float [H, W, 3] in [0, 1]."""
    linear = 0.5 - np.sin(np.arcsin(1 - 2 * picture.clip(0, 1).astype(np.float64)) / 3)  # undoes 3 x² - 2 x³
    linear = np.maximum(linear, 1e-8) ** GAMMA @ _to_camera(p).T
    gains = _gains(p)
    # Highlights keep their value where dividing by the gain would leave no room for white (the paper's safe inversion).
    mask = (np.maximum(linear.mean(2, keepdims=True) - 0.9, 0) / 0.1) ** 2
    return filtered(linear * np.maximum(mask + (1 - mask) / gains, 1 / gains), 0, 0).astype(np.float32)


def process(raw: np.ndarray, p: Sensor) -> np.ndarray:
    """The picture that the camera makes of raw values: float32 [H, W, 3] in [0, 1]."""
    pattern = filtered(np.broadcast_to(_gains(p), (*raw.shape, 3)), 0, 0)
    balanced = np.rint((raw * pattern).clip(0, 1) * 65535).astype(np.uint16)
    linear = cv2.cvtColor(balanced, BAYER["bilinear"]).astype(np.float64) / 65535
    linear = (linear @ np.linalg.inv(_to_camera(p)).T).clip(0, 1) ** (1 / GAMMA)
    return (linear * linear * (3 - 2 * linear)).astype(np.float32)


def _to_camera(p: Sensor) -> np.ndarray:
    """From linear sRGB to raw colours; white stays white."""
    shares = np.asarray(p.cameras) / sum(p.cameras)
    matrix = np.tensordot(shares, _XYZ_TO_CAMERA, 1) @ _RGB_TO_XYZ
    return matrix / matrix.sum(1, keepdims=True)


def _gains(p: Sensor) -> np.ndarray:
    return np.array([p.red, 1.0, p.blue]) * p.exposure
