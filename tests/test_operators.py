"""Each operator that compile() covers: what float64 torch gives, and the same bits however the picture is cut."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastrestore import engine
from fastrestore.errors import MemoryBudgetError, UnsupportedOperator


class Net(nn.Module):
    """A function of an image and of the modules it uses."""

    def __init__(self, function, *modules: nn.Module, channels: int = 3, multiple_of: int = 1):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)
        self.config, self.multiple_of = SimpleNamespace(channels=channels), multiple_of

    def forward(self, x):
        return self.function(x, *self.parts)


def conv(inputs: int, outputs: int, side: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, **({"padding": side // 2} | options))


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.dim() == 4 else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)
            elif name.endswith("running_mean"):
                buffer.normal_(generator=generator)
    return module.eval()


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.2, 1.5, (height, width, channels)).astype(np.float32)


def eager(module: Net, image: np.ndarray) -> np.ndarray:
    """In float64, of the picture with its last row and column repeated up to the module's multiple."""
    height, width, _ = image.shape
    m = module.multiple_of
    padded = np.pad(image, ((0, -height % m), (0, -width % m), (0, 0)), mode="edge")
    x = torch.from_numpy(padded).permute(2, 0, 1)[None].double()
    y = module.double()(x).detach()[0].permute(1, 2, 0).numpy()[:height, :width]
    module.float()
    return y


def check(module: Net, *sizes: tuple[int, int], tolerance: float = 1e-5) -> engine.Plan:
    randomised(module)
    plan = engine.compile(module)
    session = plan.session(threads=2)
    for size in sizes or ((1, 1), (5, 3), (23, 37)):
        image = picture(*size, channels=module.config.channels)
        exact = eager(module, image)
        actual = session.run(image, clip=False)
        scale = max(1.0, np.abs(exact[np.isfinite(exact)]).max())
        np.testing.assert_allclose(actual, exact, rtol=0, atol=tolerance * scale)
    check_cuts(plan, picture(33 * module.multiple_of, 71 * module.multiple_of + 3, module.config.channels))
    return plan


def check_cuts(plan: engine.Plan, image: np.ndarray) -> None:
    whole = plan.session(threads=1).run(image, clip=False)
    strips = []
    for threads in (1, 2):
        smallest = smallest_budget(plan, image, threads)
        for memory in (smallest, smallest * 2):
            session = plan.session(threads=threads, memory=memory)
            np.testing.assert_array_equal(session.run(image, clip=False), whole)
            strips.append(session.report.strips)
    assert max(strips) > 1


def smallest_budget(plan: engine.Plan, image: np.ndarray, threads: int) -> int:
    with pytest.raises(MemoryBudgetError, match=r"needs (\d+) bytes") as caught:
        plan.session(threads=threads, memory=1).run(image)
    return int(str(caught.value).split("needs ")[1].split()[0])


