"""Pairs of degraded and clean pictures, made ahead where a degradation takes longer than a training step."""

import hashlib
import json
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from fastrestore import degrade
from fastrestore.data.augment import crop, cutmix
from fastrestore.data.patches import PatchSampler

VERSION = 2  # counted up when a degradation's random parameters change: pairs made before are then not used


def make_pairs(
    pictures: list[np.ndarray],
    kind: str,
    side: int,
    variants: int,
    seed: int,
    folder: Path,
    report: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """Degrades a random part of each picture, variants times over, or finds the pairs that were made before.

    pictures: RGB uint8 [H, W, 3], no side below side.  kind: one of degrade.KINDS.  folder: where the pairs are kept,
    one file a variant; a run that was cut off goes on with the next variant.  report: called with (done, of).
    Returns one array a variant, uint8 [pictures, 2, side, side, 3], degraded and clean, mapped from its file: it
    depends on the arguments alone, not on the number of processes.
    """
    about = {"kind": kind, "side": side, "seed": seed, "version": VERSION}
    about["pictures"] = [zlib.crc32(picture) for picture in pictures]
    identity = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"pairs-{identity}-{variant}.npy" for variant in range(variants)]
    for variant, path in enumerate(paths):
        if not path.exists():
            _make_variant(pictures, kind, side, variant, seed, path)
        if report:
            report(variant + 1, variants)
    return [np.load(path, mmap_mode="r") for path in paths]


def make_pair(picture: np.ndarray, kind: str, side: int, seed: list[int]) -> np.ndarray:
    """One degraded part of a picture and its clean one: uint8 [2, side, side, 3]."""
    rng = np.random.default_rng(seed)
    y, x = (rng.integers(size - side + 1) for size in picture.shape[:2])
    part = picture[y : y + side, x : x + side].astype(np.float32) / 255
    made = degrade.KINDS[kind](part, seed=rng)
    return np.stack([np.rint(image.clip(0, 1) * 255).astype(np.uint8) for image in (made.image, made.clean)])


def _make_variant(pictures: list[np.ndarray], kind: str, side: int, variant: int, seed: int, path: Path) -> None:
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    seeds = [[seed, variant, i] for i in range(len(pictures))]
    partial = path.with_suffix(".partial")
    pairs = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(pictures), 2, side, side, 3))
    work = pictures, [kind] * len(pictures), [side] * len(pictures), seeds
    if workers == 1:
        for i, pair in enumerate(map(make_pair, *work)):
            pairs[i] = pair
    else:
        # New processes: a fork of one that has run torch's threads may hang.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for i, pair in enumerate(pool.map(make_pair, *work, chunksize=8)):
                pairs[i] = pair
    pairs.flush()
    partial.replace(path)  # a cut write never counts as made


class PairSampler:
    """Batches of augmented pairs; batch k depends on (seed, k) alone, so training can resume exactly."""

    def __init__(self, pairs: list[np.ndarray], patch: int, batch: int, grey: float, seed: int, mix: float = 0.0):
        """pairs: as make_pairs returns them.  patch: side in pixels.  grey: share of pairs turned to grey.  mix:
        share of pairs that get a rectangle of another."""
        self.pairs, self.patch, self.batch, self.grey, self.seed, self.mix = pairs, patch, batch, grey, seed, mix

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (clean, degraded), each [N, P, P, 3] float32 in [0, 1]."""
        rng = np.random.default_rng([self.seed, step])
        both = np.empty((self.batch, 2, self.patch, self.patch, 3), np.float32)
        is_grey = rng.random(self.batch) < self.grey
        for i in range(self.batch):
            variant = self.pairs[rng.integers(len(self.pairs))]
            pair = variant[rng.integers(len(variant))]
            both[i] = crop(rng, pair, self.patch)
        both /= 255
        both[is_grey] = (both[is_grey] @ PatchSampler.LUMA)[..., None]
        if self.mix:
            both = cutmix(rng, both, self.mix)
        return both[:, 1], both[:, 0]
