"""A guide beside the picture: how it enters, what without one, sizes, files and the command."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as PilImage
from test_burst import run
from torch import nn

import fastrestore as fr
from fastrestore import checkpoint, degrade, image, models
from fastrestore.degrade import Guide
from fastrestore.guide import shown


def small():
    torch.manual_seed(0)
    model = fr.create("guided-unet", widths=(16, 16), blocks=1, guide_width=16).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3 * parameter[0].numel() ** -0.5)
    return model


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture(scope="module")
def restorer(model):
    return fr.Restorer(model, threads=1)


def pictures(height=37, width=52, dtype=np.uint8):
    """A picture and a guide that has its edges."""
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (5, 7, 3), np.uint8), (width, height))
    both = [picture, np.ascontiguousarray(255 - picture[..., ::-1] // 2)]
    return [part if dtype == np.uint8 else (part / 255).astype(dtype) for part in both]


def test_a_plan_gives_what_the_module_does(model, restorer):
    picture, guide = pictures(dtype=np.float32)
    x, g = (torch.from_numpy(part).permute(2, 0, 1)[None] for part in (picture, guide))
    with torch.no_grad():
        guided, alone = model(x, 20.0, torch.cat([g, torch.ones_like(g[:, :1])], 1)), model(x, 20.0)
    assert (guided - alone).abs().max() > 0.05
    for given, expected in ((guide, guided), (None, alone)):
        result = restorer(picture, sigma=20, clip=False, guide=given)
        np.testing.assert_allclose(result, expected[0].permute(1, 2, 0).numpy(), atol=1e-5)


def test_without_a_guide_it_is_a_unet(model):
    unet = models.create("unet", widths=(16, 16), blocks=1)
    unet.load_state_dict({name: model.state_dict()[name] for name in unet.state_dict()})
    x = torch.rand(1, 3, 19, 22)
    nothing = torch.zeros(1, 4, 19, 22)
    with torch.no_grad():
        assert torch.equal(model(x, 20.0), unet(x, 20.0))
        torch.testing.assert_close(model(x, 20.0, nothing), unet(x, 20.0))


def test_a_guide_is_of_one_picture(restorer):
    picture, guide = pictures()
    before = restorer(picture, sigma=20)
    guided = restorer(picture, sigma=20, guide=guide)
    assert not np.array_equal(before, guided)
    assert np.array_equal(before, restorer(picture, sigma=20))


def test_a_session_takes_a_guide(model, restorer, tmp_path, monkeypatch):
    monkeypatch.setattr("fastrestore.guide.LEAST", 0.0)  # a session takes any; the restorer shall, too
    picture, guide = pictures()
    fr.compile(model).save(tmp_path / "m.frp")
    plan = fr.Plan.load(tmp_path / "m.frp")
    assert plan.takes_guide
    session = plan.session(threads=1)
    alone = restorer(picture, sigma=20)
    np.testing.assert_array_equal(session.run(picture, sigma=20), alone)
    for other in (guide, guide.astype(np.uint16) * 257, cv2.cvtColor(guide, cv2.COLOR_RGB2GRAY)[..., None]):
        expected = restorer(picture, sigma=20, guide=other)
        np.testing.assert_array_equal(session.run(picture, sigma=20, guide=other), expected)
        assert not np.array_equal(expected, alone)
    np.testing.assert_array_equal(session.run(picture, sigma=20), alone)  # a guide is of one run
    np.testing.assert_array_equal(fr.Restorer(tmp_path / "m.frp")(picture, sigma=20, guide=other), expected)


def test_a_session_refuses_a_guide_that_does_not_fit(model):
    picture, guide = pictures()
    session = fr.compile(model).session(threads=1)
    with pytest.raises(fr.ImageError, match="a guide of 52 x 30 pixels for a picture of 52 x 37"):
        session.run(picture, sigma=20, guide=guide[:30])
    for wrong in (guide[..., 0], guide[..., :2], guide.astype(np.int32)):
        with pytest.raises(ValueError, match="a guide must be"):
            session.run(picture, sigma=20, guide=wrong)
    for other in (fr.create("unet", widths=(16, 16), blocks=1), Echo()):
        plan = fr.compile(other, card={"guide": 4})
        assert not plan.takes_guide
        with pytest.raises(ValueError, match="takes no guide"):
            plan.session(threads=1).run(picture, sigma=20 if plan.takes_sigma else None, guide=guide)


class Echo(nn.Module):
    """A recurrent module: its state is the picture before."""

    states = ((3, 1),)

    def forward(self, x, before):
        return 0.5 * (x + before), x


def test_kinds_of_guides(restorer):
    picture, guide = pictures()
    expected = restorer(picture, sigma=20, guide=guide)
    rgba = np.dstack([guide, guide[..., :1]])
    tensor = torch.from_numpy(guide).permute(2, 0, 1)[None]
    deep = guide.astype(np.uint16) * 257
    for other in (PilImage.fromarray(guide), rgba, tensor, deep, guide / 255):
        np.testing.assert_allclose(restorer(picture, sigma=20, guide=other).astype(int), expected, atol=1)
    plane = cv2.cvtColor(guide, cv2.COLOR_RGB2GRAY)
    grey = restorer(picture, sigma=20, guide=plane)
    assert np.array_equal(grey, restorer(picture, sigma=20, guide=np.dstack([plane] * 3)))


def test_a_guide_that_shows_something_else_is_left_out(restorer, model, tmp_path):
    picture, guide = pictures()
    other = np.ascontiguousarray(np.roll(guide, 21, 1)[::-1])
    with pytest.warns(UserWarning, match="the guide is left out"):
        result = restorer(picture, sigma=20, guide=other)
    assert np.array_equal(result, restorer(picture, sigma=20))
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for path, pixels in zip(paths, (picture, other), strict=False):
        image.write(path, image.Image(pixels))
    (notice,) = restorer.file(paths[0], paths[2], sigma=20, guide=paths[1])["notices"]
    assert "left out" in notice
    assert np.array_equal(image.read(paths[2]).pixels, result)


@pytest.mark.parametrize("sigma", [0, 10, 25, 50])
def test_how_much_of_the_detail_a_guide_shows(sigma):
    rng = np.random.default_rng(1)
    clean = cv2.resize(rng.integers(0, 256, (40, 48, 3), np.uint8), (160, 132)).astype(np.float32) / 255
    noisy = degrade.noise(clean, sigma, seed=0).astype(np.float32)
    inverted = (255 - clean * 255).astype(np.uint8)
    assert shown(noisy, inverted, sigma) > 0.95
    lies_aside = [shown(noisy, np.roll(inverted, far, 1), sigma) for far in (1, 2, 4)]
    assert lies_aside == sorted(lies_aside, reverse=True)
    assert lies_aside[-1] < 0.3
    assert shown(noisy, np.full_like(inverted, 90), sigma) < 1e-6
    assert shown(noisy, np.ascontiguousarray(inverted[::-1]), sigma) < 0.2


def test_what_does_not_fit_is_refused(restorer):
    picture, guide = pictures()
    with pytest.raises(fr.ImageError, match="a guide of 52 x 30 pixels for a picture of 52 x 37"):
        restorer(picture, sigma=20, guide=guide[:30])
    with pytest.raises(fr.ImageError, match="NaN"):
        restorer(picture, sigma=20, guide=np.full((37, 52), np.nan, np.float32))
    with pytest.raises(ValueError, match="takes no guide"):
        fr.Restorer(fr.create("unet", widths=(16, 16), blocks=1))(picture, sigma=20, guide=guide)
    assert np.array_equal(restorer(picture, sigma=20), restorer(picture, sigma=20, guide=None))


def test_files_and_the_command(model, restorer, tmp_path):
    path, source, beside, out = (tmp_path / name for name in ("m.safetensors", "a.png", "b.png", "c.png"))
    checkpoint.save(model, path)
    picture, guide = pictures()
    for file, pixels in ((source, picture), (beside, guide)):
        image.write(file, image.Image(pixels))
    options = ["-o", out, "--sigma", 20, "--model", path, "--threads", 1]
    assert run("denoise", source, *options, "--guide", beside) == 0
    assert np.array_equal(image.read(out).pixels, restorer(picture, sigma=20, guide=guide))
    image.write(beside, image.Image(guide[:-1]))
    assert run("denoise", source, *options, "--overwrite", "--guide", beside) == 1
    assert run("denoise", source, source, *options, "--guide", beside) == 2
    assert run("denoise", source, *options, "--burst", "--guide", beside) == 2
    options[5] = "denoise-cnn"
    assert run("denoise", source, *options, "--overwrite", "--guide", beside) == 2


@pytest.mark.parametrize("kind", ["flash", "infrared", "depth"])
def test_guides_share_the_pictures_edges(kind):
    picture = np.full((48, 64, 3), (0.2, 0.4, 0.1), np.float32)
    picture[:, 30:] = (0.8, 0.5, 0.9)
    p = Guide(kind=kind, mix=(0.9, 0.4, 0.2), falloff=0.2, sigma=1.0)
    first, again = (degrade.guide(picture, p, seed=0).image for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == picture.shape
    assert 0 <= first.min() <= first.max() <= 1
    steps = np.abs(np.diff(first.mean((0, 2))))
    assert abs(int(np.argmax(steps)) - 29) <= 1
    assert np.abs(first - picture).mean() > 0.03
    grey = degrade.guide(picture[..., 0], seed=3)
    assert grey.image.shape == picture.shape
    assert grey.parameters == degrade.guide(picture[..., 0], seed=3).parameters


@pytest.mark.parametrize("kind", ["flash", "infrared", "depth"])
def test_a_shifted_guide_lies_aside(kind):
    picture = np.full((48, 64, 3), (0.2, 0.4, 0.1), np.float32)
    picture[:, 30:] = (0.8, 0.5, 0.9)
    p = Guide(kind=kind, mix=(0.9, 0.4, 0.2), falloff=0.0, sigma=0.0)
    fits, lies_aside = (degrade.guide(picture, replace(p, shift=shift)).image for shift in ((0.0, 0.0), (5.0, 2.0)))
    np.testing.assert_allclose(lies_aside[4:, 8:-4], fits[4:, 3:-9], atol=1e-6)


def test_wrong_guides_are_named():
    for wrong in ({"kind": "sonar"}, {"levels": 9}, {"gamma": 0.0}, {"falloff": 1.2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Guide(**wrong)