ACTIVATIONS = {
    "relu": nn.ReLU(),
    "relu_in_place": nn.ReLU(inplace=True),
    "leaky_relu": nn.LeakyReLU(0.2),
    "relu6": nn.ReLU6(),
    "hardtanh": nn.Hardtanh(-0.5, 0.75),
    "prelu": nn.PReLU(3),
    "prelu_shared": nn.PReLU(),
    "elu": nn.ELU(0.7),
    "celu": nn.CELU(1.3),
    "selu": nn.SELU(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU("tanh"),
    "silu": nn.SiLU(inplace=True),
    "softplus": nn.Softplus(2.0, 10.0),
    "mish": nn.Mish(),
    "rrelu": nn.RReLU(),
    "glu": nn.Sequential(conv(3, 6, 1), nn.GLU(1)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_alone(name):
    """On 3 channels, which share vectors with their neighbours, and on a number that ends within a vector."""
    check(Net(lambda x, act: act(x + 0) * 1, ACTIVATIONS[name]), (1, 1), (19, 41), tolerance=2e-6)


@pytest.mark.parametrize("channels", [1, 2, 15, 16, 17, 67])
def test_pointwise_of_any_channels(channels):
    c = channels
    net = Net(
        lambda x, a, act, norm: torch.sigmoid(norm(act(a(x))) * 0.5 + x) * a(x) - x.abs() / 3,
        conv(c, c, 1),
        nn.PReLU(c),
        nn.BatchNorm2d(c),
        channels=c,
    )
    check(net, (1, 1), (9, 13))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_keeps_nan_and_infinity_as_torch_does(name):
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e30, -1e30, 1e-30, 100, -100, 20.1, -88.5], np.float32)
    image = np.repeat(values.reshape(3, 4, 1), 3, 2)
    net = randomised(Net(lambda x, act: act(x + 0), ACTIVATIONS[name]))
    if name == "glu":
        pytest.skip("a convolution mixes the values")
    with torch.no_grad():
        expected = net(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    actual = engine.compile(net).session().run(image, clip=False)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_every_lane_gives_the_same_bits():
    """A value's result does not depend on where in a row, and so in a vector, it stands."""
    values = picture(1, 1)[0, 0, 0] + np.linspace(-6, 6, 97, dtype=np.float32)
    for name, act in ACTIVATIONS.items():
        if name in ("prelu", "glu"):
            continue
        session = engine.compile(Net(lambda x, a: a(x + 0), act, channels=1)).session(threads=1)
        row = session.run(values.reshape(1, -1, 1), clip=False).ravel()
        single = [session.run(v.reshape(1, 1, 1), clip=False).item() for v in values[::8]]
        np.testing.assert_array_equal(row[::8], np.float32(single), err_msg=name)


CONSTANT = torch.tensor([0.5, -2.0, 1.5])[:, None, None]
POINTWISE = {
    "gate": Net(lambda x, a: a(x)[:, :3] * a(x)[:, 3:], conv(3, 6, 1)),
    "simple_gate": Net(lambda x, a, b: b(torch.mul(*a(x).chunk(2, 1))), conv(3, 38, 1), conv(19, 3, 1)),
    "split_sizes": Net(lambda x, a: torch.cat(a(x).split([2, 1, 4], 1)[1:], 1)[:, :3], conv(3, 7, 1)),
    "split_one_size": Net(lambda x, a: sum(a(x).split(3, 1)), conv(3, 9)),
    "mask_of_one_channel": Net(lambda x, a, b: a(x) * b(x).sigmoid(), conv(3, 3), conv(3, 1)),
    "sum_with_one_channel": Net(lambda x, a: x.relu() + a(x), conv(3, 1)),
    "one_channel_expanded": Net(lambda x, a: a(x).expand(-1, 3, -1, -1) - x, conv(3, 1)),
    "square": Net(lambda x: x**2 - x * x * x),
    "constant_by_channel": Net(lambda x: CONSTANT * x + CONSTANT[None]),
    "normalised": Net(lambda x, a: a((x - CONSTANT) / CONSTANT) * CONSTANT + CONSTANT, conv(3, 3)),
    "constant_first": Net(lambda x: 1 - 2 * (3 - x)),
    "negated": Net(lambda x: -(x / 4)),
    "in_place_chain": Net(lambda x, a: a(x).mul_(2).add_(x).relu_().sub_(0.5), conv(3, 3)),
    "in_place_and_read_again": Net(lambda x: (x + 1).mul_(2).relu_() + x),
    "batch_norm_alone": Net(lambda x, n: n(x.relu()), nn.BatchNorm2d(3)),
    "batch_norm_after_activation": Net(lambda x, a, n: n(a(x).relu()), conv(3, 3), nn.BatchNorm2d(3)),
    "channels_reordered": Net(lambda x, a: a(x)[:, [5, 1, 0]] + x.flip(1), conv(3, 8)),
    "channel_shuffle": Net(lambda x, a, s, b: b(s(a(x))), conv(3, 72), nn.ChannelShuffle(8), conv(72, 3)),
    "repeated": Net(lambda x, a: a(x.repeat(1, 2, 1, 1)), conv(6, 3)),
    "module_used_twice": Net(lambda x, a, p: p(a(p(a(x)))), conv(3, 3), nn.PReLU(3)),
    "alias_read_twice": Net(lambda x, a, d: (lambda y: F.relu(d(y)) + y)(a(x)), conv(3, 3), nn.Dropout()),
    "identity_and_dropout": Net(lambda x, a, b, c: c(b(a(x))), nn.Identity(), nn.Dropout2d(), conv(3, 3)),
    "clamped": Net(lambda x: x.clamp(min=0) + x.clamp(max=0.5) * x.clamp(0.1, 0.2)),
    "quotient": Net(lambda x, a: x / (a(x).abs() + 0.5), conv(3, 3)),
    "quotient_by_one_channel": Net(lambda x, a: a(x) / (x.square().mean(1, keepdim=True) + 0.1).sqrt(), conv(3, 3)),
    "one_channel_by_many": Net(lambda x, a, b: b(x[:, 1:2] / (a(x).exp() + 0.5)), conv(3, 19), conv(19, 3)),
    "reciprocal": Net(lambda x: 1 / (x * x + 0.5) - 3 / (2 + x.abs())),
    "logarithms": Net(lambda x: (x.abs() + 0.01).log() + x.abs().log1p() * (x / 3).exp()),
    "logarithm_before_convolutions": Net(lambda x, a, b: b(a(x).abs().log1p().sqrt()), conv(3, 33), conv(33, 3)),
    "channels_pooled": Net(
        lambda x, a, b: b(torch.cat([a(x).amax(1, keepdim=True), a(x).mean(1, keepdim=True)], 1)) * x,
        conv(3, 21),
        conv(2, 1),
    ),
    "least_and_greatest": Net(lambda x, a: torch.minimum(x, a(x)) - torch.maximum(a(x)[:, :1], x), conv(3, 3)),
    "comparisons": Net(lambda x, a: (x > 0.2) * a(x) + (a(x) < x) * x + (x < -1) * 2.0, conv(3, 3)),
    "comparison_with_one_channel": Net(lambda x, a: a(x) * (x.mean(1, keepdim=True) > x[:, 2:]), conv(3, 3)),
    "residual_of_residual": Net(lambda x, a, b: x + 0.2 * (a(x) + 0.2 * (b(x) + a(x))), conv(3, 3), conv(3, 3)),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise(name):
    check(POINTWISE[name])


def test_equal_values_are_not_above_one_another_in_bfloat16():
    """What is compared stays float32 though convolutions read it: rounding would set some of the mask."""
    net = Net(lambda x, a, b: a(x) + b(x) * (F.avg_pool2d(x, 1) < x), conv(3, 3), conv(3, 3))
    randomised(net)
    image = picture(20, 30)
    plain = engine.compile(Net(lambda x, a: a(x), net.parts[0]), precision="bfloat16").session().run(image, clip=False)
    np.testing.assert_array_equal(engine.compile(net, precision="bfloat16").session().run(image, clip=False), plain)


def test_what_masks_a_product_is_not_rounded_in_bfloat16():
    """0.501 is above 0.5, though a convolution reads the product; as bfloat16 it would be 0.5."""
    net = Net(lambda x, a, b: (lambda y: x + b(y * (y > 0.5)))(a(x)), conv(3, 3, 1), conv(3, 3, 1))
    for module, bias in zip(net.parts, (1e-3, 0.0), strict=True):
        nn.init.dirac_(module.weight)
        nn.init.constant_(module.bias, bias)
    image = np.full((8, 9, 3), 0.5, np.float32)
    np.testing.assert_allclose(
        engine.compile(net, precision="bfloat16").session().run(image, clip=False), 1.0, atol=5e-3
    )


def test_edges_of_roots_and_logarithms_are_torchs():
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e30, -1e30, 1e-40, -1, 1, -0.5, 100], np.float32)
    image = np.repeat(values.reshape(3, 4, 1), 3, 2)
    x = torch.from_numpy(image)
    for function in (torch.exp, torch.log, torch.log1p, torch.sqrt, torch.reciprocal, lambda x: (x > -0.5) * 1.0):
        actual = engine.compile(Net(lambda x, f=function: f(x + 0))).session().run(image, clip=False)
        np.testing.assert_allclose(actual, function(x).numpy(), rtol=2e-6, atol=0)


POOLS = {
    "max_2": (nn.MaxPool2d(2), 2),
    "max_3_stride_2": (nn.MaxPool2d(3, 2, 1), 2),
    "max_same_size": (nn.MaxPool2d(5, 1, 2), 1),
    "max_dilated": (nn.MaxPool2d(2, 1, 1, dilation=2), 1),
    "max_ceil": (nn.MaxPool2d(3, 2, ceil_mode=True), 2),
    "max_unequal": (nn.MaxPool2d((1, 3), 1, (0, 1)), 1),
    "average_2": (nn.AvgPool2d(2), 2),
    "average_4": (nn.AvgPool2d(4), 4),
    "average_3_counting_zeros": (nn.AvgPool2d(3, 1, 1), 1),
    "average_3_counting_pixels": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), 2),
    "average_with_divisor": (nn.AvgPool2d(2, divisor_override=3), 2),
    "average_ceil": (nn.AvgPool2d(2, ceil_mode=True), 2),
}
RESIZES = {
    "nearest": dict(mode="nearest"),
    "nearest-exact": dict(mode="nearest-exact"),
    "bilinear": dict(mode="bilinear"),
    "bicubic": dict(mode="bicubic"),
}


