"""How close a picture is to the true one: MSE, PSNR, SSIM, and the power of its texture.

Arrays are [H, W] or [H, W, C]; torch tensors are [N, C, H, W], [C, H, W] or [H, W].  Both arguments have the
same shape and kind.  data_range is the span of the values; by default that of the dtype: 255 for uint8, 65535
for uint16, 1 for floats.  Work is done in float64; nothing is clipped.
"""

import math
from typing import Any

import cv2
import numpy as np

STUDIO_LUMA = np.array([65.481, 128.553, 24.966]) / 255  # of R, G and B of the same range as the luma


def mse(a: Any, b: Any) -> float:
    """Mean of the squared differences over all pixels and channels.  Raises ValueError for shapes that differ."""
    a, b, _ = _pair(a, b, 1.0)
    return float(np.mean((a - b) ** 2))


def psnr(a: Any, b: Any, data_range: float | None = None) -> float:
    """Peak signal-to-noise ratio in dB, of the error over the whole array; inf for equal arrays."""
    a, b, data_range = _pair(a, b, data_range)
    error = float(np.mean((a - b) ** 2))
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def psnr_y(a: Any, b: Any, data_range: float | None = None) -> float:
    """PSNR of the luma of colour pictures, ITU-R BT.601 in its studio range, as MATLAB's rgb2ycbcr gives it: what
    papers on compression and super-resolution state.  Raises ValueError for other than three channels."""
    a, b, data_range = _pair(a, b, data_range)
    if a.shape[3] != 3:
        raise ValueError(f"metrics.psnr_y: pictures must have three channels, got {a.shape[3]}")
    error = float(np.mean(((a - b) @ STUDIO_LUMA) ** 2))
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def ssim(a: Any, b: Any, data_range: float | None = None) -> float:
    """Structural similarity (Wang et al., 2004): 11 x 11 Gaussian window, sigma 1.5, K 0.01 and 0.03.

    Mean over the positions where the window lies inside the picture, and over channels and batch: the authors'
    definition, and skimage's with gaussian_weights=True, use_sample_covariance=False.  Raises ValueError for
    pictures smaller than the window.
    """
    a, b, data_range = _pair(a, b, data_range)
    height, width = a.shape[1:3]
    if min(height, width) < 11:
        raise ValueError(f"metrics.ssim: sides must be at least 11, got {height} x {width}")
    planes = [
        _ssim_plane(x[..., c], y[..., c], data_range) for x, y in zip(a, b, strict=True) for c in range(x.shape[2])
    ]
    return float(np.mean(planes))


def power_spectrum(image: Any) -> np.ndarray:
    """Radially averaged power of a picture's frequencies, mean over channels and batch: float64 [bins].

    Bin i holds the frequencies within [i, i + 1) / (2 bins) cycles a pixel in any direction, from 0 up to the Nyquist
    frequency 1/2; there are as many bins as half the smaller side.  The mean of the picture is taken off and a
    Hann window laid over it, so that its borders count for nothing.
    """
    planes, _ = _array(image)
    height, width = planes.shape[1:3]
    if min(height, width) < 8:
        raise ValueError(f"metrics.power_spectrum: sides must be at least 8, got {height} x {width}")
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[1:-1]
    window /= np.sqrt(np.mean(window**2))
    planes = (planes - planes.mean((1, 2), keepdims=True)) * window[..., None]
    power = np.mean(np.abs(np.fft.fft2(planes, axes=(1, 2), norm="ortho")) ** 2, axis=(0, 3))
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    bins = min(height, width) // 2
    index = np.floor(radius * 2 * bins + 1e-9).astype(int).ravel()
    inside = index < bins
    total = np.bincount(index[inside], power.ravel()[inside], bins)
    return total / np.maximum(np.bincount(index[inside], minlength=bins), 1)


def texture_distance(a: Any, b: Any) -> float:
    """How differently strong the fine texture of two pictures of one shape is, wherever it stands: the mean distance
    of the logarithms (base 10) of their power spectra above half the Nyquist frequency."""
    first, second = power_spectrum(a), power_spectrum(b)
    if first.shape != second.shape:
        raise ValueError("metrics.texture_distance: both must have one size")
    upper = slice(len(first) // 2, None)
    tiny = np.finfo(np.float64).tiny
    return float(np.mean(np.abs(np.log10(first[upper] + tiny) - np.log10(second[upper] + tiny))))


def _ssim_plane(a: np.ndarray, b: np.ndarray, data_range: float) -> float:
    def blur(plane: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(plane, (11, 11), 1.5)[5:-5, 5:-5]

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    mean_a, mean_b = blur(a), blur(b)
    variance_a = blur(a * a) - mean_a**2
    variance_b = blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float(np.mean(luminance * (2 * covariance + c2) / (variance_a + variance_b + c2)))


def _pair(a: Any, b: Any, data_range: float | None) -> tuple[np.ndarray, np.ndarray, float]:
    """Both as float64 [N, H, W, C], and the data range."""
    (a, span_a), (b, span_b) = _array(a), _array(b)
    if a.shape != b.shape:
        raise ValueError(f"metrics: both must have one shape, got {a.shape} and {b.shape} (N, H, W, C)")
    if a.size == 0:
        raise ValueError("metrics: the arrays are empty")
    if data_range is None:
        if span_a != span_b:
            raise ValueError("metrics: the arrays have different dtypes: give data_range")
        data_range = span_a
    if data_range is None or not data_range > 0:
        raise ValueError("metrics: data_range must be given, and positive, for this dtype")
    return a, b, float(data_range)


def _array(x: Any) -> tuple[np.ndarray, float | None]:
    tensor = hasattr(x, "detach")
    if tensor:
        x = x.detach().cpu()
        x = (x.float() if x.dtype.itemsize == 2 and x.dtype.is_floating_point else x).numpy()
    x = np.asarray(x)
    span = {"uint8": 255.0, "uint16": 65535.0}.get(x.dtype.name, 1.0 if x.dtype.kind == "f" else None)
    if x.dtype.kind not in "fui" or x.ndim < 2 or x.ndim > (4 if tensor else 3):
        raise ValueError(f"metrics: arrays must be [H, W] or [H, W, C] of numbers, got {x.dtype} {x.shape}")
    if x.ndim == 2:
        x = x[None, ..., None]
    elif tensor:
        x = np.moveaxis(x if x.ndim == 4 else x[None], 1, 3)
    else:
        x = x[None]
    return x.astype(np.float64), span
