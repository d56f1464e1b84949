"""Degradations with known parameters: what restoration is trained and measured against."""

from collections.abc import Callable

from fastrestore.degrade.blur import Blur, blur, make_kernel
from fastrestore.degrade.moire import Moire, moire
from fastrestore.degrade.noise import noise

# Those that draw their own parameters: KINDS[kind](picture, seed=...) gives .image, .clean and .parameters.
KINDS: dict[str, Callable] = {"blur": blur, "moire": moire}

__all__ = ["KINDS", "Blur", "Moire", "blur", "make_kernel", "moire", "noise"]
