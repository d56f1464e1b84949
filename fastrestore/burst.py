"""Shots of one scene: which of them is the reference, and which do not fit it."""

from collections.abc import Sequence

import cv2
import numpy as np

from fastrestore import align
from fastrestore.errors import ImageError

MOST = 16  # shots


def chosen(outlines: Sequence[np.ndarray], reference: int | None) -> tuple[int, list[int], list[str]]:
    """The reference's index, those of the other shots that fit it, in order, and a sentence for each that does not.

    outlines: align.outline of each shot.  reference: an index, or None: the sharpest shot.
    Raises ImageError for no shot or more than MOST, and for a reference that is not there.
    """
    if not 1 <= len(outlines) <= MOST:
        raise ImageError(f"a burst is 1 to {MOST} shots, got {len(outlines)}")
    if reference is None:
        reference = int(np.argmax([_sharpness(outline) for outline in outlines]))
    if not 0 <= reference < len(outlines):
        raise ImageError(f"shot {reference + 1} of {len(outlines)} cannot be the reference")
    ours = outlines[reference]
    others, notices = [], []
    for index, outline in enumerate(outlines):
        if index == reference:
            continue
        if outline.shape != ours.shape:
            sizes = "{1} x {0} pixels, the reference {3} x {2}".format(*outline.shape, *ours.shape)
            notices.append(f"shot {index + 1} is left out: it has {sizes}")
        elif align.difference(ours, outline, align.flow(ours, outline)) > align.OTHER_SCENE:
            notices.append(f"shot {index + 1} is left out: it does not show what the reference shows")
        else:
            others.append(index)
    if not others:
        notices.append("a burst of one shot: restored as a single picture")
    return reference, others, notices


def _sharpness(outline: np.ndarray) -> float:
    """How strong a picture's fine detail is against its contrast."""
    return float(cv2.Laplacian(outline, cv2.CV_32F).var() / max(outline.var(), 1.0))
