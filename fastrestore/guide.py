"""A guide beside the picture to be restored: another picture of the same scene, as a plan's state."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastrestore.engine import Session
from fastrestore.errors import ImageError


class GuidedRunner:
    """Runs a guided plan's session with one guide, with Session.run's signature."""

    halo = None  # the guide is of the whole picture

    def __init__(self, session: Session, guide: np.ndarray):
        """guide: [H, W, 1 or 3] uint8, uint16 or floats in [0, 1]."""
        self._session = session
        scale = np.iinfo(guide.dtype).max if guide.dtype.kind == "u" else 1
        channels = session.plan.states[0][0] - 1
        plane = np.broadcast_to(guide, (*guide.shape[:2], channels)).astype(np.float32) / np.float32(scale)
        self._guide = np.concatenate([plane, np.ones((*plane.shape[:2], 1), np.float32)], 2)

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
        multiple = self._session.plan.multiple_of
        padding = [(0, -side % multiple) for side in sides]
        self._session.states = [np.pad(self._guide, [*padding, (0, 0)], mode="edge")]
        try:
            return self._session.run(image, sigma, strength, clip, out, progress)
        finally:
            self._session.reset()  # the next picture has no guide unless it brings one
