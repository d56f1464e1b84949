"""Training: it learns, resumes exactly, stops with a reason, and one bad picture costs nothing."""

import dataclasses
import errno
import os
import sys

import cv2
import numpy as np
import pytest
import torch

from fastrestore import checkpoint, metrics, models
from fastrestore.cli.report import exit_code
from fastrestore.degrade import KINDS
from fastrestore.errors import ImageError, ModelError
from fastrestore.train import Recipe, train
from fastrestore.train.loop import _learning_rate, status
from fastrestore.train.narrow import _channels


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


def test_pairs_of_a_folder_are_learned_from_and_bad_ones_left_out_by_name(recipe, folder, tmp_path, capsys):
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for i in range(3):
        clean = cv2.imread(str(folder / f"{i}.png"))
        cv2.imwrite(str(pairs / f"{i}_gt.png"), clean)
        cv2.imwrite(str(pairs / f"{i}_blur.png"), cv2.GaussianBlur(clean, (5, 5), 1.0))
    cv2.imwrite(str(pairs / "grey_gt.png"), np.full((30, 30), 99, np.uint8))
    cv2.imwrite(str(pairs / "grey_blur.png"), np.full((30, 30), 98, np.uint8))
    recipe = dataclasses.replace(
        recipe,
        folders=(str(pairs),),
        config={"widths": (8, 8), "blocks": 1, "sigma": False},
        degradation={"kind": "pairs"},
        grey=0.0,
    )
    whole = weights(train(recipe, tmp_path / "whole"))
    assert capsys.readouterr().err == ""
    (pairs / "a_gt.png").write_bytes(b"not a picture")
    for name, size in (
        ("a_blur", (40, 40)),
        ("b_gt", (40, 40)),
        ("b_blur", (41, 40)),
        ("c_gt", (9, 9)),
        ("c_blur", (9, 9)),
    ):
        cv2.imwrite(str(pairs / f"{name}.png"), np.zeros(size, np.uint8))
    train(recipe, tmp_path / "parts", stop_after=5)
    assert same(whole, weights(train(recipe, tmp_path / "parts")))
    told = capsys.readouterr().err
    for sentence in ("a_gt.png: not a readable", "b_blur.png: not of the size of b_gt.png", "c_gt.png: smaller"):
        assert sentence in told
    for path in pairs.glob("*_gt.png"):
        path.unlink()
    with pytest.raises(ImageError, match="no training pair"):
        train(recipe, tmp_path / "none")


def test_a_full_disk_names_itself_and_leaves_the_last_state(recipe, tmp_path, monkeypatch):
    state = tmp_path / "state"
    train(recipe, state, stop_after=4)
    good = (state / "state.safetensors").read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        train(recipe, state)
    assert exit_code(caught.value) == 4
    assert [path.name for path in state.iterdir()] == ["state.safetensors"]
    assert (state / "state.safetensors").read_bytes() == good
    monkeypatch.undo()
    assert same(weights(train(recipe, state)), weights(train(recipe, tmp_path / "whole")))


def test_tensorboard_gets_curves_and_held_pictures(recipe, folder, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard")
    held = tmp_path / "held"
    held.mkdir()
    cv2.imwrite(str(held / "a.png"), cv2.resize(cv2.imread(str(folder / "0.png")), (250, 240)))
    figures = {}
    recipe = dataclasses.replace(recipe, tensorboard=True, validation=str(held))
    train(recipe, tmp_path / "state", stop_after=6)

    def report(step, loss, rate, validated):
        figures[step] = loss, validated.psnr

    train(recipe, tmp_path / "state", report=report)
    events = reader.EventAccumulator(str(tmp_path / "state" / "tensorboard")).Reload()
    curve = {event.step: event.value for event in events.Scalars("loss")}
    assert list(curve) == [4, 6, 8, 12]
    assert curve[12] == pytest.approx(figures[12][0])
    assert events.Scalars("held/PSNR")[-1].value == pytest.approx(figures[12][1])
    assert events.Scalars("learning rate")[-1].value == pytest.approx(_learning_rate(recipe, 12, 1.0))
    shown = cv2.imdecode(np.frombuffer(events.Images("held")[-1].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(shown, cv2.imread(str(tmp_path / "state" / "validation.png")))


def test_without_tensorboard_it_says_so_and_trains(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    recipe = dataclasses.replace(recipe, tensorboard=True)
    model = train(recipe, tmp_path / "state")
    assert "fastrestore[train]" in capsys.readouterr().err
    assert same(weights(model), weights(train(dataclasses.replace(recipe, tensorboard=False), tmp_path / "state")))


def test_a_wider_autoencoder_gives_its_strongest_channels(recipe, tmp_path):
    torch.manual_seed(0)
    wide = models.create("autoencoder", widths=(6, 8), blocks=1)
    with torch.no_grad():  # as a training would leave two channels of each set: never read
        for axes in _channels(wide):
            for name, axis in axes:
                wide.get_parameter(name).transpose(0, axis)[[1, 4]] = 0
    checkpoint.save(wide, tmp_path / "wide.safetensors")
    recipe = dataclasses.replace(
        recipe,
        architecture="autoencoder",
        config={"widths": (4, 6), "blocks": 1},
        init=str(tmp_path / "wide.safetensors"),
        steps=1,
        learning_rate=1e-9,
    )
    narrow = train(recipe, tmp_path / "state")
    x = torch.rand(1, 3, 16, 20)
    torch.testing.assert_close(narrow(x), wide.eval()(x), atol=1e-5, rtol=0)
    for config in ({"widths": (8, 6), "blocks": 1}, {"widths": (4, 6), "blocks": 2}):
        with pytest.raises(ModelError, match=r"channels, the narrower|can be narrowed"):
            train(dataclasses.replace(recipe, config=config), tmp_path / "other")
