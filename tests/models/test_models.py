"""Architectures: published names, shapes and counts; the float64 definition; sizes, layouts, sigma, export."""

import pytest
import torch
import torch.nn.functional as F
from close import assert_no_worse

from fastrestore import models
from fastrestore.errors import ModelError

SMALL = {
    "autoencoder": {"widths": (4, 6), "blocks": 1},
    "burst-unet": {"widths": (4, 6), "blocks": 1, "width": 4},
    "dmphn": {"width": 4},
    "dncnn": {"width": 6, "depth": 4},
    "drunet": {"widths": (4, 4, 6, 8), "blocks": 1},
    "esdnet": {"encoder_width": 4, "decoder_width": 6, "growth": 2},
    "estrnn": {"width": 2, "blocks": 1},
    "fastdvdnet": {"width": 4, "frame_width": 2},
    "ffdnet": {"width": 6, "depth": 4},
    "fusion-unet": {"widths": (4, 6), "blocks": 1, "hidden": 4},
    "guided-unet": {"widths": (4, 6), "blocks": 1, "guide_width": 4},
    "mimo-unet": {"width": 4, "blocks": 1},
    "nafnet": {"width": 4, "encoder_blocks": (1, 1), "middle_blocks": 1, "decoder_blocks": (1, 1)},
    "recurrent-unet": {"widths": (4, 6), "blocks": 1, "width": 4, "hidden": 4},
    "rednet": {"width": 6, "layers": 5},
    "restormer": {"width": 8, "blocks": (1, 1, 1, 1), "refinement_blocks": 1},
    "scunet": {"width": 8, "blocks": (2, 1, 1, 2, 1, 1, 1), "head_width": 4, "window": 4},
    "swinir": {"width": 12, "blocks": (2, 1), "heads": (2, 3), "window": 4},
    "unet": {"widths": (4, 6), "blocks": 1},
}


def test_every_architecture_has_a_small_case():
    assert SMALL.keys() == models.MODELS.keys()


@pytest.fixture(params=SMALL)
def small(request):
    torch.manual_seed(0)
    model = models.create(request.param, **SMALL[request.param])
    with torch.no_grad():
        for parameter in model.parameters():  # the trained ones start near the identity, which would prove little
            inputs = parameter[0].numel() if parameter.ndim else 1
            parameter.copy_(torch.randn_like(parameter) * inputs**-0.5)
    return model.eval()


def run(model, x, sigma=25.0):
    with torch.no_grad():
        return model(x, sigma) if model.takes_sigma else model(x)


