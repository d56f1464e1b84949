"""Bursts: alignment, shots that do not fit, the reference, files and the command."""

import json
import warnings

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as PilImage
from test_stream import create, scene

import fastrestore as fr
from fastrestore import align, burst, checkpoint, image, metrics
from fastrestore.cli import main


def shots(count, sigma=25, seed=0, dtype=np.uint8):
    """A scene from places a few pixels apart, with noise; and the scene as the first one sees it."""
    rng = np.random.default_rng(seed)
    detail = rng.integers(0, 256, (60, 70, 3), np.uint8)
    large = cv2.resize(detail, (160, 140), interpolation=cv2.INTER_CUBIC)
    places = [(12, 12), *rng.integers(6, 18, (count - 1, 2))]
    clean = [large[y : y + 112, x : x + 128] for y, x in places]
    noisy = [part + rng.normal(0, sigma, part.shape) for part in clean]
    made = [
        np.rint(part.clip(0, 255)).astype(np.uint8) if dtype == np.uint8 else (part / 255).astype(dtype)
        for part in noisy
    ]
    return made, clean[0]


@pytest.fixture(scope="module")
def restorer():
    return fr.Restorer(create("fusion-unet"), threads=1)


def quiet(restorer, *given, **options):
    notices = []
    return restorer.burst(*given, notices=notices, **options), notices


def test_four_shots_are_better_than_one():
    """By the shipped model, which is what the card says of it."""
    restorer = fr.Restorer("denoise-rnn", threads=1)
    taken, clean = shots(4)
    alone, together = restorer(taken[0], sigma=25), quiet(restorer, taken, sigma=25, reference=0)[0]
    assert metrics.psnr(together, clean) > metrics.psnr(alone, clean) + 1


def test_the_reference_is_what_the_result_shows(restorer):
    taken, _ = shots(3, sigma=5)
    results = [quiet(restorer, taken, sigma=5, reference=i)[0].astype(int) for i in range(3)]
    for i, result in enumerate(results):
        errors = [np.abs(result - shot).mean() for shot in taken]
        assert int(np.argmin(errors)) == i
    sharp = [cv2.GaussianBlur(taken[0], (0, 0), 2), taken[1], cv2.GaussianBlur(taken[2], (0, 0), 2)]
    assert burst.chosen([align.outline(shot) for shot in sharp], None)[0] == 1


def test_shots_that_do_not_fit_are_left_out_by_name(restorer):
    taken, _ = shots(3, sigma=5)
    small, other = taken[1][:-8], scene(9, 112, 128)
    result, notices = quiet(restorer, [taken[0], small, other, taken[2]], sigma=5, reference=0)
    assert notices == [
        "shot 2 is left out: it has 128 x 104 pixels, the reference 128 x 112",
        "shot 3 is left out: it does not show what the reference shows",
    ]
    assert np.array_equal(result, quiet(restorer, [taken[0], taken[2]], sigma=5, reference=0)[0])
    with pytest.warns(UserWarning, match="shot 2 is left out"):
        restorer.burst([taken[0], other], sigma=5, reference=0)


def test_a_moved_object_leaves_no_ghost():
    """By the shipped model: where something passes in one shot, the result is that of the others."""
    restorer = fr.Restorer("denoise-rnn", threads=1)
    taken, _ = shots(3, sigma=10)
    spoilt = taken[1].copy()
    cv2.circle(spoilt, (64, 56), 18, (250, 30, 30), -1)
    clean, ghost = (
        quiet(restorer, [taken[0], part, taken[2]], sigma=10, reference=2)[0] for part in (taken[1], spoilt)
    )
    assert np.abs(clean.astype(int) - ghost)[40:72, 48:80].mean() < 4  # the disc itself differs by some hundred


def test_a_burst_of_one_is_a_picture(restorer):
    taken, _ = shots(1)
    result, notices = quiet(restorer, taken, sigma=25)
    assert notices == ["a burst of one shot: restored as a single picture"]
    assert np.abs(result.astype(int) - restorer(taken[0], sigma=25)).max() <= 1


