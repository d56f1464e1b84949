"""What the degradations share."""

import cv2
import numpy as np

# Ways to fill in the colours that a pixel has not seen; OpenCV names the pattern, red first, by its second row.
BAYER = {"bilinear": cv2.COLOR_BayerBG2RGB, "edge-aware": cv2.COLOR_BayerBG2RGB_EA}


def checked(name: str, image: np.ndarray) -> np.ndarray:
    """The image as float32 [H, W, C].  Raises TypeError and ValueError for what is no such picture."""
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"{name}: image must be a float array in [0, 1], got {image.dtype}")
    if image.ndim not in (2, 3) or image.size == 0 or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(f"{name}: image must be [H, W] or [H, W, 1 or 3] and not empty, got {list(image.shape)}")
    return np.ascontiguousarray(image, np.float32).reshape(*image.shape[:2], -1)


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """The image as a JPEG of that quality gives it back; quality 0: unchanged.  float32 [H, W, 1 or 3] in [0, 1]."""
    if quality == 0:
        return image
    samples = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    _, content = cv2.imencode(".jpg", samples[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))
    mode = cv2.IMREAD_GRAYSCALE if samples.shape[2] == 1 else cv2.IMREAD_COLOR
    decoded = cv2.imdecode(content, mode)
    return decoded.reshape(samples.shape)[..., ::-1].astype(np.float32) / 255


def sensor_deviation(light: np.ndarray, gain: float, read_noise: float) -> np.ndarray:
    """Standard deviation of a sensor's noise: shot noise of variance gain * light, and read noise.  Linear light."""
    return np.sqrt(read_noise**2 + gain * np.maximum(light, 0))


def filtered(colours: np.ndarray, top: int, left: int) -> np.ndarray:
    """One colour of each pixel: red at even rows and columns, blue at odd ones, else green."""
    odd_rows = (np.arange(top, top + colours.shape[0]) % 2)[:, None]
    odd_columns = np.arange(left, left + colours.shape[1]) % 2
    return np.take_along_axis(colours, (odd_rows + odd_columns)[..., None], 2)[..., 0]
