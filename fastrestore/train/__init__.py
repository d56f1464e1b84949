"""Training: one recipe file in, one model file out."""

from fastrestore.train.loop import status, train
from fastrestore.train.recipe import Recipe, load_recipe

__all__ = ["Recipe", "load_recipe", "status", "train"]
