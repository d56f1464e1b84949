"""Training clips out of real ones: films, and folders of frames or of a burst's shots."""

from itertools import islice
from pathlib import Path

import numpy as np

from fastrestore import video
from fastrestore.data.augment import crop
from fastrestore.data.clips import ClipSampler
from fastrestore.data.patches import SUFFIXES, read_picture
from fastrestore.errors import ImageError

FILMS = {".mp4", ".mkv", ".mov", ".avi", ".webm", ".y4m"}
LONGEST = 100  # frames of a clip that are kept: all clips are held in memory
MAX_PIXELS = 10_000_000  # of a film's frame


def load_footage(folders: list[Path], min_side: int, frames: int) -> tuple[list[np.ndarray], list[str]]:
    """Reads the first LONGEST frames of every clip of the folders: uint8 [T, H, W, 3].

    A clip is a film, or a folder of pictures in the order of their names.  Returns the clips in name order, and a
    sentence for each that was left out: unreadable, fewer than frames long, of a side below min_side, or of frames of
    several sizes.  Raises ImageError if none is left, MissingDependency for films without PyAV.
    """
    clips, skipped = [], []
    for folder in folders:
        for path in sorted(p for p in folder.iterdir() if p.is_dir() or p.suffix.lower() in FILMS):
            try:
                clip = _folder(path, min_side) if path.is_dir() else _film(path, min_side)
                if len(clip) < frames:
                    raise ImageError(f"{path}: shorter than {frames} frames")
                clips.append(clip)
            except ImageError as error:
                skipped.append(str(error))
    if not clips:
        raise ImageError(f"no training clip in {', '.join(map(str, folders))}")
    return clips, skipped


def _folder(path: Path, min_side: int) -> np.ndarray:
    names = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    pictures, wrong = (
        zip(*(read_picture(name, min_side) for name in names[:LONGEST]), strict=True) if names else ((), ())
    )
    if any(wrong):
        raise ImageError(next(filter(None, wrong)))
    if len({picture.shape for picture in pictures}) > 1:
        raise ImageError(f"{path}: its frames are of several sizes")
    return np.stack(pictures) if pictures else np.empty((0, 0, 0, 3), np.uint8)


def _film(path: Path, min_side: int) -> np.ndarray:
    with video.Clip(path, MAX_PIXELS) as clip:
        frames = [pixels for pixels, _ in islice(clip.frames(), LONGEST)]
    if min(frames[0].shape[:2]) < min_side:
        raise ImageError(f"{path}: smaller than the patch of {min_side} pixels")
    deep = frames[0].dtype == np.uint16
    return np.stack([(frame >> 8).astype(np.uint8) if deep else frame for frame in frames])


class FootageSampler(ClipSampler):
    """Batches of parts of real clips with white noise, as ClipSampler's are of moving stills.

    pictures: the clips, uint8 [T, H, W, 3], none shorter than frames.
    """

    def _clip(self, rng: np.random.Generator) -> np.ndarray:
        clip = self.pictures[rng.integers(len(self.pictures))]
        start = rng.integers(len(clip) - self.frames + 1)
        return crop(rng, clip[start : start + self.frames], self.patch).astype(np.float32) / 255
