"""The noise level of one picture, with nothing known about it.

White noise: the smallest eigenvalues of the covariance of small patches are the noise's variance, because clean
patches fill a few dimensions only (Chen, Zhu and Heng, "An efficient statistical method for image noise level
estimation", ICCV 2015).  In grey pictures full of texture that is too much; the deviation within smooth blocks,
chosen by their neighbours so that the choice does not bias it, bounds it from above.

Noise that came through a camera's pipeline or JPEG is not white: its fine part is gone, those eigenvalues are near
zero, and a denoiser made for white noise must be told more than its deviation to remove it.  It shows as smooth
blocks that deviate by far more than the eigenvalues say; then that deviation leads.

Measured on every second of the 32 pictures of train/bsds500_val32 with white noise of σ added (mean ± root mean
square error; 0 stands for the pictures as they are, JPEG files with some noise of their own):

| σ | 0 | 5 | 15 | 25 | 50 |
|---|---|---|---|---|---|
| colour | 8.7 | 5.02 ± 0.05 | 14.9 ± 0.1 | 24.7 ± 0.3 | 49.3 ± 0.7 |
| grey | 3.5 | 5.9 ± 1.6 | 15.5 ± 0.8 | 25.5 ± 0.7 | 50.6 ± 0.9 |

Camera noise, FFDNet colour told the estimate, PSNR on the centre 256 x 256 pixels: noise/cc15 33.4 dB noisy, 37.0
estimated, 37.3 with the best σ of each picture; 20 pictures of noise/polyu 36.0, 38.2, 38.6.  The eigenvalues alone
give 33.6 and 36.0.  The price: a clean, textured JPEG is taken for a slightly noisy one (σ 0 above).
"""

import math

import cv2
import numpy as np

_CROP = 96  # pixels, the side of a sampled part
_CROPS = 48  # parts looked at, at most: bounds the time for any size
_MARGINS = 6 / 255, 249 / 255  # blocks darker or lighter than this may be clipped: they say too little noise
# Fitted on noise/polyu and noise/cc15 for the PSNR of FFDNet told the estimate; see the module's figures.
_NOTHING = 0.01  # below this the difference is the arithmetic's own
_COLOURED_GAIN, _COLOURED_MOST, _COLOURED_LEAST_GAIN = 6.0, 12.5, 1.5
# The noise counts as white, in part or fully, where the eigenvalues' answer is this large ...
_WHITE_RATIO = 0.25, 0.4  # ... against the smooth blocks' deviation
_WHITE_SIGMA = 0.75, 1.5  # ... and by itself: JPEG leaves as much in any picture


def noise_level(image: np.ndarray) -> float:
    """The σ, in 0-255 units, that a denoiser for white noise should be told.

    image: [H, W] or [H, W, C], uint8, uint16, or float in [0, 1].  At most 48 parts of 96 x 96 pixels are looked
    at, always the same.  0 for a flat picture, and for one with a side below 8, too small to say anything.
    """
    image = image[..., None] if image.ndim == 2 else image
    if min(image.shape[:2]) < 8:
        return 0.0
    crops = _crops(image)
    eigen = _eigenvalue_sigma(crops)
    smooth = _smooth_block_sigma(crops)
    if smooth is None:
        return round(eigen, 2)
    if smooth < _NOTHING:
        return 0.0
    white = min(eigen, smooth)
    whiteness = min(_ramp(white / smooth, _WHITE_RATIO), _ramp(white, _WHITE_SIGMA))
    coloured = max(_COLOURED_LEAST_GAIN * smooth, min(_COLOURED_GAIN * smooth, _COLOURED_MOST))
    # Hundredths: so that a sum in another order, on another machine, does not change the restored picture.
    return round(whiteness * white + (1 - whiteness) * coloured, 2)


def _ramp(value: float, span: tuple[float, float]) -> float:
    """0 below the span, 1 above it."""
    return min(1.0, max(0.0, (value - span[0]) / (span[1] - span[0])))


