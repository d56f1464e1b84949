"""Clips and bursts made ahead: degraded frames, what a model for pictures makes of each, the clean ones, and the flow
between results.  What is learned from them is fusion alone, so that a training step need not restore the frames anew.
"""

import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastrestore import align, burst, degrade

VERSION = 2  # counted up when what is made changes: sequences made before are then not used
Restore = Callable[[np.ndarray], np.ndarray]  # one frame, float32 [H, W, 3], by itself


class Sequences(NamedTuple):
    """One sequence of each picture, mapped from files."""

    frames: np.ndarray  # uint8 [pictures, 3, T, side, side, 3]: degraded, restored alone, clean
    flow: np.ndarray  # float16 [pictures, T, side, side, 2]: from each frame to the one before, 0 at the first; or,
    # of a burst, from the reference to each shot
    reference: np.ndarray  # int64 [pictures]: of a burst; else 0


def make_sequences(
    pictures: list[np.ndarray],
    kind: str,
    frames: int,
    side: int,
    bursts: bool,
    seed: int,
    folder: Path,
    restore: Restore,
    about: str,
    report: Callable[[int, int], None] | None = None,
) -> Sequences:
    """Makes a sequence of each picture, or finds those that were made before.

    pictures: RGB uint8 [H, W, 3], no side below side.  kind: one of degrade.CLIPS.  bursts: the flow is from a
    reference, which is the sharpest shot of every other sequence and any shot of the rest.  folder: where they are
    kept.  restore, about: the model for pictures, and what tells it from others.  report: called with (done, of).
    """
    identity = {"kind": kind, "frames": frames, "side": side, "bursts": bursts, "seed": seed, "version": VERSION}
    identity |= {"restore": about, "pictures": [zlib.crc32(picture) for picture in pictures]}
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    paths = [folder / f"sequences-{name}-{part}.npy" for part in Sequences._fields]
    if not all(path.exists() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        count = len(pictures)
        shapes = (count, 3, frames, side, side, 3), (count, frames, side, side, 2), (count,)
        partial = [path.with_suffix(".partial") for path in paths]
        made = [
            np.lib.format.open_memmap(path, "w+", dtype, shape)
            for path, dtype, shape in zip(partial, (np.uint8, np.float16, np.int64), shapes, strict=True)
        ]
        for i, picture in enumerate(pictures):
            for part, value in zip(
                made, _sequence(picture, kind, frames, side, bursts, [seed, i], restore), strict=True
            ):
                part[i] = value
            if report:
                report(i + 1, count)
        for part, path, final in zip(made, partial, paths, strict=True):
            part.flush()
            path.replace(final)  # a cut write never counts as made
    return Sequences(*(np.load(path, mmap_mode="r") for path in paths))


def _sequence(
    picture: np.ndarray, kind: str, frames: int, side: int, bursts: bool, seed: list[int], restore: Restore
) -> tuple[np.ndarray, np.ndarray, int]:
    rng = np.random.default_rng(seed)
    y, x = (rng.integers(size - side + 1) for size in picture.shape[:2])
    part = picture if kind == "shaken" else picture[y : y + side, x : x + side]
    options = {"side": side} if kind == "shaken" else {}
    made = degrade.CLIPS[kind](part.astype(np.float32) / 255, frames, **options, seed=rng)
    degraded = _to_bytes(made.image)
    alone = np.stack([restore(frame.astype(np.float32) / 255) for frame in degraded])
    outlines = [align.outline(frame) for frame in alone]
    reference = 0
    if bursts:
        sharpest, any_shot = int(np.argmax([burst.sharpness(one) for one in outlines])), int(rng.integers(frames))
        reference = sharpest if seed[-1] % 2 else any_shot
        flow = [align.flow(outlines[reference], one) for one in outlines]
    else:
        flow = [np.zeros((side, side, 2)), *map(align.flow, outlines[1:], outlines)]
    return np.stack([degraded, _to_bytes(alone), _to_bytes(made.clean)]), np.stack(flow), reference


def _to_bytes(x: np.ndarray) -> np.ndarray:
    return np.rint(x.clip(0, 1) * 255).astype(np.uint8)


class ClipPart(NamedTuple):
    """A batch of parts of clips, float32."""

    degraded: np.ndarray  # [T, N, P, P, 3] in [0, 1]
    alone: np.ndarray  # each frame restored by itself, like degraded
    clean: np.ndarray  # like degraded
    flow: np.ndarray  # [T, N, P, P, 2]


class SequenceSampler:
    """Batches of parts of clips; batch k depends on (seed, k) alone, so training can resume exactly."""

    def __init__(self, sequences: Sequences, patch: int, batch: int, seed: int):
        """patch: side in pixels."""
        self.sequences, self.patch, self.batch, self.seed = sequences, patch, batch, seed

    def __call__(self, step: int) -> ClipPart:
        rng = np.random.default_rng([self.seed, step])
        frames, flow = self.sequences.frames, self.sequences.flow
        parts = [self._part(rng, frames[i], flow[i]) for i in rng.integers(len(frames), size=self.batch)]
        images, flows = (np.stack(each, axis) for each, axis in zip(zip(*parts, strict=True), (2, 1), strict=True))
        return ClipPart(*images.astype(np.float32) / 255, flows.astype(np.float32))

    def _part(self, rng: np.random.Generator, frames: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A random part of a clip, mirrored at random, the flow with it."""
        y, x = (rng.integers(size - self.patch + 1) for size in flow.shape[1:3])
        inside = (..., slice(y, y + self.patch), slice(x, x + self.patch), slice(None))
        frames, flow = frames[inside], flow[inside]
        for axis, component in ((-2, 0), (-3, 1)):
            if rng.integers(2):
                frames, flow = np.flip(frames, axis), np.flip(flow, axis).copy()
                flow[..., component] *= -1
        return frames, flow


class BurstPart(NamedTuple):
    """A batch of parts of bursts, float32, aligned with the reference, which comes first."""

    shots: np.ndarray  # [N, K, P, P, 3] in [0, 1]
    alone: np.ndarray  # each shot restored by itself, like shots
    known: np.ndarray  # [N, K, P, P, 1]: 1 where a shot shows something, else 0
    clean: np.ndarray  # [N, P, P, 3]


class BurstSampler:
    """Batches of parts of bursts of 2 to all of the shots; batch k depends on (seed, k) alone."""

    def __init__(self, sequences: Sequences, patch: int, batch: int, seed: int):
        """patch: side in pixels."""
        self.sequences, self.patch, self.batch, self.seed = sequences, patch, batch, seed

    def __call__(self, step: int) -> BurstPart:
        rng = np.random.default_rng([self.seed, step])
        sequences = self.sequences
        count = int(rng.integers(2, sequences.flow.shape[1] + 1))
        parts = [self._part(rng, i, count) for i in rng.integers(len(sequences.flow), size=self.batch)]
        shots, alone, known, clean = (np.stack(each) for each in zip(*parts, strict=True))
        return BurstPart(shots, alone, known, clean)

    def _part(self, rng: np.random.Generator, i: int, count: int) -> tuple[np.ndarray, ...]:
        (degraded, alone, clean), flow = self.sequences.frames[i], self.sequences.flow[i].astype(np.float32)
        reference = int(self.sequences.reference[i])
        others = rng.permutation([k for k in range(len(flow)) if k != reference])[: count - 1]
        aligned = [burst.aligned(degraded[k], alone[k], flow[k]) for k in others]
        whole = np.ones((*clean.shape[1:3], 1), np.float32)
        shots, results, known = zip((degraded[reference], alone[reference], whole), *aligned, strict=True)
        y, x = (rng.integers(size - self.patch + 1) for size in clean.shape[1:3])
        turns, mirrored = rng.integers(4), rng.integers(2)

        def cut(part: np.ndarray) -> np.ndarray:
            part = np.rot90(part[..., y : y + self.patch, x : x + self.patch, :], turns, (-3, -2))
            return part[..., ::-1, :] if mirrored else part

        pictures = [cut(np.stack(each)).astype(np.float32) / 255 for each in (shots, results)]
        return *pictures, cut(np.stack(known)), cut(clean[reference]).astype(np.float32) / 255
