"""Quality of a model on a folder of pictures, by the field's protocol.

Added noise: white Gaussian of standard deviation σ / 255, drawn by NumPy's RandomState(0) anew for each picture,
added in float and neither clipped nor quantised.  Moiré and blur: degrade.KINDS with the picture's number as its
seed, the degraded picture rounded to 8 bits, as one from a file is.  The result is clipped to [0, 1] and rounded to
8 bits; PSNR and SSIM against the clean picture over all pixels and channels, no border cut; the mean over the
pictures.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from torch import nn

from fastrestore import degrade, engine, estimate, image, metrics
from fastrestore.data.folders import find_pairs
from fastrestore.errors import ImageError, UnsupportedOperator
from fastrestore.tiled import TiledModel

Report = Callable[[str, int, int], None]  # picture, done, of

SHEET_ROWS = 8  # pictures, the first by name
SHEET_SIDE = 256  # of their middles, in pixels
CONTRAST = 4  # by which a sheet strengthens differences
LUMA = np.array([0.299, 0.587, 0.114], np.float64)  # ITU-R BT.601


@dataclass(frozen=True)
class Score:
    """Means over the pictures of a folder."""

    kind: str  # what degraded them: "noise", "pairs" or a key of degrade.KINDS
    sigma: float | None  # of the added noise
    pictures: int
    psnr: float  # dB
    input_psnr: float  # of the degraded input, clipped and rounded alike
    ssim: float
    input_ssim: float
    texture: float  # metrics.texture_distance: 0 where the fine texture is as strong as the clean picture's
    input_texture: float
    milliseconds: float  # a megapixel, of the model alone, on the picture where it was quickest
    classical_psnr: float | None = None  # of OpenCV's non-local means on the same noise, told σ; dB
    working_mib: float | None = None  # the most that a plan needed beyond input and output
    psnr_y: float | None = None  # of colour pictures: metrics.psnr_y; dB


def evaluate(
    model: nn.Module,
    folder: Path,
    sigma: float | None = None,
    *,
    pairs: bool = False,
    degradation: str | None = None,
    grey: bool = False,
    blind: bool = False,
    eager: bool = False,
    classical: bool = False,
    limit: int | None = None,
    threads: int | None = None,
    sheet: Path | None = None,
    report: Report | None = None,
) -> Score:
    """Restores every picture of a folder and compares with the clean one.

    sigma: of the added noise in 0-255 units; with pairs, what a σ-conditioned model is told (None: estimated).
    pairs: the folder holds degraded and clean pictures (see data/folders.py).  grey: colour pictures are
    turned to their luma.  degradation: a key of degrade.KINDS, instead of noise.  blind: σ is estimated from each
    noisy picture instead of given.  eager: run the module operator by operator (its convolutions still by our
    kernels), not the compiled plan.  classical: with added noise, measure OpenCV's non-local means as well.  limit:
    the first so many pictures by name.  sheet: a picture to write, with the middles of the first pictures before,
    after, clean, and the difference of the last two, four times as strong around grey.
    Raises ImageError for a folder without pictures and for a picture the model has the wrong channels for.
    """
    if not pairs and degradation is None and sigma is None:
        raise ImageError(f"{folder}: without pairs, sigma says how much noise to add")
    if degradation is not None and (pairs or degradation not in degrade.KINDS):
        raise ImageError(f"{folder}: a degradation is one of {', '.join(degrade.KINDS)}, and not for pairs")
    files = find_pairs(_pictures(folder)) if pairs else [(path, path) for path in _pictures(folder)]
    files = files[:limit]
    if not files:
        raise ImageError(f"{folder}: no {'pairs of pictures' if pairs else 'pictures'} found")
    session = _session(model, eager, threads)
    classical = classical and sigma is not None and not pairs and degradation is None
    rows, shown, seconds, classical_psnrs, working = [], [], [], [], []  # seconds: a pixel
    for done, (noisy_path, clean_path) in enumerate(files):
        if report:
            report(clean_path.name, done, len(files))
        clean = _read(clean_path, grey)
        if clean.shape[2] not in (1, model.config.channels):
            raise ImageError(f"{clean_path} is in colour and the model is not: say --grey to use the luma")
        if pairs:
            noisy = _read(noisy_path, grey)
            if noisy.shape != clean.shape:
                raise ImageError(f"{noisy_path} is {noisy.shape}, its clean picture {clean.shape}")
            noisy = noisy.astype(np.float32) / 255
        elif degradation:
            made = degrade.KINDS[degradation]((clean / 255).astype(np.float32), seed=done)
            clean, noisy = _to_bytes(made.clean), _to_bytes(made.image).astype(np.float32) / 255
        else:
            noisy = degrade.noise(clean / 255, sigma, seed=0).astype(np.float32)
        told = sigma
        if model.takes_sigma and (blind or sigma is None):
            told = float(estimate.noise_level(noisy))
        start = time.perf_counter()
        restored = session.run(noisy, sigma=told if model.takes_sigma else None)
        seconds.append((time.perf_counter() - start) / (clean.shape[0] * clean.shape[1]))
        if isinstance(session, engine.Session):
            working.append(session.report.working_bytes / 2**20)
        both = _to_bytes(restored), _to_bytes(noisy)
        measures = metrics.psnr, metrics.ssim, metrics.texture_distance
        luma = metrics.psnr_y(both[0], clean) if clean.shape[2] == 3 else math.nan
        rows.append([*(measure(x, clean) for measure in measures for x in both), luma])
        if done < SHEET_ROWS:
            shown.append(_sheet_row(both[1], both[0], clean))
        if classical:
            classical_psnrs.append(metrics.psnr(_non_local_means(both[1], sigma), clean))
    kind = degradation or ("pairs" if pairs else "noise")
    classical_psnr = float(np.mean(classical_psnrs)) if classical else None
    *means, luma = np.mean(rows, axis=0).tolist()
    if sheet:
        image.write(sheet, image.Image(np.concatenate(shown)))
    return Score(
        kind,
        sigma,
        len(rows),
        *means,
        1e9 * min(seconds),
        classical_psnr,
        max(working, default=None),
        None if math.isnan(luma) else luma,
    )


def _sheet_row(before: np.ndarray, after: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """uint8 [SHEET_SIDE, 4 SHEET_SIDE, 3] of uint8 [H, W, 1 or 3]; smaller pictures are filled up with black."""
    height, width = (min(size, SHEET_SIDE) for size in clean.shape[:2])
    top, left = (clean.shape[0] - height) // 2, (clean.shape[1] - width) // 2
    row = np.zeros((SHEET_SIDE, 4, SHEET_SIDE, 3), np.uint8)
    parts = [x[top : top + height, left : left + width] for x in (before, after, clean)]
    difference = (parts[1].astype(np.int16) - parts[2]) * CONTRAST + 128
    for column, part in enumerate([*parts, difference.clip(0, 255)]):
        row[:height, column, :width] = part
    return row.reshape(SHEET_SIDE, -1, 3)


def _session(model: nn.Module, eager: bool, threads: int | None) -> engine.Session | TiledModel:
    if not eager:
        try:
            return engine.compile(model).session(threads=threads)
        except UnsupportedOperator:
            pass  # as the Restorer does
    return TiledModel(model)


def _non_local_means(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """Buades et al. (2005) as OpenCV has it; uint8 [H, W, 1 or 3].  Its strength of 0.7 σ was the best of five for σ
    15, 25 and 50 on pictures of BSDS500's val."""
    strength = 0.7 * sigma
    if noisy.shape[2] == 1:
        return cv2.fastNlMeansDenoising(noisy, None, strength, 7, 21)[..., None]
    lab = cv2.fastNlMeansDenoisingColored(np.ascontiguousarray(noisy[..., ::-1]), None, strength, strength, 7, 21)
    return lab[..., ::-1]


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in image.SUFFIXES)


def _read(path: Path, grey: bool) -> np.ndarray:
    """uint8 [H, W, 1] or [H, W, 3]."""
    pixels = image.read(path).pixels
    if pixels.dtype != np.uint8:
        raise ImageError(f"{path} has samples of {pixels.dtype}; the protocol is for 8 bits")
    if grey and pixels.shape[2] == 3:
        pixels = np.clip(np.rint(pixels @ LUMA), 0, 255).astype(np.uint8)[..., None]
    return pixels


def _to_bytes(x: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)