@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("name", POOLS)
def test_pooling(name, channels):
    pool, stride = POOLS[name]
    net = Net(
        lambda x, a, b, c: c(b(a(x))),
        conv(3, channels, 1),
        pool,
        conv(channels, 3, 1) if stride == 1 else nn.ConvTranspose2d(channels, 3, stride, stride),
        multiple_of=stride,
    )
    check(net, (2, 3), (23, 37))  # torch's own dilated window sees nothing of a single pixel


@pytest.mark.parametrize("name", ["max_3_stride_2", "average_3_counting_zeros"])
def test_pooling_keeps_nan(name):
    pool, stride = POOLS[name]
    net = Net(lambda x, p: F.interpolate(p(x), scale_factor=float(stride)), pool, multiple_of=stride)
    image = picture(12, 14)
    image[5, 6] = np.nan
    np.testing.assert_array_equal(
        np.isnan(engine.compile(net).session().run(image, clip=False)), np.isnan(eager(net, image))
    )


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("mode", RESIZES)
def test_resizing(mode, factor):
    """Down and up again, with a nonlinear step between, so that neither hides in the other."""
    options = RESIZES[mode]
    for down, up in ((conv(3, 17, factor, stride=factor, padding=0), None), (None, nn.PixelShuffle(factor))):
        if up is None:
            net = Net(
                lambda x, a, b: b(F.interpolate(a(x), scale_factor=factor, **options)),
                down,
                conv(17, 3, 1),
                multiple_of=factor,
            )
        else:
            net = Net(
                lambda x, a, b: b(a(F.interpolate(x, scale_factor=1 / factor, **options))),
                conv(3, 3 * factor**2),
                up,
                multiple_of=factor,
            )
        check(net)


