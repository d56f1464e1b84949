"""Degradations with known parameters: what restoration is trained and measured against."""

from collections.abc import Callable

from fastrestore.degrade.blur import Blur, blur, make_kernel
from fastrestore.degrade.ct import LowDose, low_dose
from fastrestore.degrade.guide import KINDS as GUIDES
from fastrestore.degrade.guide import Guide, guide
from fastrestore.degrade.handheld import Handheld, handheld
from fastrestore.degrade.jpeg import Jpeg, jpeg
from fastrestore.degrade.moire import Moire, moire
from fastrestore.degrade.motion import Motion, Turn, motion, turn
from fastrestore.degrade.moving import MovingMoire, Shaken, moving_moire, shaken
from fastrestore.degrade.noise import noise
from fastrestore.degrade.sensor import Sensor, sensor

# Those of one picture: KINDS[kind](picture, seed=...) gives .image, .clean and .parameters.
KINDS: dict[str, Callable] = {
    "blur": blur,
    "ct": low_dose,
    "jpeg": jpeg,
    "moire": moire,
    "sensor": sensor,
    "turn": turn,
}
# Those of a clip from one picture: CLIPS[kind](picture, frames, seed=...) gives .image and .clean [T, H, W, C].
CLIPS: dict[str, Callable] = {"moving-moire": moving_moire, "shaken": shaken}

__all__ = [
    "CLIPS",
    "GUIDES",
    "KINDS",
    "Blur",
    "Guide",
    "Handheld",
    "Jpeg",
    "LowDose",
    "Moire",
    "Motion",
    "MovingMoire",
    "Sensor",
    "Shaken",
    "Turn",
    "blur",
    "guide",
    "handheld",
    "jpeg",
    "low_dose",
    "make_kernel",
    "moire",
    "motion",
    "moving_moire",
    "noise",
    "sensor",
    "shaken",
    "turn",
]
