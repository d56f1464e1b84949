"""Plans of norms, means over the picture and attention: what float64 torch gives, the same bits for every cut."""

import numpy as np
import pytest
import torch
from test_operators import Net, check, conv, eager, picture, randomised
from torch import nn

import fastrestore as fr
from fastrestore import engine, models, ops
from fastrestore.errors import MemoryBudgetError, UnsupportedOperator
from fastrestore.layers import ChannelNorm, channel_attention, layer_norm, window_attention

SMALL = {
    "nafnet": {"width": 16, "encoder_blocks": (1, 2), "middle_blocks": 2, "decoder_blocks": (1, 1)},
    "swinir": {"width": 24, "blocks": (2, 2), "heads": (2, 2)},
    "scunet": {"width": 32, "blocks": (2, 1, 1, 2, 1, 1, 1), "head_width": 8},
    "restormer": {"width": 16, "blocks": (1, 1, 1, 2), "refinement_blocks": 1},
}


class Windows(nn.Module):
    """A 1x1 layer to queries, keys and values, and attention.  Channels stand last within."""

    def __init__(self, channels, heads, side, shift):
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.bias = nn.Parameter(torch.zeros(heads, (2 * side - 1) ** 2))
        self.side, self.shift = side, shift

    def forward(self, x):
        return window_attention(self.qkv(x.permute(0, 2, 3, 1)), self.bias, self.side, self.shift).permute(0, 3, 1, 2)


class Channels(nn.Module):
    def __init__(self, channels, heads):
        super().__init__()
        self.qkv, self.temperature = conv(channels, 3 * channels), nn.Parameter(torch.ones(heads))

    def forward(self, x):
        return channel_attention(self.qkv(x), self.temperature)


