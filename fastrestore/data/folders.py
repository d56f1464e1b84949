"""Folders of pairs: a degraded picture and its clean one, which its name tells."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fastrestore.data.patches import SUFFIXES, read_picture
from fastrestore.errors import ImageError

# A degraded picture and its clean one: the same name but for one of these words, after "_" or before it.
WORDS = (
    ("real", "mean"),
    ("noisy", "clean"),
    ("noisy", "gt"),
    ("moire", "gt"),
    ("src", "tar"),
    ("blur", "sharp"),
    ("blur", "gt"),
)


def find_pairs(paths: list[Path]) -> list[tuple[Path, Path]]:
    """(degraded, clean) among these pictures, in name order."""
    by_stem = {path.stem.lower(): path for path in paths}
    return sorted((by_stem[a], by_stem[b]) for stem in by_stem for a, b in _partners(stem) if b in by_stem)


def _partners(stem: str) -> Iterator[tuple[str, str]]:
    for degraded, clean in WORDS:
        for pattern in (rf"_{degraded}$", rf"^{degraded}_"):
            partner = re.sub(pattern, lambda m, to=clean, of=degraded: m[0].replace(of, to), stem)
            if partner != stem:
                yield stem, partner


def load_pairs(folders: list[Path], min_side: int) -> tuple[list[np.ndarray], list[str]]:
    """Reads every pair of the folders: uint8 [2, H, W, 3], degraded and clean.

    Returns the pairs in name order, and a sentence for each that was left out.  Raises ImageError if none is left.
    """
    pairs, skipped = [], []
    for folder in folders:
        pictures = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
        for paths in find_pairs(pictures):
            both, wrong = zip(*(read_picture(path, min_side) for path in paths), strict=True)
            if any(wrong):
                skipped.extend(filter(None, wrong))
            elif both[0].shape != both[1].shape:
                skipped.append(f"{paths[0]}: not of the size of {paths[1].name}")
            else:
                pairs.append(np.stack(both))
    if not pairs:
        names = ", ".join(f"{degraded} and {clean}" for degraded, clean in WORDS)
        raise ImageError(f"no training pair in {', '.join(map(str, folders))}: their names differ by {names}")
    return pairs, skipped