def assert_close(actual, expected):
    """Within 1e-5 of the largest value: some hundred roundings of float32 in a row."""
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "config", "count"),
    [
        # KAIR's table of published models: DnCNN without batch normalisation, FFDNet, DRUNet grey (32,638,656).
        ("dncnn", {"channels": 1, "depth": 17}, 555_137),
        ("dncnn", {"channels": 3, "depth": 20}, 668_227),
        ("ffdnet", {"channels": 1, "width": 64, "depth": 15}, 485_316),
        ("ffdnet", {"channels": 3, "width": 96, "depth": 12}, 852_108),
        ("drunet", {"channels": 1}, 32_638_656),
        ("drunet", {"channels": 3}, 32_640_960),
    ],
    ids=str,
)
def test_parameter_counts_are_the_published_ones(name, config, count):
    with torch.device("meta"):
        model = models.create(name, **config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize(
    ("name", "config", "shapes"),
    [
        (
            "dncnn",
            {"channels": 1, "depth": 17},
            {"model.0.weight": (64, 1, 3, 3), "model.2.bias": (64,), "model.32.weight": (1, 64, 3, 3)},
        ),
        (
            "ffdnet",
            {},
            {"model.0.weight": (96, 13, 3, 3), "model.2.weight": (96, 96, 3, 3), "model.22.bias": (12,)},
        ),
        (
            "drunet",
            {},
            {
                "m_head.weight": (64, 4, 3, 3),
                "m_down1.0.res.0.weight": (64, 64, 3, 3),
                "m_down1.3.res.2.weight": (64, 64, 3, 3),
                "m_down1.4.weight": (128, 64, 2, 2),
                "m_down3.4.weight": (512, 256, 2, 2),
                "m_body.3.res.2.weight": (512, 512, 3, 3),
                "m_up3.0.weight": (512, 256, 2, 2),
                "m_up3.1.res.0.weight": (256, 256, 3, 3),
                "m_up1.4.res.2.weight": (64, 64, 3, 3),
                "m_tail.weight": (3, 64, 3, 3),
            },
        ),
        (
            "rednet",
            {"layers": 15},
            {
                "conv_layers.0.0.weight": (64, 3, 3, 3),
                "conv_layers.14.0.bias": (64,),
                "deconv_layers.13.0.weight": (64, 64, 3, 3),
                "deconv_layers.14.weight": (64, 3, 3, 3),
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_published_names_and_shapes(name, config, shapes):
    with torch.device("meta"):
        state = models.create(name, **config).state_dict()
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    convolutions = {"dncnn": 17, "ffdnet": 12, "drunet": 64, "rednet": 30}[name]
    assert len(state) == convolutions * (1 if name == "drunet" else 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2), (16, 16), (17, 23)], ids=str)
def test_any_size_comes_back(small, size):
    y = run(small, torch.rand(1, 3, *size))
    assert y.shape == (1, 3, *size)
    assert y.isfinite().all()


def test_float32_is_no_worse_than_plain_torch(small):
    x = torch.rand(1, 3, 45, 52)
    exact = run(double(small), x.double())
    plain = (small(x, 25.0) if small.takes_sigma else small(x)).detach()  # with gradients: torch's own layers
    assert_no_worse(run(small, x), plain, exact)
    assert (exact - x).abs().max() > 1e-2  # not the identity


def double(model):
    twin = type(model)(model.config)
    twin.load_state_dict(model.state_dict())
    return twin.double().eval()


def test_training_path_equals_the_fused_one(small):
    x = torch.rand(2, 3, 16, 24)
    y = small(x, 25.0) if small.takes_sigma else small(x)
    assert y.requires_grad
    assert_close(y.detach(), run(small, x))


def test_layouts_agree(small):
    x, gapped = torch.rand(2, 3, 16, 24), torch.rand(2, 3, 32, 48)[..., ::2, ::2]
    plain = run(small, x), run(small, gapped.contiguous())
    others = run(small, x.contiguous(memory_format=torch.channels_last)), run(small, gapped)
    small.double()
    for picture, one, other in zip((x, gapped), plain, others, strict=True):
        assert_no_worse(other, one, run(small, picture.double()))


def test_sigma_is_per_image(small):
    x = torch.rand(2, 3, 16, 16)
    if not small.takes_sigma:
        with pytest.raises(TypeError):
            small(x, 25.0)
        return
    both = run(small, x, torch.tensor([5.0, 50.0]))
    assert_close(both[:1], run(small, x[:1], 5.0))
    assert_close(both[1:], run(small, x[1:], 50))
    assert (run(small, x, 5.0) - run(small, x, 50.0)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="one per image"):
        run(small, x, torch.tensor([1.0, 2.0, 3.0]))


def test_exports(small):
    x = torch.rand(1, 3, 24, 32)
    arguments = (x, torch.tensor([25.0])) if small.takes_sigma else (x,)
    with torch.no_grad():
        program = torch.export.export(small, arguments)
        assert_close(program.module()(*arguments), small(*arguments))


def test_a_unet_without_sigma():
    model = models.create("unet", widths=(16, 16), blocks=1, sigma=False, gain=True)
    assert not model.takes_sigma
    x = torch.rand(1, 3, 21, 18)
    with torch.no_grad():
        assert (model(x) - x).abs().max() < 0.25  # starts near the identity
        with pytest.raises(ValueError, match="takes no sigma"):
            model(x, 25.0)
        with pytest.raises(ValueError, match="takes a sigma"):
            models.create("unet", widths=(16, 16), blocks=1)(x)
        model.tail.weight.zero_()
        model.tail.bias.copy_(torch.cat([torch.full((12,), 0.25), torch.full((12,), 0.5)]))
        torch.testing.assert_close(model(x), x * 1.5 - 0.25)


def test_dncnn_is_input_minus_network():
    model = models.create("dncnn", channels=1, width=5, depth=3).double()
    x = torch.rand(1, 1, 9, 8, dtype=torch.float64)
    y = x
    for i in (0, 2, 4):
        y = F.conv2d(y, model.model[i].weight, model.model[i].bias, padding=1)
        y = y.relu() if i < 4 else y
    torch.testing.assert_close(model(x), x - y)


def test_ffdnet_is_the_network_on_four_sub_images():
    model = models.create("ffdnet", channels=1, width=5, depth=2).double()
    x = torch.rand(1, 1, 6, 8, dtype=torch.float64)
    parts = [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
    plane = torch.full_like(parts[0], 15 / 255)
    first, last = model.model[0], model.model[2]
    y = F.conv2d(torch.cat([*parts, plane], 1), first.weight, first.bias, padding=1).relu()
    y = F.conv2d(y, last.weight, last.bias, padding=1)
    wanted = torch.empty_like(x)
    for k, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        wanted[..., i::2, j::2] = y[:, k : k + 1]
    torch.testing.assert_close(model(x, 15), wanted)


@pytest.mark.parametrize("layers", [10, 15])
def test_rednet_skips_as_published(layers):
    """The published rule: keep every second output, at most ceil(L / 2) - 1; add where i + 1 + L is even."""
    model = models.create("rednet", channels=1, width=3, layers=layers).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    x = torch.rand(1, 1, 10, 8, dtype=torch.float64)
    y, kept = x, []
    for i, layer in enumerate(model.conv_layers):
        y = layer(y)
        if (i + 1) % 2 == 0 and len(kept) < -(-layers // 2) - 1:
            kept.append(y)
    assert len(kept) == -(-layers // 2) - 1
    for i, layer in enumerate(model.deconv_layers):
        y = layer(y)
        if (i + 1 + layers) % 2 == 0 and kept:
            y = (y + kept.pop()).relu()
    torch.testing.assert_close(model(x), (y + x).relu())
    assert not kept


def test_rednet_without_skips_is_a_chain():
    model = models.create("rednet", channels=1, width=3, layers=5, skips=False).double()
    x = torch.rand(1, 1, 10, 8, dtype=torch.float64)
    torch.testing.assert_close(model(x), (model.deconv_layers(model.conv_layers(x)) + x).relu())


def test_drunet_pads_by_replication_and_crops():
    torch.manual_seed(1)
    model = models.create("drunet", channels=1, **SMALL["drunet"])
    x = torch.rand(1, 1, 13, 11)
    padded = F.pad(x, (0, 5, 0, 3), mode="replicate")
    torch.testing.assert_close(run(model, x), run(model, padded)[..., :13, :11])


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("resnet", {}, "unknown architecture"),
        ("dncnn", {"colour": 1}, "no option colour"),
        ("dncnn", {"_target_": "os.system"}, "no option _target_"),
        ("dncnn", {"depth": 0}, "depth must be"),
        ("dncnn", {"width": 10**9}, "width must be"),
        ("dncnn", {"width": 1e3}, "width must be"),
        ("dncnn", {"width": True}, "width must be"),
        ("dncnn", {"width": "64"}, "width must be"),
        ("unet", {"widths": []}, "widths must be"),
        ("unet", {"widths": [64, -1]}, "widths must be"),
        ("unet", {"widths": [64] * 9}, "widths must be"),
        ("drunet", {"widths": [4, 4, 4]}, "drunet: "),
        ("rednet", {"skips": 1}, "skips must be"),
    ],
    ids=str,
)
def test_a_wrong_configuration_is_refused(name, config, words):
    with pytest.raises(ModelError, match=words):
        models.create(name, **config)


def test_lists_become_tuples():
    assert models.create("unet", widths=[4, 6], blocks=1).config.widths == (4, 6)
