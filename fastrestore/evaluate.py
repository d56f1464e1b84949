"""Quality of a model on a folder of pictures, by the field's protocol.

Added noise: white Gaussian of standard deviation σ / 255, drawn by NumPy's RandomState(0) anew for each picture,
added in float and neither clipped nor quantised.  Moiré and blur: degrade.KINDS with the picture's number as its
seed, the degraded picture rounded to 8 bits, as one from a file is.  The result is clipped to [0, 1] and rounded to
8 bits; PSNR and SSIM against the clean picture over all pixels and channels, no border cut; the mean over the
pictures.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from fastrestore import degrade, engine, estimate, image, metrics
from fastrestore.errors import ImageError
from fastrestore.tiled import TiledModel

Report = Callable[[str, int, int], None]  # picture, done, of

# A noisy picture and its clean one: the same name but for one of these words, after "_" or before it.
PAIRS = (
    ("real", "mean"),
    ("noisy", "clean"),
    ("noisy", "gt"),
    ("moire", "gt"),
    ("src", "tar"),
    ("blur", "sharp"),
    ("blur", "gt"),
)
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
    milliseconds: float  # a megapixel, of the model alone


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
    limit: int | None = None,
    threads: int | None = None,
    report: Report | None = None,
) -> Score:
    """Restores every picture of a folder and compares with the clean one.

    sigma: of the added noise in 0-255 units; with pairs, what a σ-conditioned model is told (None: estimated).
    pairs: the folder holds noisy and clean pictures (see PAIRS) and no noise is added.  grey: colour pictures are
    turned to their luma.  degradation: a key of degrade.KINDS, instead of noise.  blind: σ is estimated from each
    noisy picture instead of given.  eager: run the module operator by operator (its convolutions still by our
    kernels), not the compiled plan.  limit: the first so many pictures by name.
    Raises ImageError for a folder without pictures and for a picture the model has the wrong channels for.
    """
    if not pairs and degradation is None and sigma is None:
        raise ImageError(f"{folder}: without pairs, sigma says how much noise to add")
    if degradation is not None and (pairs or degradation not in degrade.KINDS):
        raise ImageError(f"{folder}: a degradation is one of {', '.join(degrade.KINDS)}, and not for pairs")
    files = _pairs(folder) if pairs else [(path, path) for path in _pictures(folder)]
    files = files[:limit]
    if not files:
        raise ImageError(f"{folder}: no {'pairs of pictures' if pairs else 'pictures'} found")
    session = TiledModel(model) if eager else engine.compile(model).session(threads=threads)
    rows, seconds, pixels = [], 0.0, 0
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
        seconds += time.perf_counter() - start
        pixels += clean.shape[0] * clean.shape[1]
        both = _to_bytes(restored), _to_bytes(noisy)
        measures = metrics.psnr, metrics.ssim, metrics.texture_distance
        rows.append([measure(x, clean) for measure in measures for x in both])
    kind = degradation or ("pairs" if pairs else "noise")
    return Score(kind, sigma, len(rows), *np.mean(rows, axis=0).tolist(), 1e9 * seconds / pixels)


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in image.SUFFIXES)


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """(degraded, clean) pictures, in name order."""
    by_stem = {path.stem.lower(): path for path in _pictures(folder)}
    return sorted((by_stem[a], by_stem[b]) for stem in by_stem for a, b in _partners(stem) if b in by_stem)


def _partners(stem: str) -> Iterator[tuple[str, str]]:
    for degraded, clean in PAIRS:
        for pattern in (rf"_{degraded}$", rf"^{degraded}_"):
            partner = re.sub(pattern, lambda m, to=clean, of=degraded: m[0].replace(of, to), stem)
            if partner != stem:
                yield stem, partner


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