def test_kinds_and_what_is_no_burst(restorer):
    taken, _ = shots(2, sigma=8)
    array, _ = quiet(restorer, taken, sigma=8, reference=0)
    picture, _ = quiet(restorer, list(map(PilImage.fromarray, taken)), sigma=8, reference=0)
    assert np.array_equal(array, picture)
    tensors = [torch.from_numpy(shot).permute(2, 0, 1)[None] for shot in taken]
    assert np.array_equal(array, quiet(restorer, tensors, sigma=8, reference=0)[0][0].permute(1, 2, 0).numpy())
    for wrong, options in (([], {}), (taken * 9, {}), (taken, {"reference": 2}), (["a.png"], {})):
        with pytest.raises(fr.ImageError):
            restorer.burst(wrong, **options)
    with pytest.raises(ValueError, match="restores single pictures"):
        fr.Restorer(fr.create("unet", widths=(16, 16), blocks=1)).burst(taken)


@pytest.fixture(scope="module")
def fusing():
    torch.manual_seed(0)
    model = fr.create("burst-unet", widths=(16, 16), blocks=1, sigma=False, width=16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "fusion.own":
                parameter.add_(torch.randn_like(parameter) * 0.3 * parameter[0].numel() ** -0.5)
    return model


def test_shots_in_any_order_give_the_same_bits(fusing):
    restorer = fr.Restorer(fusing, threads=1)
    taken, _ = shots(5, sigma=5)
    taken[1] = cv2.GaussianBlur(taken[1], (0, 0), 1)
    whole, notices = quiet(restorer, taken)
    assert notices == []
    rng = np.random.default_rng(0)
    for _ in range(4):
        assert np.array_equal(whole, quiet(restorer, [taken[i] for i in rng.permutation(5)])[0])
    fewer = quiet(restorer, taken[:4])[0]
    assert not np.array_equal(whole, fewer)
    alone = quiet(restorer, taken[:1])[0]
    assert np.array_equal(alone, restorer(taken[0]))
    streamed = list(restorer.stream(taken[:2]))
    assert all(np.array_equal(a, restorer(b)) for a, b in zip(streamed, taken, strict=False))


def test_tiles_of_a_fusion_change_nothing_but_rounding(fusing):
    taken, _ = shots(3, sigma=5, dtype=np.float32)
    kept = 3 * burst.BYTES_KEPT * 112 * 128
    tile = 3 * burst.BYTES_FUSING * (2 * 22 + 24) ** 2
    results = [quiet(fr.Restorer(fusing, threads=1, memory=memory), taken)[0] for memory in ("1GiB", kept + tile)]
    np.testing.assert_allclose(*results, atol=2e-5)
    with pytest.raises(fr.MemoryBudgetError, match="shots take"):
        fr.Restorer(fusing, threads=1, memory=kept - 1).burst(taken, notices=[])


def test_grey_bursts_and_strength(fusing):
    restorer = fr.Restorer(fusing, threads=1)
    taken, _ = shots(3, sigma=5)
    grey = [shot[..., 0] for shot in taken]
    result = quiet(restorer, grey, reference=0)[0]
    assert result.shape == grey[0].shape
    assert np.array_equal(quiet(restorer, grey, reference=0, strength=0.0)[0], grey[0])
    assert not np.array_equal(result, grey[0])


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    checkpoint.save(create("fusion-unet"), path)
    return path


def run(*arguments):
    with warnings.catch_warnings(), pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


def test_the_command(model_file, tmp_path, capsys):
    taken, _ = shots(3, sigma=8)
    paths = []
    for number, shot in enumerate([*taken, scene(9, 112, 128)]):
        paths.append(tmp_path / f"{number}.png")
        image.write(paths[-1], image.Image(shot, dpi=(100.0 + number, 100.0 + number)))
    out = tmp_path / "out.png"
    options = ["--model", model_file, "--sigma", 8, "--threads", 1]
    assert run("denoise", *paths, "-o", out, "--burst", "--reference", 2, *options, "--json") == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert (result["input"], result["shots"]) == (str(paths[1]), 4)
    assert result["notices"] == ["shot 4 is left out: it does not show what the reference shows"]
    written = image.read(out)
    assert round(written.dpi[0]) == 101  # the reference's
    expected = fr.Restorer(model_file, threads=1).burst(taken, sigma=8, reference=1)
    assert np.array_equal(written.pixels, expected)
    assert run("denoise", *paths, "-o", out, "--burst", *options) == 1  # exists
    assert run("denoise", *paths, "-o", tmp_path, "--burst", *options) == 2
    assert run("denoise", *paths, "-o", tmp_path / "b.png", "--burst", "--reference", 5, *options) == 2
    assert run("denoise", *paths, "-o", tmp_path, "--reference", 1, *options) == 2
    assert run("denoise", *paths, "-o", tmp_path / "b.png", "--burst", "--model", "denoise-cnn") == 2
    assert not (tmp_path / "b.png").exists()
