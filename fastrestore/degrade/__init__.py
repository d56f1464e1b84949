"""Degradations with known parameters: what restoration is trained and measured against."""

from fastrestore.degrade.blur import Blur, blur, make_kernel
from fastrestore.degrade.moire import Moire, moire
from fastrestore.degrade.noise import noise

__all__ = ["Blur", "Moire", "blur", "make_kernel", "moire", "noise"]
