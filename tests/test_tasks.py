"""The shipped models as a user has them: each makes real pictures, degraded, better; tiles change nothing."""

from pathlib import Path

import numpy as np
import pytest

import fastrestore as fr
from fastrestore import cli, image

PICTURES = Path(__file__).parent.parent / "demo" / "pictures"
TASKS = {"demoire": "moire", "deblur": "blur"}  # and what they undo
# What a model undoes and its least gain in dB; the cards have the figures on many pictures.
LEAST_GAIN = {
    "deblur-attention": ("blur", 1.5),
    "deblur-cnn": ("blur", 1.5),
    "demoire-cnn": ("moire", 3.0),
    "demoire-gan": ("moire", 2.5),
    "denoise-autoencoder": ("noise", 9.0),
    "denoise-cnn": ("noise", 9.5),
    "denoise-gan": ("noise", 8.5),
}
SIGMA = 25


def degraded(kind, name, seed):
    """uint8 degraded and clean, of a picture that no model was trained on."""
    clean = image.read(PICTURES / name).pixels.astype(np.float32) / 255
    if kind == "noise":
        pair = fr.degrade.noise(clean, SIGMA, seed=seed), clean
    else:
        made = fr.degrade.KINDS[kind](clean, seed=seed)
        pair = made.image, made.clean
    return [np.rint(part.clip(0, 1) * 255).astype(np.uint8) for part in pair]


def test_every_named_model_of_a_picture_is_tested_here():
    assert {entry.name for entry in fr.models() if entry.input == "image"} == LEAST_GAIN.keys()


@pytest.mark.parametrize("model", LEAST_GAIN)
def test_a_picture_comes_back_better(model):
    kind, least = LEAST_GAIN[model]
    gains = []
    restorer = fr.Restorer(model)
    takes_sigma = next(entry.takes_sigma for entry in fr.models() if entry.name == model)
    for name in ("astronaut.png", "chelsea.png"):
        for seed in range(3):
            worse, clean = degraded(kind, name, seed)
            restored = restorer(worse, sigma=SIGMA if takes_sigma else None)
            assert (restored.dtype, restored.shape) == (worse.dtype, worse.shape)
            gains.append(fr.metrics.psnr(restored, clean) - fr.metrics.psnr(worse, clean))
    assert np.mean(gains) > least, gains


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("model", "least"), [("denoise-cnn", 2.5), ("denoise-gan", 2.0), ("denoise-autoencoder", 0.0)], ids=str
)
def test_a_cameras_noise_gets_less(model, least, shared_data):
    """Sensor noise as the camera left it, of unknown level; docs/models.md says how little the autoencoder does."""
    names = (shared_data / "noise" / "cc15" / f"5dmark3_iso3200_2_{which}.png" for which in ("real", "mean"))
    noisy, clean = (image.read(name).pixels[:256, :256] for name in names)
    assert fr.metrics.psnr(fr.Restorer(model)(noisy), clean) - fr.metrics.psnr(noisy, clean) > least


@pytest.mark.shared_data
@pytest.mark.parametrize("model", ["demoire-cnn", "demoire-gan"])
def test_a_photographed_screen_loses_its_stripes(model, shared_data):
    names = (shared_data / "moire" / "fhdmi" / f"{which}_00005.png" for which in ("src", "tar"))
    photograph, clean = (image.read(name).pixels[300:700, 600:1000] for name in names)
    restored = fr.Restorer(model)(photograph)
    assert fr.metrics.psnr(restored, clean) - fr.metrics.psnr(photograph, clean) > 1.2
    assert fr.metrics.ssim(restored, clean) - fr.metrics.ssim(photograph, clean) > 0.05


@pytest.mark.parametrize(("gan", "cnn"), [("denoise-gan", "denoise-cnn"), ("demoire-gan", "demoire-cnn")])
def test_a_critic_makes_texture_as_strong_as_it_was(gan, cnn):
    distances = {}
    for model in (gan, cnn):
        restorer, found = fr.Restorer(model), []
        for seed in range(3):
            worse, clean = degraded(LEAST_GAIN[model][0], "astronaut.png", seed)
            found.append(fr.metrics.texture_distance(restorer(worse), clean))
        distances[model] = np.mean(found)
    assert distances[gan] < distances[cnn]


@pytest.mark.parametrize("task", TASKS)
def test_memory_and_threads_do_not_change_a_bit(task):
    worse, _ = degraded(TASKS[task], "astronaut.png", 1)
    whole = fr.Restorer(task=task, threads=1)(worse)
    np.testing.assert_array_equal(fr.Restorer(task=task, threads=2, memory="24MiB")(worse), whole)
    grey = worse[..., 0]
    assert fr.Restorer(task=task)(grey).shape == grey.shape


@pytest.mark.parametrize("task", TASKS)
def test_from_the_command_line(task, tmp_path, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    monkeypatch.setattr("logging.disable", lambda: None)
    worse, clean = degraded(TASKS[task], "chelsea.png", 0)
    image.write(tmp_path / "in.png", image.Image(worse))
    with pytest.raises(SystemExit) as caught:
        cli.main([task, str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"), "--quiet"])
    assert caught.value.code == 0
    restored = image.read(tmp_path / "out.png").pixels
    assert fr.metrics.psnr(restored, clean) > fr.metrics.psnr(worse, clean)