LOCAL = {
    "norm": Net(lambda x, a, n: n(a(x)) * 0.1 + x, conv(3, 3), ChannelNorm(3, 1e-5)),
    "norm_of_many": Net(lambda x, a, n, b: b(n(a(x))), conv(3, 67), ChannelNorm(67, 1e-5), conv(67, 3)),
    "norm_not_centred": Net(
        lambda x, a, n, b: b(layer_norm(a(x), n.weight, None, 1e-5, False)),
        conv(3, 20),
        ChannelNorm(20, 0),
        conv(20, 3),
    ),
    "norm_of_torch": Net(
        lambda x, a, n, b: b(n(a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        conv(3, 20),
        nn.LayerNorm(20),
        conv(20, 3),
    ),
    "norm_without_weights": Net(
        lambda x, a, n, b: b(n(a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        conv(3, 18),
        nn.LayerNorm(18, elementwise_affine=False),
        conv(18, 3),
    ),
    "perceptron": Net(
        lambda x, a, act, b: (x.permute(0, 2, 3, 1) + b(act(a(x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2),
        nn.Linear(3, 21),
        nn.GELU(),
        nn.Linear(21, 3, bias=False),
    ),
    "windows_of_8": Net(lambda x, a, w, b: b(w(a(x))), conv(3, 24), Windows(24, 3, 8, 0), conv(24, 3), multiple_of=8),
    "windows_shifted": Net(
        lambda x, a, v, w, b: b(w(v(a(x)))),
        conv(3, 20),
        Windows(20, 2, 8, 4),
        Windows(20, 4, 8, 5),
        conv(20, 3),
        multiple_of=8,
    ),
    "windows_of_7": Net(lambda x, w: x + w(x), Windows(3, 1, 7, 3), multiple_of=7),
    "windows_at_half_size": Net(
        lambda x, a, w, b: x + b(w(a(x))),
        nn.Conv2d(3, 12, 2, stride=2),
        Windows(12, 2, 4, 2),
        nn.ConvTranspose2d(12, 3, 2, stride=2),
        multiple_of=8,
    ),
}
GLOBAL = {
    "mean": Net(lambda x, a, p, b: a(x) * b(p(x)).sigmoid() + x, conv(3, 3), nn.AdaptiveAvgPool2d(1), conv(3, 3, 1)),
    "mean_kept": Net(lambda x, a: x * a(x.mean((2, 3), keepdim=True)).relu(), conv(3, 3, 1)),
    "channels": Net(lambda x, a, w, b: b(w(a(x))), conv(3, 24), Channels(24, 2), conv(24, 3)),
    "channels_twice": Net(
        lambda x, a, v, w, b: x + b(w(v(a(x)))), conv(3, 50), Channels(50, 1), Channels(50, 5), conv(50, 3)
    ),
    "channels_at_half_size": Net(
        lambda x, d, a, w, b: b(w(a(d(x)))),
        nn.PixelUnshuffle(2),
        conv(12, 16),
        Channels(16, 2),
        nn.ConvTranspose2d(16, 3, 2, stride=2),
        multiple_of=2,
    ),
}
GLOBAL["mean_of_mean"] = Net(
    lambda x, a, p, b: b((lambda y: y * p(y) + y * p(y * y))(a(x))), conv(3, 40), nn.AdaptiveAvgPool2d(1), conv(40, 3)
)


@pytest.mark.parametrize("name", LOCAL)
def test_local(name):
    net = LOCAL[name]
    plan = check(net, (1, 1), (23, 37), tolerance=2e-5)
    assert plan.halo is not None
    assert plan.multiple_of % net.multiple_of == 0


@pytest.mark.parametrize("name", GLOBAL)
def test_statistics_of_the_whole_picture(name):
    net = randomised(GLOBAL[name])
    plan = engine.compile(net)
    assert plan.halo is None
    for size in ((1, 1), (5, 3), (23, 37), (130, 70)):
        image = picture(*size)
        exact = eager(net, image)
        actual = plan.session(threads=2).run(image, clip=False)
        np.testing.assert_allclose(actual, exact, rtol=0, atol=2e-5 * max(1.0, np.abs(exact).max()))
        check_budgets(plan, image)


def check_budgets(plan, image):
    """One strip, whatever the budget; the same bits for every band that fits."""
    whole = plan.session(threads=1, memory="1GiB")
    wanted = whole.run(image, clip=False)
    with pytest.raises(MemoryBudgetError, match=r"needs (\d+) bytes") as caught:
        plan.session(threads=3, memory=1).run(image)
    smallest = int(str(caught.value).split("needs ")[1].split()[0])
    for memory in (smallest, 2 * smallest):
        session = plan.session(threads=3, memory=memory)
        np.testing.assert_array_equal(session.run(image, clip=False), wanted)
        assert session.report.strips == 1
        assert session.report.working_bytes <= memory + 4096


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_network(name, precision, tmp_path):
    """Pictures of any size, padded as the network itself pads them."""
    model = network(name)
    plan = engine.compile(model, precision=precision)
    assert plan.multiple_of == model.multiple_of
    assert plan.halo == model.halo
    plan.save(tmp_path / "m.frp")
    loaded = fr.Plan.load(tmp_path / "m.frp")
    for size in ((1, 1), (37, 29), (70, 133)):
        image = picture(*size, seed=1) / 5 + 0.3
        with torch.no_grad():
            exact = model.double()(torch.from_numpy(image).double().permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
        model.float()
        actual = plan.session(threads=1).run(image, clip=False)
        scale = np.abs(exact).max()
        if precision == "float32":
            np.testing.assert_allclose(actual, exact, rtol=0, atol=1e-5 * scale)
        else:
            assert 10 * np.log10(scale**2 / ((actual - exact) ** 2).mean()) > 50
        np.testing.assert_array_equal(loaded.session(threads=2).run(image, clip=False), actual)


def network(name, **more):
    torch.manual_seed(0)
    model = models.create(name, **SMALL[name], **more).eval()
    with torch.no_grad():  # no residual branch starts switched off
        for parameter in model.parameters():
            if (parameter == 0).all() or (parameter == 1).all():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa):
    try:
        ops._C.usable_isa(isa)
    except ValueError as error:
        pytest.skip(str(error))
    image = picture(37, 29, seed=1) / 5 + 0.3
    for model in (*map(network, SMALL), network("nafnet", local=24)):
        wanted = engine.compile(model).session(threads=1).run(image, clip=False)
        actual = engine.compile(model, isa=isa).session(threads=2).run(image, clip=False)
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-5)


def test_deep_networks_reuse_their_memory():
    """Twelve blocks that each wait for a mean of all pixels take no more than three."""

    def bytes_of(blocks):
        torch.manual_seed(0)
        model = models.create("nafnet", width=16, encoder_blocks=(1,), middle_blocks=blocks, decoder_blocks=(1,)).eval()
        return engine.compile(model).session(threads=1).working_bytes(256, 256)

    assert bytes_of(12) < 1.02 * bytes_of(3)


def test_a_nan_is_counted_and_stays_as_far_as_torch_has_it():
    net = Net(lambda x, a, w, b: b(w(a(x))), conv(3, 24, 1), Windows(24, 3, 8, 0), conv(24, 3, 1), multiple_of=8)
    net = randomised(net)  # no 3x3 convolution: Winograd's spreads a NaN over its tile
    image = picture(32, 40)
    image[9, 17, 1] = np.nan
    session = engine.compile(net).session(threads=1)
    nan = np.isnan(session.run(image, clip=False))
    with torch.no_grad():
        wanted = net(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).isnan().numpy()
    np.testing.assert_array_equal(nan, wanted)
    assert session.report.non_finite == nan.sum() > 0


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (Net(lambda x: x + x.mean((2, 3), keepdim=True)), "different shapes"),
        (Net(lambda x: x * x.mean((1, 2), keepdim=True)), "mean over height and width"),
        (Net(lambda x: x.permute(0, 1, 3, 2)), "only channels can move"),
        (Net(lambda x, p: p(x), nn.AdaptiveAvgPool2d(2)), "mean of the whole image"),
        (Net(lambda x, n: n(x), nn.LayerNorm([3, 16, 16])), "channels"),
    ],
)
def test_what_has_no_plan_is_named(net, words):
    with pytest.raises(UnsupportedOperator, match=words):
        engine.compile(net)


class LocalMean(nn.Module):
    def __init__(self, side):
        super().__init__()
        self.side = side

    def forward(self, x):
        return torch.ops.fastrestore.local_mean(x, self.side)


@pytest.mark.parametrize("side", [1, 2, 7, 40, 1000])
@pytest.mark.parametrize("channels", [3, 21, 80])
def test_local_means(side, channels):
    """Windows smaller and larger than the picture; rows longer than what a thread takes."""
    net = Net(lambda x, a, m, b: b(a(x) * m(a(x))), conv(3, channels), LocalMean(side), conv(channels, 3))
    randomised(net)
    plan = engine.compile(net)
    assert plan.halo is None
    for size in ((1, 1), (5, 3), (50, 37), (90, 300)):
        image = picture(*size)
        exact = eager(net, image)
        actual = plan.session(threads=2).run(image, clip=False)
        np.testing.assert_allclose(actual, exact, rtol=0, atol=1e-5 * max(1.0, np.abs(exact).max()))
        check_budgets(plan, image)


def test_a_local_mean_keeps_no_more_than_its_window():
    net = randomised(Net(lambda x, a, m, b: b(m(a(x))), conv(3, 16), LocalMean(9), conv(16, 3)))
    session = engine.compile(net).session(threads=1)
    assert session.working_bytes(4000, 256) < 1.02 * session.working_bytes(1000, 256)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_local_nafnet(precision, tmp_path):
    """As published, with windows that the pictures exceed at some levels and not at others."""
    model = network("nafnet", local=24)
    plan = engine.compile(model, precision=precision)
    assert (plan.multiple_of, plan.halo) == (model.multiple_of, model.halo)
    plan.save(tmp_path / "m.frp")
    loaded = fr.Plan.load(tmp_path / "m.frp")
    for size in ((1, 1), (37, 29), (70, 133)):
        image = picture(*size, seed=1) / 5 + 0.3
        with torch.no_grad():
            exact = model.double()(torch.from_numpy(image).double().permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
        model.float()
        actual = plan.session(threads=1).run(image, clip=False)
        scale = np.abs(exact).max()
        if precision == "float32":
            np.testing.assert_allclose(actual, exact, rtol=0, atol=1e-5 * scale)
        else:
            assert 10 * np.log10(scale**2 / ((actual - exact) ** 2).mean()) > 50
        np.testing.assert_array_equal(loaded.session(threads=2).run(image, clip=False), actual)
        check_budgets(plan, image)
    whole = engine.compile(network("nafnet"), precision=precision).session(threads=1).run(image, clip=False)
    assert np.abs(whole - actual).max() > 1e-4 * scale  # the windows matter


@pytest.mark.parametrize("width", [32, 64])
def test_the_published_deblurring_nafnets_compile(width):
    """Of one block a level instead of 28: their windows, their widths, and a picture that is smaller than these."""
    config = models.MODELS["nafnet"].variants[f"gopro-width{width}"]
    torch.manual_seed(0)
    model = models.create("nafnet", **{**vars(config), "encoder_blocks": (1, 1, 1, 2)}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if (parameter == 0).all():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    image = picture(50, 70, seed=1) / 5 + 0.3
    with torch.no_grad():
        exact = model.double()(torch.from_numpy(image).double().permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    actual = engine.compile(model.float()).session(threads=1).run(image, clip=False)
    np.testing.assert_allclose(actual, exact, rtol=0, atol=1e-5 * np.abs(exact).max())
