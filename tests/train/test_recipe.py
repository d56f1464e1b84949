"""Recipes: what is accepted, and the sentence for what is not."""

import os
from pathlib import Path

import pytest

from fastrestore import models
from fastrestore.errors import ModelError
from fastrestore.train import load_recipe
from fastrestore.train.recipe import data_folders

GOOD = 'name = "denoise-test"\narchitecture = "dncnn"\nfolders = ["$DATA/a"]\n'


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        (tmp_path / "r.toml").write_text(text, encoding="utf-8")
        return load_recipe(tmp_path / "r.toml")

    return write


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_every_recipe_of_ours_builds_its_model(path):
    ours = load_recipe(path)
    assert path.stem == ours.name or path.stem == f"{ours.name}-2"  # a second phase has a recipe of its own
    assert ours.licence
    assert not any("testsets" in folder for folder in ours.folders)
    model = models.create(ours.architecture, **ours.config)
    assert sum(parameter.numel() for parameter in model.parameters()) * 2 < 5e6  # bytes as float16, shipped


def test_lists_become_tuples(recipe):
    ours = recipe(GOOD + "sigma = [1, 2]\nconfig = { widths = [4, 6] }\n")
    assert ours.sigma == (1, 2)
    assert ours.config == {"widths": (4, 6)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "r.toml"),
        ("\x00", "r.toml"),
        ('name = "x"', "architecture"),
        (GOOD + "stepz = 1", "unknown key stepz"),
        (GOOD + '_target_ = "os.system"', "unknown key _target_"),
        (GOOD + "steps = 0", "steps"),
        (GOOD + "batch = -1", "batch"),
        (GOOD + "patch = 0", "patch"),
        (GOOD + "sigma = [5, 1]", "sigma"),
        (GOOD + "sigma = [-1, 1]", "sigma"),
        (GOOD + "grey = 2", "grey"),
        (GOOD + 'precision = "int4"', "precision"),
        (GOOD + "save_every = 0", "save_every"),
        (GOOD + 'steps = "many"', "steps"),
        (GOOD + "sigma = 25", "sigma"),
        (GOOD + 'loss = "l7"', "loss"),
        (GOOD + "loss = 1", "loss"),
        (GOOD + "loss = { l1 = 0 }", "loss"),
        (GOOD + "loss = {}", "loss"),
        (GOOD + "budget_minutes = -1", "budget_minutes"),
        (GOOD + 'adversarial = { loss = "wgan" }', "adversarial"),
        (GOOD + "adversarial = { weight = 0 }", "adversarial"),
        (GOOD + "adversarial = { start = 1.0 }", "adversarial"),
        (GOOD + "adversarial = { depth = 3 }", "adversarial: unknown depth"),
        (GOOD + 'degradation = { kind = "rain", variants = 1, side = 64 }', "degradation"),
        (GOOD + 'degradation = { kind = "blur", variants = 1 }', "degradation"),
        (GOOD + 'degradation = { kind = "blur", variants = 1, side = 63 }', "degradation"),
        (GOOD + 'degradation = { kind = "blur", variants = 0, side = 64 }', "degradation"),
    ],
)
def test_wrong_recipes_are_refused(recipe, text, words):
    with pytest.raises(ModelError, match=words):
        recipe(text)


def test_a_loss_may_have_parts(recipe):
    assert recipe(GOOD).losses == {"l1": 1.0}
    assert recipe(GOOD + "loss = { l1 = 1, fft = 0.05 }").losses == {"l1": 1, "fft": 0.05}


def test_missing_recipe():
    with pytest.raises(ModelError, match=r"none\.toml"):
        load_recipe(Path("none.toml"))


def test_data_folders(recipe, tmp_path, monkeypatch):
    ours = recipe(GOOD)
    monkeypatch.delenv("FASTRESTORE_DATA", raising=False)
    with pytest.raises(ModelError, match="pass --data"):
        data_folders(ours, None)
    with pytest.raises(ModelError, match="does not exist"):
        data_folders(ours, tmp_path)
    os.mkdir(tmp_path / "a")
    assert data_folders(ours, tmp_path) == [tmp_path / "a"]
    monkeypatch.setenv("FASTRESTORE_DATA", str(tmp_path))
    assert data_folders(ours, None) == [tmp_path / "a"]
