"""Run twice at once by test_team.py: trains in one go and in two, and leaves each process's weights.

Arguments: the recipe, the folder to write to."""

import sys
from pathlib import Path

import torch

from fastrestore import checkpoint
from fastrestore.train import Team, load_recipe, train

recipe, folder = load_recipe(Path(sys.argv[1])), Path(sys.argv[2])
team = Team()
torch.set_num_threads(1)
whole = train(recipe, folder / "whole", team=team)
train(recipe, folder / "parts", team=team, stop_after=2)
parts = train(recipe, folder / "parts", team=team)
for name, model in (("whole", whole), ("parts", parts)):
    checkpoint.save(model, folder / f"{name}-{team.rank}.safetensors")
team.close()
