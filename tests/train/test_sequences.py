"""Training on clips: it resumes exactly, starts from a smaller model's weights, and cuts gradients where it says."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from fastrestore import checkpoint, models
from fastrestore.data import ClipSampler, FootageSampler, load_footage
from fastrestore.errors import ImageError, ModelError
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


def write_frames(folder, count, size=(40, 48)):
    folder.mkdir(parents=True)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i:03}.png"), np.full((*size, 3), 10 + 20 * i, np.uint8))


def test_films_and_folders_of_frames_are_read_and_bad_ones_named(tmp_path):
    write_frames(tmp_path / "clips" / "b", 6)
    write_frames(tmp_path / "clips" / "short", 3)
    write_frames(tmp_path / "clips" / "small", 6, (20, 48))
    write_frames(tmp_path / "clips" / "mixed", 6)
    cv2.imwrite(str(tmp_path / "clips" / "mixed" / "003.png"), np.zeros((40, 49, 3), np.uint8))
    write_frames(tmp_path / "clips" / "torn", 6)
    (tmp_path / "clips" / "torn" / "002.png").write_bytes(b"")
    clips, skipped = load_footage([tmp_path / "clips"], 24, 4)
    assert [clip.shape for clip in clips] == [(6, 40, 48, 3)]
    words = ("mixed: its frames", "short: shorter than 4", "small/000.png: smaller", "torn/002.png: not a readable")
    assert len(skipped) == len(words)
    assert all(word in sentence for word, sentence in zip(words, skipped, strict=True))
    with pytest.raises(ImageError, match="no training clip"):
        load_footage([tmp_path / "clips" / "b"], 24, 4)
    batch = FootageSampler(clips, 4, 24, 3, 0.0, (5.0, 5.0), 0)(2)
    levels = batch.clean.mean((2, 3, 4)) * 255
    assert np.allclose(np.diff(levels, axis=0), 20, atol=0.01)  # one frame after the other
    assert {round(level) for level in levels[0]} <= {10, 30, 50}


def test_a_film_is_read(tmp_path):
    av = pytest.importorskip("av", reason="films need PyAV")
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 40, "bgr0"
        for i in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((40, 48, 3), 10 + 20 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (tmp_path / "b.mp4").write_bytes(b"no film")
    (clip,), (sentence,) = load_footage([tmp_path], 24, 4)
    assert clip.shape == (6, 40, 48, 3)
    assert (clip == np.arange(10, 130, 20)[:, None, None, None]).all()
    assert "b.mp4" in sentence


def test_training_on_footage_resumes_exactly(recipe, tmp_path):
    for name in "ab":
        write_frames(tmp_path / "clips" / name, 6)
    recipe = dataclasses.replace(recipe, folders=(str(tmp_path / "clips"),), footage=True)
    whole = train(recipe, tmp_path / "whole").state_dict()
    train(recipe, tmp_path / "parts", stop_after=2)
    parts = train(recipe, tmp_path / "parts").state_dict()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    with pytest.raises(ModelError, match="footage"):
        dataclasses.replace(recipe, frames=0, truncate=0)
