"""A guide beside the picture to be restored: another picture of the same scene, as a plan's state."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from fastrestore.plan import Session, check_guide

FINE, COARSE = 1.0, 4.0  # pixels: deviations of the two blurs between which detail lies
# What white noise of variance 1 has of it: the energy of the difference of the two kernels.
NOISE = (1 / FINE**2 + 1 / COARSE**2 - 4 / (FINE**2 + COARSE**2)) / (4 * np.pi)
WINDOW = 15  # pixels a side
# Of `shown`.  Measured on eleven training pictures at σ 10, 25 and 50: flash and infrared guides in place show 0.92 to
# 1, and help; those 0.7 pixels aside show 0.81 to 0.93, and most cost; those 1.4 pixels aside 0.73 at most; maps of
# depths 0.48 at most.
LEAST = 0.94


def shown(picture: np.ndarray, guide: np.ndarray, sigma: float = 0.0) -> float:
    """How much of a picture's detail its guide shows, 0 to 1: the share of the detail's energy, noise left out, that
    within small windows is the guide's own detail times a factor of either sign.

    picture, guide: [H, W, C], of one size, each of integers or of floats nominally in [0, 1].  sigma: of the picture's
    noise, in 0-255 units.
    """
    ours, theirs = (_detail(part) for part in (picture, guide))
    both, own, its = (_mean(product) for product in (ours * theirs, ours * ours, theirs * theirs))
    noise = NOISE * sigma**2 / picture.shape[2]
    energy = float(own.mean())
    explained = float((both * both / (its + 1e-3)).mean())
    return min(explained / max(energy - noise, 0.2 * energy, 1e-3), 1.0)


def _detail(picture: np.ndarray) -> np.ndarray:
    """[H, W], in 0-255 units."""
    scale = 255 / np.iinfo(picture.dtype).max if picture.dtype.kind == "u" else 255
    plane = picture.mean(2, dtype=np.float32) * np.float32(scale)
    return cv2.GaussianBlur(plane, (0, 0), FINE) - cv2.GaussianBlur(plane, (0, 0), COARSE)


def _mean(x: np.ndarray) -> np.ndarray:
    return cv2.boxFilter(x, -1, (WINDOW, WINDOW), borderType=cv2.BORDER_REFLECT_101)


class GuidedRunner:
    """Runs a guided plan's session with one guide, with Session.run's signature.

    A guide that does not show the picture's detail is left out, and a notice says so.
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
        share, guide = shown(image, self._guide, sigma or 0.0), self._guide
        if share < LEAST:
            about = f"it shows {share:.0%} of the picture's detail, {LEAST:.0%} or more would help"
            self.notices.append(f"the guide is left out: {about}")
            guide = None
        return self._session.run(image, sigma, strength, clip, out, progress, guide)
