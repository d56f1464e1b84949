"""The shipped models for clips, bursts and guided pictures: each is better than its sibling for single pictures, on
pictures that none was trained on, degraded with seeds of their own.  The cards have the figures on many."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import fastrestore as fr
from fastrestore import align, degrade, image, metrics, zoo

PICTURES = Path(__file__).parent.parent / "demo" / "pictures"
FRAMES, SIDE = 5, 160


def picture(name):
    return image.read(PICTURES / name).pixels.astype(np.float32) / 255


def to_bytes(x):
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


def clips(kind, count=2):
    for seed, name in enumerate(("astronaut.png", "chelsea.png")[:count]):
        part = picture(name)
        if kind == "moving-moire":
            part = np.ascontiguousarray(part[20 : 20 + SIDE, 40 : 40 + SIDE])
        made = degrade.CLIPS[kind](part, FRAMES, **({"side": SIDE} if kind == "shaken" else {}), seed=100 + seed)
        yield [to_bytes(frame) for frame in made.image], [to_bytes(frame) for frame in made.clean]


def unsteadiness(results, clean):
    """The mean square of what changes between results where the clean frames' flow explains them."""
    errors = []
    for (before, now), (clean_before, clean_now) in zip(pairwise(results), pairwise(clean), strict=True):
        flow = align.flow(align.outline(clean_now), align.outline(clean_before))
        errors.append(np.square(align.warp(before, flow).astype(float) - now).mean())
    return np.mean(errors)


@pytest.mark.parametrize(
    ("model", "sibling", "kind"),
    [("demoire-rnn", "demoire-cnn", "moving-moire"), ("deblur-rnn", "deblur-cnn", "shaken")],
    ids=["demoire", "deblur"],
)
def test_a_clip_comes_back_better_and_steadier(model, sibling, kind):
    restorer, alone = fr.Restorer(model), fr.Restorer(sibling)
    gains, steadier = [], []
    for frames, clean in clips(kind):
        ours, theirs = list(restorer.stream(frames)), [alone(frame) for frame in frames]
        assert np.array_equal(ours[0], theirs[0])  # without a past it is its sibling
        gains.append(
            np.mean([metrics.psnr(a, c) - metrics.psnr(b, c) for a, b, c in zip(ours, theirs, clean, strict=True)])
        )
        steadier.append(unsteadiness(ours, clean) / unsteadiness(theirs, clean))
    assert np.mean(gains) > 0.4, gains  # the first frame gains nothing
    assert max(steadier) < 0.9


@pytest.mark.parametrize("model", ["deblur-burst", "demoire-rnn"])
def test_a_burst_comes_back_better_than_its_reference(model):
    restorer, alone = fr.Restorer(model), fr.Restorer(zoo.find(model).task + "-cnn")
    gains = []
    for shots, clean in clips("shaken" if model == "deblur-burst" else "moving-moire"):
        together = restorer.burst(shots, reference=2, notices=[])
        gains.append(metrics.psnr(together, clean[2]) - metrics.psnr(alone(shots[2]), clean[2]))
    assert np.mean(gains) > 0.3, gains


def test_shots_of_the_shipped_model_come_in_any_order():
    restorer = fr.Restorer("deblur-burst")
    shots, _ = next(clips("shaken", 1))
    shots += shots[:1] + shots[3:]
    whole = restorer.burst(shots, notices=[])
    assert np.array_equal(whole, restorer.burst(shots[::-1], notices=[]))


def test_a_guide_helps_and_none_or_a_useless_one_does_not_hurt():
    guided, unguided = fr.Restorer("denoise-guided"), fr.Restorer("denoise-gan")
    clean, other = picture("astronaut.png")[:192, :192], picture("chelsea.png")[:192, :192]
    noisy = degrade.noise(clean, 35, seed=0).astype(np.float32)

    def quality(restored):
        return metrics.psnr(to_bytes(restored), to_bytes(clean))

    base = quality(unguided(noisy, sigma=35))
    flash, useless = (
        degrade.guide(of, degrade.Guide.random(np.random.default_rng(0), "flash"), seed=1).image
        for of in (clean, other)
    )
    assert quality(guided(noisy, sigma=35, guide=flash)) > base + 0.5
    assert quality(guided(noisy, sigma=35)) > base - 0.1
    with pytest.warns(UserWarning, match="the guide is left out"):
        assert quality(guided(noisy, sigma=35, guide=useless)) > base - 0.1


def test_they_are_the_defaults_of_their_kinds_and_small_together():
    shipped = {entry.name: entry for entry in fr.models() if entry.input != "image"}
    assert {zoo.default(*key) for key in zoo.OTHERS} == shipped.keys()
    assert sum(entry.path.stat().st_size for entry in shipped.values()) <= 12e6
