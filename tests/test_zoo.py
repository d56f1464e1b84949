"""The named models: found by name, listed with their cards, and each shipped file is whole."""

import pytest
import torch

from fastrestore import checkpoint, models, zoo
from fastrestore.errors import ModelError

CARD = {"name": "denoise-test", "task": "denoise", "family": "cnn", "input": "image", "licence": "none"}


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    model = models.create("ffdnet", channels=1, width=4, depth=3)
    checkpoint.save(model, tmp_path / "denoise-test.safetensors", torch.float16, CARD)
    return tmp_path


def test_entries_come_from_the_cards(weights):
    (entry,) = models()
    assert entry == zoo.find("denoise-test")
    assert (entry.name, entry.task, entry.family, entry.input) == ("denoise-test", "denoise", "cnn", "image")
    assert (entry.architecture, entry.channels, entry.takes_sigma) == ("ffdnet", 1, True)
    assert entry.card == CARD


def test_the_called_module_is_still_a_module():
    assert models.create("dncnn", width=4, depth=2).halo == 2


def test_names_and_paths_load(weights):
    by_name = zoo.load("denoise-test")
    for path in (weights / "denoise-test.safetensors", str(weights / "denoise-test.safetensors")):
        assert all(torch.equal(a, b) for a, b in zip(by_name.parameters(), zoo.load(path).parameters(), strict=True))


def test_unknown_names_list_the_known(weights):
    for name in ("denoise-best", "", "../denoise-test", "a/b"):
        with pytest.raises(ModelError) as caught:
            zoo.load(name)
        assert "denoise-test" in str(caught.value) or "No such file" in str(caught.value)
    with pytest.raises(ModelError, match="known are denoise-test"):
        zoo.find("denoise-best")
    with pytest.raises(ModelError, match="denoise"):
        zoo.default("paint")
    assert zoo.default("denoise") == "denoise-cnn"


@pytest.mark.parametrize("change", [{"name": "denoise-other"}, {"task": 3}, {"licence": None}], ids=str)
def test_a_wrong_card_is_refused(weights, change):
    path = weights / "denoise-test.safetensors"
    checkpoint.rewrite_card(path, CARD | change)
    with pytest.raises(ModelError, match=f"card is not right: {next(iter(change))}"):
        zoo.entries()


def test_the_default_of_every_task_ships():
    assert {zoo.default(task) for task in zoo.DEFAULTS} <= set(zoo.names())


def test_the_models_of_pictures_stay_small_together():
    assert sum(entry.path.stat().st_size for entry in zoo.entries() if entry.input == "image") <= 16e6


def test_a_card_in_words():
    psnr = {"cbsd68": {"15": 30.0, "25": 28.5, "25 input": 20.5}, "mine": {"blur": 25.25, "blur input": 23.0}}
    assert zoo.quality({"psnr": psnr}) == [
        "30.00 / 28.50 dB at σ 15 / 25 (CBSD68)",
        "simulated blur: 23.00 -> 25.25 dB (mine)",
    ]
    assert zoo.quality({}) == []


@pytest.mark.parametrize("name", zoo.names())
def test_every_shipped_model_is_whole(name):
    entry = zoo.find(name)
    assert entry.path.stat().st_size < 4e6
    assert entry.name == f"{entry.task}-{entry.family}"
    assert entry.card["licence"] and entry.card["data"] and entry.card["psnr"] and entry.card["recipe"]
    model = zoo.load(name)
    x = torch.rand(1, entry.channels, 17, 22)
    with torch.no_grad():
        y = model(x, 25.0) if entry.takes_sigma else model(x)
    assert y.shape == x.shape
    assert y.isfinite().all()
