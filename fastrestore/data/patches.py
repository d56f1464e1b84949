"""Random patches from pictures held in memory."""

from pathlib import Path

import cv2
import numpy as np

from fastrestore.data.augment import crop
from fastrestore.errors import ImageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


def load_pictures(folders: list[Path], min_side: int) -> tuple[list[np.ndarray], list[str]]:
    """Reads every picture of the folders as RGB uint8 [H, W, 3].

    Returns the pictures in name order, and a sentence for each file that was left out (unreadable, or a side
    below min_side): one bad file never costs the training.  Raises ImageError if no picture is left.
    """
    pictures, skipped = [], []
    for folder in folders:
        for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
            picture, wrong = read_picture(path, min_side)
            if wrong:
                skipped.append(wrong)
            else:
                pictures.append(picture)
    if not pictures:
        raise ImageError(f"no training picture in {', '.join(map(str, folders))}")
    return pictures, skipped


def read_picture(path: Path, min_side: int) -> tuple[np.ndarray | None, str]:
    """A picture as RGB uint8 [H, W, 3], grey ones with three equal channels; or None and what is wrong with it."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        return None, f"{path}: not a readable picture"
    if min(picture.shape[:2]) < min_side:
        return None, f"{path}: smaller than the patch of {min_side} pixels"
    return np.ascontiguousarray(picture[..., ::-1]), ""


class PatchSampler:
    """Batches of augmented clean patches; batch k depends on (seed, k) alone, so training can resume exactly."""

    LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as the grey test sets were made

    def __init__(self, pictures: list[np.ndarray], patch: int, batch: int, grey: float, seed: int):
        """patch: side in pixels.  grey: share of patches turned to grey, their plane repeated in all channels."""
        self.pictures, self.patch, self.batch, self.grey, self.seed = pictures, patch, batch, grey, seed

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (clean [N, P, P, 3] float32 in [0, 1], is_grey [N] bool)."""
        rng = np.random.default_rng([self.seed, step])
        clean = np.empty((self.batch, self.patch, self.patch, 3), np.float32)
        is_grey = rng.random(self.batch) < self.grey
        for i in range(self.batch):
            clean[i] = crop(rng, self.pictures[rng.integers(len(self.pictures))], self.patch)
        clean /= 255
        clean[is_grey] = (clean[is_grey] @ self.LUMA)[..., None]
        return clean, is_grey
