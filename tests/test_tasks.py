"""Demoiré and deblur as a user has them: the shipped models make simulated photographs better, tiles change nothing."""

from pathlib import Path

import numpy as np
import pytest

import fastrestore as fr
from fastrestore import cli, image

PICTURES = Path(__file__).parent.parent / "demo" / "pictures"
LEAST_GAIN = {"demoire": ("moire", 2.5), "deblur": ("blur", 1.5)}  # dB; the cards have the figures on many pictures


def degraded(kind, name, seed):
    """uint8 degraded and clean, of a picture that no model was trained on."""
    clean = image.read(PICTURES / name).pixels.astype(np.float32) / 255
    made = fr.degrade.KINDS[kind](clean, seed=seed)
    return [np.rint(part.clip(0, 1) * 255).astype(np.uint8) for part in (made.image, made.clean)]


@pytest.mark.parametrize("task", LEAST_GAIN)
def test_a_picture_comes_back_better(task):
    kind, least = LEAST_GAIN[task]
    gains = []
    for name in ("astronaut.png", "chelsea.png"):
        for seed in range(3):
            worse, clean = degraded(kind, name, seed)
            restored = fr.restore(worse, task=task)
            assert (restored.dtype, restored.shape) == (worse.dtype, worse.shape)
            gains.append(fr.metrics.psnr(restored, clean) - fr.metrics.psnr(worse, clean))
    assert np.mean(gains) > least, gains


@pytest.mark.parametrize("task", LEAST_GAIN)
def test_memory_and_threads_do_not_change_a_bit(task):
    worse, _ = degraded(LEAST_GAIN[task][0], "astronaut.png", 1)
    whole = fr.Restorer(task=task, threads=1)(worse)
    np.testing.assert_array_equal(fr.Restorer(task=task, threads=2, memory="24MiB")(worse), whole)
    grey = worse[..., 0]
    assert fr.Restorer(task=task)(grey).shape == grey.shape


@pytest.mark.parametrize("task", LEAST_GAIN)
def test_from_the_command_line(task, tmp_path, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    monkeypatch.setattr("logging.disable", lambda: None)
    worse, clean = degraded(LEAST_GAIN[task][0], "chelsea.png", 0)
    image.write(tmp_path / "in.png", image.Image(worse))
    with pytest.raises(SystemExit) as caught:
        cli.main([task, str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"), "--quiet"])
    assert caught.value.code == 0
    restored = image.read(tmp_path / "out.png").pixels
    assert fr.metrics.psnr(restored, clean) > fr.metrics.psnr(worse, clean)
