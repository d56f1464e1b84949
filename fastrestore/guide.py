"""A guide beside the picture to be restored: another picture of the same scene, as a plan's state."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from fastrestore import align
from fastrestore.engine import Session
from fastrestore.errors import ImageError

# Of `resemblance`.  Measured on 16 pictures with three guides each at σ 5, 25 and 50: at least 0.34, 0.28 and 0.19 with
# their own, at most 0.30, 0.27 and 0.24 with another picture's.
LEAST = 0.25


def resemblance(picture: np.ndarray, guide: np.ndarray) -> float:
    """How well a guide's edges lie where a picture has its own: their correlation.  Both [H, W, C], of one size."""
    edges = []
    for part in (picture, guide):
        outline = align.outline(part).astype(np.float32)
        slopes = cv2.Sobel(outline, cv2.CV_32F, 1, 0), cv2.Sobel(outline, cv2.CV_32F, 0, 1)
        edge = np.sqrt(np.hypot(*slopes))
        edges.append(edge - edge.mean())
    a, b = edges
    return float((a * b).mean() / max(a.std() * b.std(), 1e-6))


class GuidedRunner:
    """Runs a guided plan's session with one guide, with Session.run's signature.

    A guide that shows something else is left out, and a notice says so.
    """

    halo = None  # the guide is of the whole picture

    def __init__(self, session: Session, guide: np.ndarray):
        """guide: [H, W, 1 or 3] uint8, uint16 or floats in [0, 1]."""
        self._session = session
        scale = np.iinfo(guide.dtype).max if guide.dtype.kind == "u" else 1
        channels = session.plan.states[0][0] - 1
        plane = np.broadcast_to(guide, (*guide.shape[:2], channels)).astype(np.float32) / np.float32(scale)
        self._guide = np.concatenate([plane, np.ones((*plane.shape[:2], 1), np.float32)], 2)
        self.notices: list[str] = []

    @property
    def info(self) -> dict[str, Any]:
        return self._session.info

    def run(
        self,
        image: np.ndarray,
        sigma: float | None = None,
        strength: float = 1.0,
        clip: bool = True,
        out: np.ndarray | None = None,
        progress: Callable[[float], object] | None = None,
    ) -> np.ndarray:
        """As Session.run.  Raises ImageError for a picture of another size than the guide's."""
        sides = image.shape[:2]
        if sides != self._guide.shape[:2]:
            of = "{1} x {0}".format(*self._guide.shape[:2])
            raise ImageError(
                f"a guide of {of} pixels for a picture of {sides[1]} x {sides[0]}: they must be of one size"
            )
        alike = resemblance(image, self._guide[..., :-1])
        if alike < LEAST:
            self.notices.append(f"the guide is left out: its edges are not the picture's (correlation {alike:.2f})")
            return self._session.run(image, sigma, strength, clip, out, progress)
        multiple = self._session.plan.multiple_of
        padding = [(0, -side % multiple) for side in sides]
        self._session.states = [np.pad(self._guide, [*padding, (0, 0)], mode="edge")]
        try:
            return self._session.run(image, sigma, strength, clip, out, progress)
        finally:
            self._session.reset()  # the next picture has no guide unless it brings one