def test_resizing_to_the_size_of_another_image():
    net = Net(
        lambda x, a, p, b: b(torch.cat([x, F.interpolate(p(a(x)), size=x.shape[2:], mode="bilinear")], 1)),
        conv(3, 8),
        nn.MaxPool2d(4),
        conv(11, 3),
        multiple_of=4,
    )
    check(net)


def test_resizing_to_a_written_size_is_refused():
    net = Net(lambda x: F.interpolate(F.interpolate(x, size=(8, 8)), size=x.shape[2:]), multiple_of=2)
    with pytest.raises(UnsupportedOperator, match="does not follow the picture"):
        engine.compile(net)


BORDERED = {
    "conv_reflect": (Net(lambda x, a: a(x), conv(3, 3, padding_mode="reflect")), 2),
    "conv_replicate": (Net(lambda x, a: a(x), conv(3, 3, padding_mode="replicate")), 1),
    "wide_reflect": (Net(lambda x, a, b: b(a(x)), conv(3, 20, 7, padding_mode="reflect"), conv(20, 3)), 4),
    "winograd_reflect": (
        Net(
            lambda x, a, b, c: c(b(a(x).relu()).relu()),
            conv(3, 32, padding_mode="reflect"),
            conv(32, 32, padding_mode="reflect"),
            conv(32, 3, padding_mode="replicate"),
        ),
        2,
    ),
    "two_kinds_on_one_image": (
        Net(
            lambda x, a, b, c: a(x) + b(x) + c(x),
            conv(3, 3, padding_mode="reflect"),
            conv(3, 3, 5, padding_mode="replicate"),
            conv(3, 3, 7),
        ),
        3,
    ),
    "pad_then_valid": (
        Net(lambda x, p, a: a(p(x)), nn.ReflectionPad2d(2), conv(3, 3, 5, padding=0)),
        3,
    ),
    "unequal_reflect": (Net(lambda x, a: a(F.pad(x, (2, 0, 0, 2), mode="reflect")), conv(3, 3, padding=0)), 3),
    "unequal_zeros": (Net(lambda x, a: a(F.pad(x, (1, 0, 0, 1))), conv(3, 3, 2, padding=0)), 1),
    "zeros_and_more_zeros": (Net(lambda x, p, a: a(p(x)), nn.ZeroPad2d(1), conv(3, 3, 5, padding=1)), 1),
    "strided_reflect": (
        Net(
            lambda x, a, b: b(a(F.pad(x, (0, 1, 0, 1), mode="reflect"))),
            conv(3, 16, stride=2, padding=0),
            nn.ConvTranspose2d(16, 3, 2, 2),
            multiple_of=2,
        ),
        2,
    ),
    "dilated_reflect": (Net(lambda x, a: a(x), conv(3, 3, dilation=3, padding=3, padding_mode="reflect")), 4),
    "depthwise_replicate": (
        Net(lambda x, a, b: b(a(x)), conv(3, 18, 1), conv(18, 3, 3, groups=3, padding_mode="replicate")),
        1,
    ),
}


