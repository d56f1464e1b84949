"""Degradations with known parameters: what restoration is trained and measured against."""

from collections.abc import Callable

from fastrestore.degrade.blur import Blur, blur, make_kernel
from fastrestore.degrade.ct import LowDose, low_dose
from fastrestore.degrade.jpeg import Jpeg, jpeg
from fastrestore.degrade.moire import Moire, moire
from fastrestore.degrade.motion import Motion, motion
from fastrestore.degrade.noise import noise
from fastrestore.degrade.sensor import Sensor, sensor

# Those that draw their own parameters: KINDS[kind](picture, seed=...) gives .image, .clean and .parameters.
KINDS: dict[str, Callable] = {"blur": blur, "ct": low_dose, "jpeg": jpeg, "moire": moire, "sensor": sensor}

__all__ = [
    "KINDS",
    "Blur",
    "Jpeg",
    "LowDose",
    "Moire",
    "Motion",
    "Sensor",
    "blur",
    "jpeg",
    "low_dose",
    "make_kernel",
    "moire",
    "motion",
    "noise",
    "sensor",
]
