"""Training clips, made as they are needed: moving parts of still pictures, with noise anew in each frame."""

from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

from fastrestore import align, degrade
from fastrestore.data.patches import PatchSampler


class Clips(NamedTuple):
    """A batch of clips, float32."""

    clean: np.ndarray  # [T, N, P, P, 3] in [0, 1]
    degraded: np.ndarray  # [T, N, P, P, 3], not clipped
    flow: (
        np.ndarray
    )  # [T, N, P, P, 2] from each frame to the one before, found in the degraded ones, with errors; 0 at the first
    sigma: np.ndarray  # [N] of the noise, in 0-255 units


class ClipSampler:
    """Batches of clips with white noise; batch k depends on (seed, k) alone, so training can resume exactly."""

    def __init__(
        self,
        pictures: list[np.ndarray],
        frames: int,
        patch: int,
        batch: int,
        grey: float,
        sigma: tuple[float, float],
        seed: int,
    ):
        """pictures: RGB uint8 [H, W, 3].  frames, patch: of a clip; patch is its side in pixels.  grey: share of clips
        turned to grey, their plane and its noise repeated in all channels.  sigma: uniform between these."""
        self.pictures, self.frames, self.patch, self.batch = pictures, frames, patch, batch
        self.grey, self.sigma, self.seed = grey, sigma, seed

    def __call__(self, step: int) -> Clips:
        rng = np.random.default_rng([self.seed, step])
        shape = self.frames, self.batch, self.patch, self.patch
        clean = np.empty((*shape, 3), np.float32)
        is_grey = rng.random(self.batch) < self.grey
        for i in range(self.batch):
            clean[:, i] = self._clip(rng)
        clean[:, is_grey] = (clean[:, is_grey] @ PatchSampler.LUMA)[..., None]
        sigma = rng.uniform(*self.sigma, self.batch).astype(np.float32)
        noise = rng.standard_normal(clean.shape, np.float32)
        noise[:, is_grey] = noise[:, is_grey, ..., :1]
        degraded = clean + noise * (sigma / 255)[:, None, None, None]
        flow = flows(degraded)
        flow[1:] += self._errors(rng)
        return Clips(clean, degraded, flow, sigma)

    def _errors(self, rng: np.random.Generator) -> np.ndarray:
        """Smooth errors of the flow, in half of the clips: what still pictures do not have, but water and leaves do."""
        errors = np.zeros((self.frames - 1, self.batch, self.patch, self.patch, 2), np.float32)
        for i in np.flatnonzero(rng.random(self.batch) < 0.5):
            size, cells = 10 ** rng.uniform(-1, 0.7), rng.integers(2, 9)
            for t in range(self.frames - 1):
                coarse = size * rng.standard_normal((cells, cells, 2), np.float32)
                errors[t, i] = cv2.resize(coarse, (self.patch, self.patch), interpolation=cv2.INTER_CUBIC)
        return errors

    def _clip(self, rng: np.random.Generator) -> np.ndarray:
        picture, visitor = (self.pictures[rng.integers(len(self.pictures))] for _ in range(2))
        picture, visitor = (np.rot90(part, rng.integers(4)).astype(np.float32) / 255 for part in (picture, visitor))
        return degrade.handheld(picture, self.frames, self.patch, visitor=visitor, seed=rng).clean


def flows(frames: np.ndarray) -> np.ndarray:
    """The flow from each frame to the one before, as a stream's is found.  frames: [T, N, H, W, C]; the first has 0."""
    flow = np.zeros((*frames.shape[:4], 2), np.float32)
    for i in range(frames.shape[1]):
        outlines = [align.outline(frame) for frame in frames[:, i]]
        for t, (before, now) in enumerate(pairwise(outlines), 1):
            flow[t, i] = align.flow(now, before)
    return flow
