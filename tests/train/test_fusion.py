"""Training of fusion on clips and bursts made ahead, and with guides: what is learned, what stays, exact resumption."""

import cv2
import numpy as np
import pytest
import torch

from fastrestore import checkpoint, degrade, models
from fastrestore.data import BurstSampler, SequenceSampler, load_pictures, make_sequences
from fastrestore.errors import ModelError
from fastrestore.train import Recipe, sequences, train
from fastrestore.train import loop as loops
from fastrestore.train.losses import LOSSES
from fastrestore.train.team import Team

CONFIG = {"widths": (16, 16), "blocks": 1, "sigma": False}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        smooth = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (96, 80), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / f"{i}.png"), smooth)
    return tmp_path


def recipe(folder, architecture, kind, **more):
    torch.manual_seed(0)
    start = folder / "start.safetensors"
    checkpoint.save(models.create("unet", **CONFIG), start)
    values = {
        "name": "deblur-test",
        "architecture": architecture,
        "folders": (str(folder),),
        "config": CONFIG | {"width": 16},
        "init": str(start),
        "degradation": {"kind": kind, "variants": 1, "side": 48},
        "patch": 24,
        "batch": 2,
        "frames": 4,
        "steps": 4,
        "warmup": 1,
        "save_every": 2,
    }
    return Recipe(**values | more)


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [("recurrent-unet", "shaken"), ("recurrent-unet", "moving-moire"), ("burst-unet", "shaken")],
    ids=str,
)
def test_only_the_fusion_is_learned_and_a_resumed_run_ends_the_same(folder, architecture, kind):
    asked = recipe(folder, architecture, kind, truncate=2 if architecture == "recurrent-unet" else 0)
    whole = train(asked, folder / "whole").state_dict()
    train(asked, folder / "parts", stop_after=2)
    parts = train(asked, folder / "parts").state_dict()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    start = checkpoint.load(asked.init).state_dict()
    assert all(torch.equal(whole[name], value) for name, value in start.items())
    torch.manual_seed(asked.seed)
    fresh = models.create(architecture, **asked.config).state_dict()
    assert not torch.equal(whole["fusion.look.weight"], fresh["fusion.look.weight"])


def made(folder, tmp_path, kind, bursts):
    pictures, _ = load_pictures([folder], 48)
    seen = []

    def restore(frame):
        seen.append(frame.shape)
        return 0.5 * frame

    given = pictures, kind, 5, 48, bursts, 0, tmp_path / "kept", restore, "half"
    first = make_sequences(*given)
    assert len(seen) == 15
    again = make_sequences(*given)
    assert len(seen) == 15  # kept
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    return first


@pytest.mark.parametrize("kind", degrade.CLIPS)
def test_clips_made_ahead(folder, tmp_path, kind):
    clips = made(folder, tmp_path, kind, bursts=False)
    assert clips.frames.shape == (3, 3, 5, 48, 48, 3)
    np.testing.assert_allclose(clips.frames[:, 1], clips.frames[:, 0] / 2, atol=0.51)
    assert not clips.flow[:, 0].any()
    sampler = SequenceSampler(clips, 24, 2, seed=1)
    part, same = sampler(3), sampler(3)
    assert all(np.array_equal(a, b) for a, b in zip(part, same, strict=True))
    assert part.degraded.shape == part.alone.shape == part.clean.shape == (5, 2, 24, 24, 3)
    assert part.flow.shape == (5, 2, 24, 24, 2)


def test_a_mirrored_flow_still_points_to_the_content(folder, tmp_path):
    clips = made(folder, tmp_path, "shaken", bursts=False)
    sampler = SequenceSampler(clips, 40, 1, seed=2)
    better = []
    for step in range(12):
        part = sampler(step)
        for t in range(1, 5):
            x, y = np.meshgrid(np.arange(40, dtype=np.float32), np.arange(40, dtype=np.float32))
            flow = part.flow[t, 0]
            moved = cv2.remap(part.clean[t - 1, 0], x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR)
            errors = [np.abs(other - part.clean[t, 0])[8:-8, 8:-8].mean() for other in (moved, part.clean[t - 1, 0])]
            better.append(errors[0] < errors[1])
    assert np.mean(better) > 0.8


def test_bursts_made_ahead_are_aligned(folder, tmp_path):
    bursts = made(folder, tmp_path, "shaken", bursts=True)
    sampler = BurstSampler(bursts, 32, 2, seed=1)
    counts = set()
    for step in range(8):
        part = sampler(step)
        counts.add(part.shots.shape[1])
        assert part.alone.shape == part.shots.shape
        assert part.known.shape == (*part.shots.shape[:4], 1)
        assert (part.known[:, 0] == 1).all()
        assert part.clean.shape == (2, 32, 32, 3)
        error = np.abs(part.shots - part.clean[:, None]) * part.known
        assert error.mean() < 0.06  # blurred, but in place
    assert min(counts) >= 2
    assert max(counts) <= 5
    assert len(counts) > 1


def test_guides_come_with_noise_and_some_are_missing(folder):
    asked = Recipe(
        name="denoise-test",
        architecture="guided-unet",
        folders=(str(folder),),
        config={"widths": (16, 16), "blocks": 1, "guide_width": 16},
        patch=24,
        batch=16,
        steps=2,
        warmup=1,
        save_every=2,
    )
    pictures, _ = load_pictures([folder], 24)
    torch.manual_seed(0)
    model = models.create(asked.architecture, **asked.config)
    batches = loops._batches(asked, pictures, folder, Team(), model)
    batch = batches(0)
    known = batch.guide[:, 3].mean((1, 2))
    assert set(known.tolist()) == {0.0, 1.0}
    assert not batch.guide[known == 0].any()
    assert torch.equal(batch.guide, batches(0).guide)
    guides = torch.cat([batches(number).guide for number in range(8)])[:, :3].flatten(1)
    spread = guides.std(1)[guides.any(1)]
    assert 0 < (spread < 0.03).float().mean() < 0.3  # even ones
    trained = train(asked, folder / "state")
    assert not torch.equal(trained.guide_look.weight, model.guide_look.weight)


def test_a_fusion_learns_to_take_the_better_shot():
    """A hundred steps on one burst whose second shot is clean."""
    torch.manual_seed(0)
    model = models.create("burst-unet", **CONFIG, width=16)
    clean = torch.rand(1, 3, 24, 24)
    shots = torch.stack([clean + 0.2 * torch.randn_like(clean), clean], 1)
    batch = sequences.BurstBatch(clean, shots, shots, torch.ones(1, 2, 1, 24, 24))
    optimiser = torch.optim.Adam(model.fusion.parameters(), 3e-3)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        losses.append(float(sequences.learn_fusion(model, batch, LOSSES["l2"], bfloat16=False)))
        optimiser.step()
    assert losses[-1] < 0.3 * losses[0]


def test_a_kind_of_pictures_is_none_of_clips(folder):
    with pytest.raises(ModelError, match="degradation"):
        recipe(folder, "recurrent-unet", "blur")
    with pytest.raises(ModelError, match="degradation"):
        recipe(folder, "unet", "shaken", frames=0)
