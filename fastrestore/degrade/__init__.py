"""Degradations with known parameters: what restoration is trained and measured against."""

from fastrestore.degrade.noise import noise

__all__ = ["noise"]