@pytest.mark.parametrize("name", BORDERED)
def test_borders(name):
    """torch needs pictures larger than what it reflects; ours go on reflecting."""
    net, least = BORDERED[name]
    check(net, (least, least), (least + 1, 9), (23, 37))


def test_border_of_a_tiny_picture():
    plan = engine.compile(randomised(Net(lambda x, a: a(x), conv(3, 3, 7, padding_mode="reflect"))))
    image = picture(1, 2)
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="reflect")
    inside = plan.session().run(padded, clip=False)[3:-3, 3:-3]
    np.testing.assert_allclose(plan.session().run(image, clip=False), inside, atol=1e-5)


CONVOLUTIONS = {
    "different_dilations": Net(lambda x, a: a(x), conv(3, 3, dilation=(1, 2), padding=(1, 2))),
    "different_sides": Net(lambda x, a: a(x), nn.Conv2d(3, 3, (1, 5), padding=(0, 2))),
    "same": Net(lambda x, a: a(x), nn.Conv2d(3, 3, 4, padding="same")),
    "transposed_groups": Net(
        lambda x, a, b: b(a(x)),
        conv(3, 12, 2, stride=2, padding=0),
        nn.ConvTranspose2d(12, 3, 4, 2, 1, groups=3),
        multiple_of=2,
    ),
    "transposed_stride_1": Net(
        lambda x, a, b: b(a(x)), conv(3, 8, 1), nn.Sequential(nn.ConvTranspose2d(8, 12, 3, padding=1), conv(12, 3, 1))
    ),
    "transposed_stride_1_groups_dilation": Net(
        lambda x, a, b, c: c(b(a(x))),
        conv(3, 8, 1),
        nn.ConvTranspose2d(8, 12, 3, padding=2, dilation=2, groups=4),
        conv(12, 3, 1),
    ),
    "transposed_dilated": Net(
        lambda x, a, b: b(a(x)),
        conv(3, 8, 3, stride=3, padding=0),
        nn.ConvTranspose2d(8, 3, 3, 3, padding=1, dilation=2, output_padding=0),
        multiple_of=3,
    ),
    "transposed_smaller_than_its_stride": Net(
        lambda x, a, b: b(a(x)),
        conv(3, 8, 3, stride=3, padding=0),
        nn.ConvTranspose2d(8, 3, 1, 3, output_padding=2),
        multiple_of=3,
    ),
    "batch_norm_after_transposed": Net(
        lambda x, a, b, n: n(b(a(x))),
        conv(3, 12, 2, stride=2, padding=0),
        nn.ConvTranspose2d(12, 6, 4, 2, 1, groups=3),
        nn.Sequential(nn.BatchNorm2d(6), nn.Hardswish(), conv(6, 3, 1)),
        multiple_of=2,
    ),
    "weight_norm": Net(lambda x, a: a(x), nn.utils.parametrizations.weight_norm(conv(3, 3))),
    "spectral_norm": Net(lambda x, a: a(x), nn.utils.parametrizations.spectral_norm(conv(3, 3))),
    "spectral_norm_by_hook": Net(lambda x, a: a(x), nn.utils.spectral_norm(conv(3, 3))),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    check(CONVOLUTIONS[name], tolerance=3e-5)


class NafBlock(nn.Module):
    """NAFNet's block without norm and channel attention."""

    def __init__(self, width: int):
        super().__init__()
        self.a, self.b = conv(width, 2 * width, 1), conv(2 * width, 2 * width, groups=2 * width)
        self.c, self.d, self.e = conv(width, width, 1), conv(width, 2 * width, 1), conv(width, width, 1)
        self.beta, self.gamma = (nn.Parameter(torch.ones(1, width, 1, 1)) for _ in range(2))

    def forward(self, x):
        left, right = self.b(self.a(x)).chunk(2, dim=1)
        y = x + self.c(left * right) * self.beta
        left, right = self.d(y).chunk(2, dim=1)
        return y + self.e(left * right) * self.gamma


class DenseBlock(nn.Module):
    """ESRGAN's residual dense block."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.convs = nn.ModuleList(conv(width + i * growth, growth if i < 4 else width) for i in range(5))

    def forward(self, x):
        parts = [x]
        for layer in self.convs[:-1]:
            parts.append(F.leaky_relu(layer(torch.cat(parts, 1)), 0.2, inplace=True))
        return self.convs[-1](torch.cat(parts, 1)) * 0.2 + x


def unet(x, first, down, middle, last):
    y = first(x)
    z = F.interpolate(middle(down(y)), scale_factor=2, mode="bilinear", align_corners=False)
    return x + last(torch.cat([y, z], 1))


def mimo(x, shallow, down, join, up, last):
    """Two scales of one picture, joined by a product, as in MIMO-UNet."""
    half = F.interpolate(x, scale_factor=0.5, mode="bilinear")
    y = down(shallow[0](x))
    y = y + join(y * shallow[1](half))
    return x + last(torch.tanh(up(y)))


NETWORKS = {
    "nafnet": Net(
        lambda x, *parts: x + nn.Sequential(*parts)(x),
        conv(3, 24),
        NafBlock(24),
        nn.Conv2d(24, 48, 2, 2),
        NafBlock(48),
        nn.Sequential(nn.Conv2d(48, 96, 1, bias=False), nn.PixelShuffle(2)),
        conv(24, 3),
        multiple_of=2,
    ),
    "esrgan": Net(
        lambda x, a, b, c: x + c(b(a(x)) * 0.2 + a(x)),
        conv(3, 20),
        nn.Sequential(DenseBlock(20, 12), DenseBlock(20, 12)),
        conv(20, 3),
    ),
    "unet": Net(
        unet,
        nn.Sequential(conv(3, 16, bias=False), nn.BatchNorm2d(16), nn.SiLU(), conv(16, 16, padding_mode="reflect")),
        nn.Sequential(nn.MaxPool2d(2), nn.GELU()),
        nn.Sequential(conv(16, 32), nn.BatchNorm2d(32), nn.PReLU(32), conv(32, 16)),
        nn.Sequential(conv(32, 16), nn.ELU(), conv(16, 3)),
        multiple_of=2,
    ),
    "mimo": Net(
        mimo,
        nn.ModuleList([conv(3, 16), nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 32, 1), nn.ReLU())]),
        nn.Sequential(conv(16, 32, stride=2), nn.ReLU()),
        conv(32, 32),
        nn.ConvTranspose2d(32, 16, 4, 2, 1),
        conv(16, 3),
        multiple_of=2,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    check(NETWORKS[name], (1, 1), (45, 70), tolerance=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_in_bfloat16(name):
    """16 bits keep 8: a few percent of full scale through several layers; and the same bits for every cut."""
    net = randomised(NETWORKS[name])
    plan = engine.compile(net, precision="bfloat16")
    image = picture(45, 70)
    exact = eager(net, image)
    error = plan.session(threads=2).run(image, clip=False) - exact
    assert np.sqrt(np.mean(error**2)) <= 0.02 * max(1.0, np.abs(exact).max())
    check_cuts(plan, picture(40, 150))


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa):
    net = randomised(NETWORKS["unet"])
    image = picture(21, 34)
    try:
        plan = engine.compile(net, isa=isa)
    except ValueError as error:
        pytest.skip(str(error))
    np.testing.assert_allclose(plan.session().run(image, clip=False), eager(net, image), atol=1e-4)


REACHES = {
    "pool": Net(lambda x, p: F.interpolate(p(x), scale_factor=2.0), nn.AvgPool2d(3, 2, 1), multiple_of=2),
    "pool_max": Net(lambda x, p: p(x), nn.MaxPool2d(5, 1, 2)),
    "bilinear": Net(lambda x, p: F.interpolate(p(x), scale_factor=3, mode="bilinear"), nn.AvgPool2d(3), multiple_of=3),
    "bicubic": Net(lambda x, p: F.interpolate(p(x), scale_factor=4, mode="bicubic"), nn.AvgPool2d(4), multiple_of=4),
    "shrunk": Net(
        lambda x: F.interpolate(F.interpolate(x, scale_factor=1 / 4, mode="bilinear"), scale_factor=4), multiple_of=4
    ),
    "shrunk_to_one_tap": Net(
        lambda x: F.interpolate(F.interpolate(x, scale_factor=1 / 3, mode="bicubic"), scale_factor=3), multiple_of=3
    ),
    "reflect": Net(lambda x, a: a(x).sigmoid() * x, conv(3, 3, 5, padding_mode="reflect")),
    "unequal": Net(lambda x, a: a(F.pad(x, (3, 0, 0, 3))), conv(3, 3, 4, padding=0)),
}


@pytest.mark.parametrize("name", REACHES)
def test_halo_is_enough_and_tight(name):
    """Changing one pixel changes results up to the halo and no further, over the positions of one period."""
    net = randomised(REACHES[name])
    plan = engine.compile(net)
    session = plan.session(threads=1)
    period = plan.multiple_of
    assert period == net.multiple_of
    size = 4 * (plan.halo + period) // period * period
    image = np.full((size, size, 3), 0.5, np.float32)
    plain = session.run(image, clip=False)
    reach = 0
    for at in range(size // 2, size // 2 + period):
        changed = image.copy()
        changed[at, at] = 3.0
        rows, columns = np.nonzero((session.run(changed, clip=False) != plain).any(2))
        reach = max([reach, *np.abs(rows - at), *np.abs(columns - at)])
    assert reach == plan.halo


REFUSED = {
    "softmax": (lambda x: x.softmax(1), "softmax"),
    "sum_with_global_mean": (lambda x: F.adaptive_avg_pool2d(x, 1) + x, "different shapes"),
    "mean_by_rows": (lambda x: x - x.mean(2, keepdim=True), "mean over height and width"),
    "batch_statistics": (lambda x: F.batch_norm(x, None, None, training=True), "whole image"),
    "align_corners": (
        lambda x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2, mode="bilinear", align_corners=True),
        "align_corners",
    ),
    "antialias": (lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True), "_aa"),
    "no_whole_factor": (lambda x: F.interpolate(x, scale_factor=0.75), "no whole factor"),
    "circular": (lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), torch.ones(3, 3, 3, 3)), "opposite"),
    "pad_of_ones": (lambda x: F.pad(x, (1, 1, 1, 1), value=1.0), "zeros"),
    "pad_without_convolution": (lambda x: F.pad(x, (1, 1, 1, 1)).relu(), "only a convolution"),
    "larger_picture": (lambda x: F.max_pool2d(F.interpolate(x, scale_factor=2), 2), "larger than the input"),
    "unequal_strides": (lambda x: F.max_pool2d(x, (2, 1)), "height and width"),
    "in_place_on_a_part": (lambda x: (lambda y: y[:, :2].relu_() + y[:, 1:])(x + 1), "in place"),
    "average_of_cut_windows": (lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True), "ceil_mode"),
    "constant_picture": (lambda x: x + torch.ones(1, 3, 16, 16), "constant of shape"),
    "quotient_with_global_mean": (lambda x: F.adaptive_avg_pool2d(x, 1) / x, "different shapes"),
    "greatest_by_rows": (lambda x: x - x.amax(2, keepdim=True), "greatest of the channels"),
    "cube": (lambda x: x**3, "squares"),
    "random": (lambda x: x + torch.rand(1), "random"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name):
    function, reason = REFUSED[name]
    with pytest.raises(UnsupportedOperator, match=reason):
        engine.compile(Net(function))


def test_refusals_name_the_path_of_the_module():
    net = nn.Sequential(conv(3, 3), nn.Sequential(nn.ReLU(), nn.Sequential(nn.Identity(), nn.Softmin(1))))
    with pytest.raises(UnsupportedOperator, match=r" in 1\.1\.1 has no plan"):
        engine.compile(net)


def test_parameters_are_not_changed():
    net = Net(lambda x, a: F.conv2d(x, a.weight.detach().mul_(1.0), padding=1), conv(3, 3))
    before = net.parts[0].weight.clone()
    engine.compile(net)
    torch.testing.assert_close(net.parts[0].weight, before, rtol=0, atol=0)
