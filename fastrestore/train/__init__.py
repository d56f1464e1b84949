"""Training: one recipe file in, one model file out."""

from fastrestore.train.loop import status, train
from fastrestore.train.recipe import Recipe, load_recipe
from fastrestore.train.team import Team

__all__ = ["Recipe", "Team", "load_recipe", "status", "train"]
