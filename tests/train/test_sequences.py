"""Training on clips: it resumes exactly, starts from a smaller model's weights, and cuts gradients where it says."""

import cv2
import numpy as np
import pytest
import torch

from fastrestore import checkpoint, models
from fastrestore.data import ClipSampler
from fastrestore.errors import ModelError
from fastrestore.train import Recipe, sequences, train
from fastrestore.train.losses import LOSSES


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        smooth = cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), (96, 80), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / f"{i}.png"), smooth)
    return tmp_path


CONFIG = {"widths": (8, 8), "blocks": 1}


@pytest.fixture
def recipe(folder, tmp_path):
    torch.manual_seed(0)
    start = tmp_path / "start.safetensors"
    checkpoint.save(models.create("unet", **CONFIG), start)
    return Recipe(
        name="denoise-test",
        architecture="fusion-unet",
        folders=(str(folder),),
        config=CONFIG | {"hidden": 8},
        init=str(start),
        patch=24,
        batch=2,
        frames=4,
        truncate=2,
        judged=3,
        fresh=3.0,
        steps=4,
        warmup=1,
        save_every=2,
        grey=0.5,
    )


def test_a_resumed_run_ends_with_the_same_weights(recipe, tmp_path):
    whole = train(recipe, tmp_path / "whole").state_dict()
    train(recipe, tmp_path / "parts", stop_after=2)
    parts = train(recipe, tmp_path / "parts").state_dict()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    start = checkpoint.load(recipe.init).state_dict()
    moved = {name for name, value in start.items() if not torch.equal(whole[name], value)}
    assert "head.weight" in moved
    assert not torch.equal(whole["gru.gates.weight"], torch.zeros(()))


def test_a_clip_of_the_sampler():
    rng = np.random.default_rng(0)
    pictures = [cv2.resize(rng.integers(0, 256, (20, 30, 3), np.uint8), (120, 80))]
    sampler = ClipSampler(pictures, 5, 32, 3, 0.5, (10.0, 40.0), 7)
    a, b = sampler(3), sampler(3)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert a.clean.shape == a.degraded.shape == (5, 3, 32, 32, 3)
    assert not a.flow[0].any()
    assert a.flow[1:].any()
    deviation = (a.degraded - a.clean).std((0, 2, 3, 4)) * 255
    np.testing.assert_allclose(deviation, a.sigma, rtol=0.06)
    assert not np.array_equal(a.clean, sampler(4).clean)


def test_gradients_go_back_as_far_as_truncate_says():
    torch.manual_seed(0)
    model = models.create("fusion-unet", **CONFIG, hidden=8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    clean = torch.rand(4, 1, 3, 16, 16)
    noisy = (clean + 0.1 * torch.randn_like(clean)).requires_grad_()
    batch = sequences.ClipBatch(clean, noisy, torch.zeros(4, 1, 2, 16, 16), torch.tensor([25.0]))
    judged = 3  # frames 0 and 3

    def reach(truncate):
        noisy.grad = None
        total = sequences.learn(model, batch, LOSSES["l2"], truncate, judged, bfloat16=False)
        return float(total), [bool(noisy.grad[t].any()) for t in range(4)]

    loss, reached = reach(4)
    assert reached == [True, True, True, True]
    other, reached = reach(2)
    assert reached == [True, False, True, True]
    assert other == pytest.approx(loss, rel=1e-5)  # the state itself goes through


def test_what_does_not_fit_is_refused(recipe, tmp_path):
    with pytest.raises(ModelError, match="truncate"):
        Recipe(name="a", architecture="fusion-unet", folders=("x",), frames=4, truncate=5)
    with pytest.raises(ModelError, match="frames"):
        Recipe(name="a", architecture="fusion-unet", folders=("x",), frames=1, truncate=1)
