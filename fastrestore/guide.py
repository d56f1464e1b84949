"""A guide beside the picture to be restored: another picture of the same scene, as a plan's state."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from fastrestore import align
from fastrestore.plan import Session, check_guide

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
        """guide: as Session.run takes it."""
        self._session, self._guide = session, guide
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
        check_guide(self._session.plan, image, self._guide)
        alike, guide = resemblance(image, self._guide), self._guide
        if alike < LEAST:
            self.notices.append(f"the guide is left out: its edges are not the picture's (correlation {alike:.2f})")
            guide = None
        return self._session.run(image, sigma, strength, clip, out, progress, guide)