def _crops(image: np.ndarray) -> list[np.ndarray]:
    """Parts of the picture, evenly spread, float64 in 0-255 units."""
    height, width = image.shape[:2]
    rows, columns = math.ceil(height / _CROP), math.ceil(width / _CROP)
    thin = min(1.0, math.sqrt(_CROPS / (rows * columns)))
    rows = min(max(1, int(rows * thin)), _CROPS)
    columns = min(max(1, int(columns * thin)), _CROPS // rows)
    tops = np.linspace(0, max(0, height - _CROP), rows).astype(int)
    lefts = np.linspace(0, max(0, width - _CROP), columns).astype(int)
    scale = 255 / np.iinfo(image.dtype).max if image.dtype.kind == "u" else 255.0
    return [image[y : y + _CROP, x : x + _CROP].astype(np.float64) * scale for y in tops for x in lefts]


def _patches(crop: np.ndarray, side: int, stride: int) -> np.ndarray:
    """[rows, columns, C, side, side], a view."""
    return np.lib.stride_tricks.sliding_window_view(crop, (side, side), (0, 1))[::stride, ::stride]


def _unclipped(crop: np.ndarray, side: int, stride: int) -> np.ndarray:
    """Which of the patches [rows, columns] show their noise whole: not near black or white, and nearly no sample
    at either end."""

    def means(values: np.ndarray) -> np.ndarray:  # of every patch, by channel
        filtered = cv2.boxFilter(values, cv2.CV_64F, (side, side), anchor=(0, 0))
        return filtered.reshape(crop.shape)[: 1 - side or None : stride, : 1 - side or None : stride]

    level = means(crop) / 255
    ends = means((np.abs(np.abs(crop - 127.5) - 127.5) < 1e-6).astype(np.float64))
    return ((level > _MARGINS[0]) & (level < _MARGINS[1]) & (ends < 0.02)).all(2)


def _eigenvalue_sigma(crops: list[np.ndarray]) -> float:
    """Chen, Zhu and Heng: drop the largest eigenvalues until mean and median of the others agree."""
    pixels = sum(crop.shape[0] * crop.shape[1] for crop in crops)
    side, stride = (8, 4) if len(crops) >= 16 else (8, 2) if pixels >= _CROP**2 else (4, 1)
    size = side * side * crops[0].shape[2]
    masks = [_unclipped(crop, side, stride) for crop in crops]
    if sum(map(np.count_nonzero, masks)) < 10 * size:
        masks = [np.ones_like(mask) for mask in masks]
    level = np.mean([crop.mean((0, 1)) for crop in crops], 0)  # taken off first, so that float32 suffices below
    count, total, products = 0, np.zeros(size), np.zeros((size, size))
    for crop, mask in zip(crops, masks, strict=True):
        patches = _patches((crop - level).astype(np.float32), side, stride)[mask].reshape(-1, size)
        count += len(patches)
        total += patches.sum(0, dtype=np.float64)
        products += patches.T @ patches  # of one crop in float32: twice as fast, and exact enough for so few
    values = np.linalg.eigvalsh(products / count - np.outer(total, total) / count**2)
    for kept in range(size, 0, -1):
        variance = values[:kept].mean()
        if (values[:kept] > variance).sum() >= (values[:kept] < variance).sum():
            break
    return math.sqrt(max(variance, 0.0))


def _smooth_block_sigma(crops: list[np.ndarray], side: int = 8, step: int = 4) -> float | None:
    """Deviation from a fitted plane in 8 x 8 blocks that lie in smooth places: the median over the fiftieth whose
    four neighbours deviate least.  Chosen by the neighbours, whose noise is their own, it is not biased by the choice.
    Blocks that may be clipped are left out.  None where no block has four neighbours."""
    y, x = np.mgrid[:side, :side]
    plane, _ = np.linalg.qr(np.stack([np.ones(side * side), y.ravel(), x.ravel()], 1))
    own, around, inside = [], [], []
    k = side // step
    for crop in crops:
        grid = [(length - side) // step + 1 for length in crop.shape[:2]]
        if min(grid) <= 2 * k:
            continue
        blocks = _patches(crop, side, step).reshape(-1, crop.shape[2], side * side)
        fitted = np.square(blocks @ plane).sum(2)
        variance = (np.square(blocks).sum(2) - fitted).mean(1).reshape(grid) / (side * side - 3)
        usable = _unclipped(crop, side, step)
        near = [(slice(0, -2 * k), slice(k, -k)), (slice(2 * k, None), slice(k, -k))]
        near += [(slice(k, -k), slice(0, -2 * k)), (slice(k, -k), slice(2 * k, None))]
        own.append(variance[k:-k, k:-k].ravel())
        around.append(sum(variance[place] for place in near).ravel())
        inside.append((usable[k:-k, k:-k] & np.all([usable[place] for place in near], 0)).ravel())
    if not own:
        return None
    variance, neighbours, usable = map(np.concatenate, (own, around, inside))
    if usable.sum() >= 50:
        variance, neighbours = variance[usable], neighbours[usable]
    smooth = variance[neighbours <= np.quantile(neighbours, 0.02)]
    return math.sqrt(max(float(np.median(smooth)), 0.0))
