"""Training: it learns, resumes exactly, stops with a reason, and one bad picture costs nothing."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from fastrestore import checkpoint, metrics
from fastrestore.degrade import KINDS
from fastrestore.errors import ImageError, ModelError
from fastrestore.train import Recipe, train
from fastrestore.train.loop import _learning_rate, status


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        smooth = cv2.resize(rng.integers(0, 256, (5, 6, 3), np.uint8), (48, 40), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / f"{i}.png"), smooth)
    return tmp_path


@pytest.fixture
def recipe(folder):
    return Recipe(
        name="denoise-test",
        architecture="unet",
        folders=(str(folder),),
        config={"widths": (8, 8), "blocks": 1},
        patch=16,
        batch=4,
        steps=12,
        sigma=(5.0, 50.0),
        grey=0.3,
        warmup=2,
        save_every=4,
    )


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_ends_with_the_same_weights(recipe, tmp_path, precision):
    recipe = dataclasses.replace(recipe, precision=precision)
    whole = weights(train(recipe, tmp_path / "whole"))
    for _ in range(3):
        parts = weights(train(recipe, tmp_path / "parts", stop_after=5))
    assert same(whole, parts)
    assert same(whole, weights(train(recipe, tmp_path / "parts")))  # a finished run just returns its weights
    assert not same(whole, weights(train(dataclasses.replace(recipe, seed=1), tmp_path / "other")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_on_made_pairs_ends_with_the_same_weights(recipe, tmp_path, kind):
    recipe = dataclasses.replace(
        recipe,
        config={"widths": (8, 8), "blocks": 1, "sigma": False, "gain": True},
        degradation={"kind": kind, "variants": 2, "side": 24},
        loss={"charbonnier": 1.0, "fft": 0.1},
        steps=6,
    )
    whole = weights(train(recipe, tmp_path / "whole"))
    train(recipe, tmp_path / "parts", stop_after=4)
    made = sorted((tmp_path / "parts").glob("pairs-*-0.npy"))
    made[0].unlink()  # as if the run had been cut off before: made again, the same
    assert same(whole, weights(train(recipe, tmp_path / "parts")))
    assert not same(whole, weights(train(dataclasses.replace(recipe, seed=1), tmp_path / "other")))


@pytest.mark.parametrize("asked", [{}, {"loss": "hinge", "relativistic": False}, {"loss": "hinge"}], ids=str)
def test_adversarial_training_resumes_to_the_same_weights(recipe, tmp_path, asked):
    plain = weights(train(recipe, tmp_path / "plain"))
    recipe = dataclasses.replace(recipe, adversarial={"weight": 0.1, "width": 4, "layers": 2} | asked)
    whole = weights(train(recipe, tmp_path / "whole"))
    train(recipe, tmp_path / "parts", stop_after=5)
    assert same(whole, weights(train(recipe, tmp_path / "parts")))
    assert not same(whole, plain)


def test_a_budget_ends_the_schedule(recipe, tmp_path):
    recipe = dataclasses.replace(recipe, steps=10**9, budget_minutes=1.5 / 60)
    steps = []
    train(recipe, tmp_path / "state", report=lambda step, *_: steps.append(step), stop_after=4)
    model = train(recipe, tmp_path / "state", report=lambda step, *_: steps.append(step))
    assert steps[0] == 4 < steps[-1] < 10**6
    again = train(recipe, tmp_path / "state", report=lambda step, *_: steps.append(step))
    assert same(weights(model), weights(again))  # spent: nothing is added
    assert status(recipe, tmp_path / "state").ended
    assert not status(dataclasses.replace(recipe, budget_minutes=1.0), tmp_path / "state").ended
    assert _learning_rate(recipe, 10**5, 1.0) == pytest.approx(0.01 * recipe.learning_rate)


def test_training_lowers_the_loss(recipe, tmp_path):
    losses = []
    recipe = dataclasses.replace(recipe, steps=120, save_every=20, learning_rate=1e-2, precision="float32")
    model = train(recipe, tmp_path / "state", report=lambda step, loss, *_: losses.append((step, loss)))
    assert [step for step, _ in losses] == [20, 40, 60, 80, 100, 120]
    assert losses[-1][1] < 0.8 * losses[0][1]
    assert not model.training


def test_training_goes_on_from_a_models_weights_and_new_layers_begin_anew(recipe, tmp_path):
    first = train(recipe, tmp_path / "first")
    init = tmp_path / "first.safetensors"
    checkpoint.save(first, init)
    still = dataclasses.replace(recipe, init=str(init), steps=1, learning_rate=1e-9)
    assert all(
        torch.allclose(value, first.state_dict()[name], atol=1e-7)
        for name, value in train(still, tmp_path / "still").state_dict().items()
    )
    attentive = dataclasses.replace(still, config=recipe.config | {"window": 4, "head_width": 4})
    second = train(attentive, tmp_path / "second").state_dict()
    assert all(torch.allclose(value, second[name], atol=1e-7) for name, value in first.state_dict().items())
    assert "middle.0.attention.qkv.weight" in second.keys() - first.state_dict().keys()
    for config, words in (({"blocks": 1, "widths": (8,)}, "no tensor"), ({"blocks": 1, "widths": (8, 16)}, "wants")):
        with pytest.raises(ModelError, match=words):
            train(dataclasses.replace(still, config=config), tmp_path / "other")


@pytest.mark.parametrize("degradation", [{}, {"kind": "blur", "variants": 1, "side": 24}], ids=["noise", "blur"])
def test_held_pictures_are_measured_and_shown_and_change_nothing(recipe, folder, tmp_path, degradation):
    config = recipe.config | {"sigma": not degradation}
    recipe = dataclasses.replace(recipe, degradation=degradation, config=config)
    plain = weights(train(recipe, tmp_path / "state"))
    held = tmp_path / "held"
    held.mkdir()
    cv2.imwrite(str(held / "a.png"), cv2.resize(cv2.imread(str(folder / "0.png")), (250, 240)))
    figures = []
    recipe = dataclasses.replace(recipe, validation=str(held))
    shown = train(recipe, tmp_path / "shown", report=lambda *report: figures.append(report[-1]))
    assert same(plain, weights(shown))
    assert len(figures) == 3
    sheet = cv2.imread(str(tmp_path / "shown" / "validation.png"))[..., ::-1]
    degraded, restored, clean = np.split(sheet, 3, 1)
    assert figures[-1].psnr == pytest.approx(metrics.psnr(restored, clean))
    assert figures[-1].input_ssim == pytest.approx(metrics.ssim(degraded, clean))
    assert np.isfinite([figures[0].psnr, figures[0].input_psnr]).all()


@pytest.mark.parametrize("start", [0.5, 0.9])
def test_a_critic_that_starts_late_resumes_too(recipe, tmp_path, start):
    plain = weights(train(recipe, tmp_path / "plain"))
    recipe = dataclasses.replace(recipe, adversarial={"weight": 0.1, "width": 4, "layers": 2, "start": start})
    whole = weights(train(recipe, tmp_path / "whole"))
    for stop in (4, 4, None):  # before it starts, and after
        parts = weights(train(recipe, tmp_path / "parts", stop_after=stop))
    assert same(whole, parts)
    assert not same(whole, plain)


def test_a_nan_loss_stops_by_name_and_keeps_the_last_good_state(recipe, tmp_path, monkeypatch):
    state = tmp_path / "state"
    train(recipe, state, stop_after=4)
    good = (state / "state.safetensors").read_bytes()
    wild = "fastrestore.train.loop._learning_rate"
    monkeypatch.setattr(wild, lambda *_: float("nan"))
    with pytest.raises(ModelError, match="not finite at step 5: training diverged"):
        train(recipe, state)
    assert (state / "state.safetensors").read_bytes() == good


def test_a_state_of_another_recipe_is_refused(recipe, tmp_path):
    train(recipe, tmp_path / "state", stop_after=1)
    with pytest.raises(ModelError, match="another recipe"):
        train(dataclasses.replace(recipe, learning_rate=1e-4), tmp_path / "state")


def test_a_cut_state_is_refused_by_name(recipe, tmp_path):
    path = tmp_path / "state" / "state.safetensors"
    train(recipe, tmp_path / "state", stop_after=1)
    content = path.read_bytes()
    for length in (0, 100, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"state\.safetensors is not a whole"):
            train(recipe, tmp_path / "state")


def test_corrupt_and_small_pictures_are_left_out_by_name(recipe, folder, tmp_path, capsys):
    clean = weights(train(recipe, tmp_path / "clean", stop_after=2))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but not really")
    cv2.imwrite(str(folder / "tiny.png"), np.zeros((8, 100, 3), np.uint8))
    (folder / "notes.txt").write_text("not a picture")
    assert same(clean, weights(train(recipe, tmp_path / "dirty", stop_after=2)))
    told = capsys.readouterr().err
    assert "broken.png: not a readable picture" in told
    assert "tiny.png: smaller" in told


def test_no_picture_at_all(recipe, folder, tmp_path):
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(ImageError, match="no training picture"):
        train(recipe, tmp_path / "state")
