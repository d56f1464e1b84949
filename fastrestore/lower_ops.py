"""How each torch operator becomes nodes of the graph: one handler an operator, listed in HANDLERS.

A handler gets the walk over the exported program (lower.py), the operator's fx node, and its arguments with every
tensor replaced by what stands for it here: a Record (an image of the graph to be), a View (some channels of one),
a Padded image, a Sigma, or a constant tensor.  It returns the result as one of these, and raises ValueError,
saying why, for arguments that no node of the graph can express.  lower.py adds operator and module to the message.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(eq=False)
class Record:
    """One node of the graph to be: the method of _C.Graph, the records it reads, its other arguments."""

    method: str
    channels: int
    inputs: list["Record"] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    residual: "Record | None" = None
    whole: bool = False  # one pixel, which stands for the whole image


@dataclass(frozen=True)
class View:
    """These channels of an image, in this order; becomes a node only for those who cannot read it in place."""

    record: Record
    channels: tuple[int, ...]

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The channels as runs (first, count)."""
        runs: list[tuple[int, int]] = []
        for channel in self.channels:
            first, count = runs[-1] if runs else (channel, 0)
            if channel == first + count:
                runs[-1:] = [(first, count + 1)]
            else:
                runs.append((channel, 1))
        return runs


@dataclass(frozen=True)
class Padded:
    """An image with a border, which only a convolution can read."""

    record: Record
    border: str  # as Graph.conv2d names them
    rows: tuple[int, int]  # above and below
    columns: tuple[int, int]  # left and right


@dataclass(frozen=True)
class Last:
    """An image whose channels stand last in the trace: [N, H, W, C]."""

    image: "Record | View"


@dataclass(frozen=True)
class Sigma:
    """sigma * scale, not yet spread over an image."""

    scale: float


CONVOLUTIONS = ("conv2d", "conv_transpose2d")
_PLAIN = {"activation": "none", "slope": 0.0, "scale": 1.0, "residual_first": False}


# --- what arguments are


def array(values: Tensor | None) -> np.ndarray | None:
    return None if values is None else np.ascontiguousarray(values.detach().numpy(), np.float32)


def two(value: int | list[int]) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * 2 if len(values) == 1 else values


def one(value: int | list[int], what: str) -> int:
    first, second = two(value)
    if first != second:
        raise ValueError(f"{what} differs between height and width: {first} and {second}")
    return first


def image(walk, value: Any) -> Record:
    """The image itself as a node of the graph."""
    if isinstance(value, View):
        return walk.gather([value])
    if isinstance(value, Padded):
        raise ValueError("its input is padded, and only a convolution can read a padded image")
    if isinstance(value, Last):
        raise ValueError("its channels stand last, where this operator looks for them second")
    if not isinstance(value, Record):
        raise ValueError("an operand is not an image")
    return value


def last(walk, value: Any) -> Record:
    """The image whose channels stand last."""
    if not isinstance(value, Last):
        raise ValueError("its input is no image whose channels stand last")
    return image(walk, value.image)


def view(value: Any) -> View:
    if isinstance(value, View):
        return value
    if not isinstance(value, Record):
        raise ValueError("an operand is not an image")
    return View(value, tuple(range(value.channels)))


def pick(value: Any, channels: list[int] | range) -> Record | View:
    """These of an image's channels."""
    source = view(value)
    chosen = tuple(source.channels[c] for c in channels)
    return source.record if chosen == tuple(range(source.record.channels)) else View(source.record, chosen)


def number(value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if not isinstance(value, (int, float)):
        raise ValueError("a factor is not a constant number")
    return float(value)


def is_image(value: Any) -> bool:
    return isinstance(value, (Record, View, Padded, Last))


def by_channel(value: Any, channels: int) -> Tensor:
    """A constant as a float64 vector of channels."""
    if isinstance(value, Tensor) and value.numel() != 1:
        shape = tuple(value.shape)
        if len(shape) not in (3, 4) or shape != (1,) * (len(shape) - 3) + (channels, 1, 1):
            raise ValueError(f"a constant of shape {shape} is neither a number nor one value for each channel")
        return value.double().reshape(channels)
    return torch.full((channels,), number(value), dtype=torch.float64)


# --- convolutions


def stays_in_step(side: int, stride: int, before: int, after: int) -> None:
    """Whether windows of `side` pixels divide every size that is a multiple of the stride by exactly it."""
    if not -stride <= before + after - side < 0:
        raise ValueError(
            f"windows of {side} pixels with a stride of {stride} and a padding of {before} and {after} do not keep "
            "the image's size, or divide it by the stride"
        )


def conv2d(walk, node, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, **epilogue):
    stride, dilations = one(stride, "the stride"), two(dilation)
    sides = [d * (side - 1) + 1 for d, side in zip(dilations, weight.shape[2:], strict=True)]
    if padding == "same":
        pads = [((side - 1) // 2, side // 2) for side in sides]
    else:
        pads = [(pad, pad) for pad in two(0 if padding == "valid" else padding)]
    return _conv2d(walk, x, weight, bias, stride, pads, dilations, groups, **epilogue)


def _conv2d(walk, x, weight, bias, stride, pads, dilations, groups, **epilogue):
    """pads: before and after, of rows and of columns."""
    border = "zero"
    if isinstance(x, Padded):
        border, around = x.border, (x.rows, x.columns)
        if border != "zero" and any(map(any, pads)):
            raise ValueError(f"its input is padded twice, by {border} and by zeros")
        pads = [(a + c, b + d) for (a, b), (c, d) in zip(pads, around, strict=True)]
        x = x.record
    for (before, after), dilation, side in zip(pads, dilations, weight.shape[2:], strict=True):
        stays_in_step(dilation * (side - 1) + 1, stride, before, after)
    return walk.add(
        "conv2d",
        image(walk, x),
        channels=weight.shape[0],
        weight=array(weight),
        bias=array(bias),
        stride=stride,
        padding=(pads[0][0], pads[1][0]),
        dilation=tuple(dilations),
        groups=groups,
        border=border,
        **(_PLAIN | epilogue),
    )


def fused_conv2d(
    walk,
    node,
    x,
    weight,
    bias,
    residual,
    stride,
    padding,
    dilation,
    groups,
    activation,
    slope,
    scale,
    residual_first,
    _,
):
    epilogue = {"activation": activation, "slope": slope, "scale": scale, "residual_first": residual_first}
    record = conv2d(walk, node, x, weight, bias, stride, padding, dilation, groups, **epilogue)
    record.residual = None if residual is None else image(walk, residual)
    return record


def conv_transpose2d(walk, node, x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    stride, pads, extras, dilations = one(stride, "the stride"), two(padding), two(output_padding), two(dilation)
    if max(dilations) > 1:  # the gaps as zeros of a larger kernel
        sides = [d * (side - 1) + 1 for d, side in zip(dilations, weight.shape[2:], strict=True)]
        spread = weight.new_zeros(*weight.shape[:2], *sides)
        spread[:, :, :: dilations[0], :: dilations[1]] = weight
        weight = spread
    for pad, extra, side in zip(pads, extras, weight.shape[2:], strict=True):
        if side + extra - stride - 2 * pad != 0:
            raise ValueError(f"does not multiply the image's size by its stride of {stride}")
    if stride == 1:  # the adjoint of a convolution that keeps the size is one too
        ins, outs, *sides = weight.shape
        turned = weight.reshape(groups, ins // groups, outs, *sides).transpose(1, 2).flip(3, 4)
        around = [(side - 1 - pad, side - 1 - pad + e) for side, pad, e in zip(sides, pads, extras, strict=True)]
        return _conv2d(walk, x, turned.reshape(groups * outs, ins // groups, *sides), bias, 1, around, (1, 1), groups)
    # What output_padding adds beyond the kernel's reach gets zero taps, so that every output pixel has a tap.
    add_h, add_w = (extra if extra > pad else 0 for pad, extra in zip(pads, extras, strict=True))
    weight = torch.nn.functional.pad(weight, (0, add_w, 0, add_h))
    return walk.add(
        "conv_transpose2d",
        image(walk, x),
        channels=weight.shape[1] * groups,
        weight=array(weight),
        bias=array(bias),
        stride=stride,
        padding=pads,
        groups=groups,
        **_PLAIN,
    )


def pad(walk, node, x, amounts, mode="constant", value=None):
    borders = {"constant": "zero", "reflect": "reflect", "replicate": "clamp"}
    if mode not in borders:
        raise ValueError(f"padding mode {mode} reads the opposite edge of the image")
    if mode == "constant" and value not in (None, 0):
        raise ValueError(f"an image can be padded with zeros, not with {value}")
    left, right, top, bottom = (*amounts, 0, 0, 0, 0)[:4]
    if any(amounts[4:]):
        raise ValueError("only height and width can be padded")
    if not any(amounts):
        return x
    if min(amounts) < 0:
        raise ValueError("cuts a part of the image off")
    if isinstance(x, Padded):
        raise ValueError("its input is padded already")
    return Padded(image(walk, x), borders[mode], (top, bottom), (left, right))


def reflection_pad(walk, node, x, amounts):
    return pad(walk, node, x, amounts, "reflect")


def replication_pad(walk, node, x, amounts):
    return pad(walk, node, x, amounts, "replicate")


def zero_pad(walk, node, x, amounts, value=0):
    return pad(walk, node, x, amounts, "constant", value)


def linear(walk, node, x, weight, bias=None):
    return Last(_conv2d(walk, last(walk, x), weight[:, :, None, None], bias, 1, [(0, 0), (0, 0)], (1, 1), 1))


# --- norms, means and attention


def layer_norm_last(walk, node, x, shape, weight=None, bias=None, eps=1e-5, *_):
    if len(shape) != 1:
        raise ValueError("only a norm over the channels of a pixel has a plan")
    ones = torch.ones(shape)
    return Last(_layer_norm(walk, last(walk, x), ones if weight is None else weight, bias, eps, True))


def layer_norm(walk, node, x, weight, bias, eps, centred):
    return _layer_norm(walk, image(walk, x), weight, bias, eps, centred)


def _layer_norm(walk, x, weight, bias, eps, centred):
    shift = torch.zeros_like(weight) if bias is None else bias
    return walk.add("layer_norm", x, channels=x.channels, scale=weight, shift=shift, epsilon=eps, centred=centred)


def window_attention(walk, node, qkv, bias, side, shift):
    x = last(walk, qkv)
    options = {"heads": len(bias), "window": side, "shift": shift, "bias": bias}
    return Last(walk.add("window_attention", x, channels=x.channels // 3, **options))


def channel_attention(walk, node, qkv, temperature):
    x, heads = image(walk, qkv), len(temperature)
    each = x.channels // 3 // heads
    partial = walk.add("partial_gram", x, channels=heads * each * (each + 2), heads=heads)
    weights = walk.add("channel_softmax", partial, channels=heads * each**2, temperature=temperature)
    third = x.channels // 3
    return walk.add("mix", weights, x, channels=third, values=(2 * third, third), heads=heads)


def adaptive_avg_pool2d(walk, node, x, size):
    if two(size) != (1, 1):
        raise ValueError("only the mean of the whole image has a plan")
    return _mean(walk, x)


def mean(walk, node, x, dims=None, keepdim=False, **_):
    if not keepdim or sorted(d % 4 for d in dims or []) != [2, 3]:
        raise ValueError("only the mean over height and width, which are kept, has a plan")
    return _mean(walk, x)


def _mean(walk, x):
    x = image(walk, x)
    return walk.add("mean", walk.add("partial_sum", x, channels=x.channels), channels=x.channels)


def warp(walk, node, x, flow):
    x, flow = image(walk, x), image(walk, flow)
    return walk.add("warp", x, flow, channels=x.channels)


def permute(walk, node, x, dims):
    order = [d % 4 for d in dims]
    if order == [0, 1, 2, 3]:
        return x
    if order == [0, 2, 3, 1] and isinstance(x, (Record, View)):
        return Last(x)
    if order == [0, 3, 1, 2] and isinstance(x, Last):
        return x.image
    raise ValueError("only channels can move, to the end and back")


# --- sums and products


def _is_plain(conv: Record) -> bool:
    return conv.arguments["activation"] == "none" and conv.arguments["scale"] == 1.0 and conv.residual is None


def _affine(walk, node, position: int, x: Any, scale: Tensor, shift: Tensor) -> Record:
    """x * scale + shift by channel, in float64, taken into what makes x where possible."""
    x = image(walk, x)
    neutral = bool((scale == 1).all()), bool((shift == 0).all())
    if all(neutral):
        return x
    source = walk.sole_source(node, position)
    if source is not None and source.method in CONVOLUTIONS:
        if neutral[1] and source.residual is None and bool((scale == scale[0]).all()):
            source.arguments["scale"] *= float(scale[0])
            return source
        if _is_plain(source):
            return _fold(source, scale, shift)
    if source is not None and source.method == "affine":
        before = source.arguments
        scale, shift = before["scale"] * scale, before["shift"] * scale + shift
        source.arguments = {"scale": scale, "shift": shift}
        return source
    return walk.add("affine", x, channels=x.channels, scale=scale, shift=shift)


def _fold(conv: Record, scale: Tensor, shift: Tensor) -> Record:
    arguments = conv.arguments
    weight = torch.from_numpy(arguments["weight"]).double()
    if conv.method == "conv2d":
        weight = weight * scale[:, None, None, None]
    else:  # [in][out / groups][kh][kw]
        groups = arguments["groups"]
        each = scale.reshape(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1).reshape(weight.shape[:2])
        weight = weight * each[:, :, None, None]
    if arguments["bias"] is not None:
        shift = shift + torch.from_numpy(arguments["bias"]).double() * scale
    arguments |= {"weight": array(weight), "bias": array(shift)}
    return conv


def batch_norm(walk, node, x, weight, bias, mean, variance, training, momentum, eps, *_):
    if training or mean is None or variance is None:
        raise ValueError("takes its statistics from the whole image; only evaluation mode with running ones has a plan")
    gain = 1 / torch.sqrt(variance.double() + eps)
    gain = gain if weight is None else gain * weight.double()
    shift = -mean.double() * gain + (0 if bias is None else bias.double())
    return _affine(walk, node, 0, x, gain, shift)


def add(walk, node, a, b, alpha=1):
    return _sum(walk, node, a, b, 1.0, float(alpha))


def sub(walk, node, a, b, alpha=1):
    return _sum(walk, node, a, b, 1.0, -float(alpha))


def rsub(walk, node, a, b, alpha=1):
    return _sum(walk, node, a, b, -float(alpha), 1.0)


def neg(walk, node, x):
    return mul(walk, node, x, -1)


def _sum(walk, node, a, b, scale_a, scale_b):
    """scale_a * a + scale_b * b, as the residual of the convolution that makes one of them where possible."""
    for position, x, scale, constant, factor in ((0, a, scale_a, b, scale_b), (1, b, scale_b, a, scale_a)):
        if is_image(x) and not is_image(constant):
            x = image(walk, x)
            ones = torch.ones(x.channels, dtype=torch.float64)
            return _affine(walk, node, position, x, ones * scale, by_channel(constant, x.channels) * factor)
    a, b = image(walk, a), image(walk, b)
    if a.channels != b.channels and 1 in (a.channels, b.channels):
        channels = max(a.channels, b.channels)
        a, b = (walk.gather([view(x)] * channels) if x.channels == 1 else x for x in (a, b))
    for position, other, scale, other_scale in ((0, b, scale_a, scale_b), (1, a, scale_b, scale_a)):
        conv = walk.sole_source(node, position)
        if conv is None or conv.method not in CONVOLUTIONS or conv.residual or other_scale != 1.0 or other is conv:
            continue
        if conv.channels == other.channels and walk.records.index(other) < walk.records.index(conv):
            conv.arguments["scale"] *= scale
            conv.residual = other
            return conv
    return walk.add("add", a, b, channels=a.channels, scale_a=scale_a, scale_b=scale_b)


def mul(walk, node, a, b):
    for position, x, constant in ((0, a, b), (1, b, a)):
        if isinstance(x, Sigma):
            return Sigma(x.scale * number(constant))
        if is_image(x) and not is_image(constant):
            x = image(walk, x)
            scale = by_channel(constant, x.channels)
            return _affine(walk, node, position, x, scale, torch.zeros_like(scale))
    operands, channels = [], []
    for x in (a, b):  # a run of channels is read in place
        part = view(x)
        if len(part.ranges) > 1:
            part = view(image(walk, x))
        operands.append(part.record)
        channels += part.ranges
    if operands[0].whole and not operands[1].whole:
        operands, channels = operands[::-1], channels[::-1]
    counts = {count for _, count in channels}
    if len(counts) > 1 and 1 not in counts:
        raise ValueError("the operands have different channels")
    for position, other in ((0, 1), (1, 0)):
        gate = walk.sole_source(node, position)
        if len(counts) == 1 and gate is not None and gate.method == "activate" and gate.arguments["slope"] is None:
            if operands[other] is gate or operands[other].whole != gate.whole:
                continue
            source, part = gate.inputs[0], (0, gate.channels)
            if source.method == "concat" and len(source.inputs) == 1:  # a run of channels: read in place
                source, part = source.inputs[0], source.arguments["parts"][0]
            curve = {key: gate.arguments[key] for key in ("curve", "values")}
            parts = [part, channels[other]]
            return walk.add("gate", source, operands[other], channels=max(counts), parts=parts, **curve)
    return walk.add("multiply", *operands, channels=max(counts), parts=channels)


def div(walk, node, a, b):
    if not is_image(b) and not isinstance(b, Sigma):
        return mul(walk, node, a, 1 / b.double() if isinstance(b, Tensor) else 1 / b)
    raise ValueError("an image can be divided by a constant, not by another image")


def power(walk, node, x, exponent):
    if exponent == 2:
        return mul(walk, node, x, x)
    raise ValueError(f"only squares have a plan, not the power of {exponent}")


def square(walk, node, x):
    return mul(walk, node, x, x)


# --- activations


def activate(walk, node, x, curve: str, values: tuple[float, ...] = (), slope: Tensor | None = None):
    conv = walk.sole_source(node, 0)
    if curve in ("relu", "leaky_relu") and conv is not None and conv.method in CONVOLUTIONS:
        a = conv.arguments
        if a["activation"] == "none" and a["scale"] == 1.0:
            slope = values[0] if values else 0.0
            a |= {"activation": curve, "slope": slope, "residual_first": conv.residual is not None}
            return conv
    x = image(walk, x)
    values = (*map(float, values), 0.0, 0.0, 0.0)[:3]
    return walk.add("activate", x, channels=x.channels, curve=curve, values=values, slope=array(slope))


def curve(name: str, *constants: float):
    """The handler of an activation without arguments."""
    return lambda walk, node, x: activate(walk, node, x, name, constants)


def leaky_relu(walk, node, x, negative_slope=0.01):
    return activate(walk, node, x, "leaky_relu", (negative_slope,))


def rrelu(walk, node, x, lower=0.125, upper=1 / 3, training=False, *_):
    if training:
        raise ValueError("is random in training mode")
    return activate(walk, node, x, "leaky_relu", ((lower + upper) / 2,))


def prelu(walk, node, x, weight):
    if weight.numel() == 1:
        return activate(walk, node, x, "leaky_relu", (float(weight),))
    return activate(walk, node, x, "prelu", slope=weight.reshape(-1))


def clamp(walk, node, x, min=None, max=None):  # named as torch's schema names them
    low = -math.inf if min is None else number(min)
    high = math.inf if max is None else number(max)
    if (low, high) == (0, math.inf):
        return activate(walk, node, x, "relu")
    return activate(walk, node, x, "clamp", (low, high))


def clamp_max(walk, node, x, max):
    return clamp(walk, node, x, None, max)


def hardtanh(walk, node, x, min_val=-1.0, max_val=1.0):
    return clamp(walk, node, x, min_val, max_val)


def elu(walk, node, x, alpha=1.0, scale=1.0, input_scale=1.0):
    return activate(walk, node, x, "elu", (alpha * scale, scale, input_scale))


def celu(walk, node, x, alpha=1.0):
    return activate(walk, node, x, "elu", (alpha, 1.0, 1 / alpha))


def gelu(walk, node, x, approximate="none"):
    return activate(walk, node, x, "gelu_tanh" if approximate == "tanh" else "gelu")


def softplus(walk, node, x, beta=1.0, threshold=20.0):
    return activate(walk, node, x, "softplus", (beta, threshold))


def glu(walk, node, x, dim=-1):
    _channels_only(node, dim)
    value, gate = chunk(walk, node, x, 2, 1)
    gate = image(walk, gate)
    opened = walk.add("activate", gate, channels=gate.channels, curve="sigmoid", values=(0.0,) * 3, slope=None)
    return mul(walk, node, value, opened)


# --- channels


def _channels_only(node, dim: int) -> None:
    if dim % 4 != 1:
        raise ValueError("only channels can be joined, divided or reordered")


def cat(walk, node, parts, dim=0):
    _channels_only(node, dim)
    return walk.gather([view(part) for part in parts])


def split_with_sizes(walk, node, x, sizes, dim=0):
    _channels_only(node, dim)
    if sum(sizes) != len(view(x).channels):
        raise ValueError(f"the image has other than {sum(sizes)} channels")
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [pick(x, range(end - size, end)) for end, size in zip(ends, sizes, strict=True)]


def split(walk, node, x, size, dim=0):
    count = len(view(x).channels)
    return split_with_sizes(walk, node, x, [min(size, count - first) for first in range(0, count, size)], dim)


def chunk(walk, node, x, chunks, dim=0):
    return split(walk, node, x, -(-len(view(x).channels) // chunks), dim)


def slice_(walk, node, x, dim=0, start=None, end=None, step=1):
    if not is_image(x) or dim % 4 != 1:
        return same(walk, node, x)
    return pick(x, range(len(view(x).channels))[slice(start, end, step)])


def narrow(walk, node, x, dim, start, length):
    return slice_(walk, node, x, dim, start, start + length)


def index(walk, node, x, indices):
    if len(indices) != 2 or indices[0] is not None or not isinstance(indices[1], Tensor) or indices[1].ndim != 1:
        raise ValueError("only channels can be picked, by a constant list")
    chosen = indices[1].nonzero().flatten() if indices[1].dtype == torch.bool else indices[1]
    return pick(x, [int(c) % len(view(x).channels) for c in chosen])


def index_select(walk, node, x, dim, chosen):
    _channels_only(node, dim)
    return index(walk, node, x, [None, chosen])


def flip(walk, node, x, dims):
    for dim in dims:
        _channels_only(node, dim)
    return pick(x, range(len(view(x).channels))[::-1])


def channel_shuffle(walk, node, x, groups):
    count = len(view(x).channels)
    return pick(x, [g * (count // groups) + c for c in range(count // groups) for g in range(groups)])


def repeat(walk, node, x, times):
    if isinstance(x, Sigma):
        return expand(walk, node, x)
    if len(times) != 4 or times[0] != 1 or tuple(times[2:]) != (1, 1):
        raise ValueError("only channels can be repeated")
    return walk.gather([view(x)] * times[1])


def expand(walk, node, x, *_, **__):
    shape = tuple(node.meta["val"].shape)
    if isinstance(x, Sigma):
        if len(shape) != 4 or shape[1] != 1 or shape[2] not in walk.image_of_side:
            raise ValueError(f"sigma is spread to the shape {shape}, which is no plane of an image here")
        return walk.add("sigma_plane", walk.image_of_side[shape[2]], channels=1, scale=x.scale)
    before = tuple(node.args[0].meta["val"].shape)
    if before != shape and len(before) == 4 and before == (shape[0], 1, *shape[2:]):
        return walk.gather([view(x)] * shape[1])
    return same(walk, node, x)


# --- sizes


def pixel_shuffle(walk, node, x, factor):
    x = image(walk, x)
    return walk.add("pixel_shuffle", x, channels=x.channels // factor**2, factor=factor)


def pixel_unshuffle(walk, node, x, factor):
    x = image(walk, x)
    return walk.add("pixel_unshuffle", x, channels=x.channels * factor**2, factor=factor)


def max_pool2d(walk, node, x, kernel, stride=(), padding=0, dilation=1, ceil_mode=False):
    return _pool(walk, x, "max", kernel, stride, padding, dilation, ceil_mode, 0)


def avg_pool2d(
    walk, node, x, kernel, stride=(), padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    height, width = two(kernel)
    divisor = divisor_override or (height * width if count_include_pad or not any(two(padding)) else 0)
    return _pool(walk, x, "average", kernel, stride, padding, 1, ceil_mode, divisor)


def _pool(walk, x, kind, kernel, stride, padding, dilation, ceil_mode, divisor):
    kernel, pads, dilations = two(kernel), two(padding), two(dilation)
    stride = one(stride or kernel, "the stride")
    for side, before, step in zip(kernel, pads, dilations, strict=True):
        side = step * (side - 1) + 1
        after = before
        if ceil_mode and 2 * before - side != -stride:  # windows may begin inside and end beyond the padding
            if kind == "average":
                raise ValueError("ceil_mode changes the divisor at the image's edge")
            after = before + stride - 1
        stays_in_step(side, stride, before, after)
    x = image(walk, x)
    return walk.add(
        "pool",
        x,
        channels=x.channels,
        kind=kind,
        kernel=kernel,
        stride=stride,
        padding=pads,
        dilation=dilations,
        divisor=divisor,
    )


def resize(mode: str):
    def handler(walk, node, x, size=None, *options):
        *corners, scales = options  # align_corners, where the mode has it; one scale for each axis, or None
        if any(corners):
            raise ValueError("with align_corners every pixel depends on the whole image's size")
        before, after = node.args[0].meta["val"].shape[2:], node.meta["val"].shape[2:]
        x = image(walk, x)
        if before == after:
            return x
        if scales is None:
            walk.uses_sizes = True
        enlarge = after[0] > before[0]
        large, small = (after, before) if enlarge else (before, after)
        if large[0] % small[0] or large[1] * small[0] != large[0] * small[1]:
            raise ValueError(f"{before[0]} x {before[1]} to {after[0]} x {after[1]} is no whole factor")
        factor = large[0] // small[0]
        for scale in scales or ():
            if abs((scale if enlarge else 1 / scale) - factor) > 1e-6 * factor:
                raise ValueError(f"a scale of {scale} is no whole factor")
        return walk.add("resize", x, channels=x.channels, mode=mode, enlarge=enlarge, factor=factor)

    return handler


# --- what changes nothing


def same(walk, node, x, *_, **__):
    """Operators that change nothing here: copies, views of sigma, crops to the full size."""
    before, after = node.args[0].meta["val"].shape, node.meta["val"].shape
    if not isinstance(x, Sigma) and before != after:
        raise ValueError(f"changes the shape from {tuple(before)} to {tuple(after)}")
    return x


def nothing(walk, node, *_, **__):
    return None


def getitem(walk, node, values, position):
    return values[position]


def pointwise(handler):
    """The same for images whose channels stand last."""

    def either(walk, node, *args, **kwargs):
        if not any(isinstance(arg, Last) for arg in args):
            return handler(walk, node, *args, **kwargs)
        if not all(isinstance(arg, Last) for arg in args if is_image(arg)):
            raise ValueError("the channels of its operands stand in different places")
        return Last(handler(walk, node, *[arg.image if isinstance(arg, Last) else arg for arg in args], **kwargs))

    return either


def _with_in_place(handlers: dict[str, Any]) -> dict[str, Any]:
    """Adds every operator's in-place form: the export refers to its result wherever the changed image is read."""
    both = {name: pointwise(handler) for name, handler in handlers.items()}
    for name, handler in list(both.items()):
        base, dot, overload = name.removeprefix("aten.").partition(".")
        both[f"aten.{base}_{dot}{overload}"] = handler
    return both


HANDLERS = {
    "aten.conv2d": conv2d,
    "aten.conv2d.padding": conv2d,
    "aten.conv_transpose2d.input": conv_transpose2d,
    "aten.pad": pad,
    "aten.reflection_pad2d": reflection_pad,
    "aten.replication_pad2d": replication_pad,
    "aten.constant_pad_nd": zero_pad,
    "fastrestore.conv2d": fused_conv2d,
    "fastrestore.pixel_shuffle": pixel_shuffle,
    "fastrestore.pixel_unshuffle": pixel_unshuffle,
    "aten.batch_norm": batch_norm,
    "aten.cat": cat,
    "aten.chunk": chunk,
    "aten.split.Tensor": split,
    "aten.split_with_sizes": split_with_sizes,
    "aten.slice.Tensor": slice_,
    "aten.narrow": narrow,
    "aten.index.Tensor": index,
    "aten.index_select": index_select,
    "aten.flip": flip,
    "aten.channel_shuffle": channel_shuffle,
    "aten.repeat": repeat,
    "aten.expand": expand,
    "aten.pixel_shuffle": pixel_shuffle,
    "aten.pixel_unshuffle": pixel_unshuffle,
    "aten.max_pool2d": max_pool2d,
    "aten.avg_pool2d": avg_pool2d,
    "aten.upsample_nearest2d.vec": resize("nearest"),
    "aten._upsample_nearest_exact2d.vec": resize("nearest_exact"),
    "aten.upsample_bilinear2d.vec": resize("bilinear"),
    "aten.upsample_bicubic2d.vec": resize("bicubic"),
    "aten.glu": glu,
    "getitem": getitem,
    "aten.linear": linear,
    "aten.layer_norm": layer_norm_last,
    "aten.adaptive_avg_pool2d": adaptive_avg_pool2d,
    "aten.mean.dim": mean,
    "aten.permute": permute,
    "fastrestore.layer_norm": layer_norm,
    "fastrestore.warp": warp,
    "fastrestore.window_attention": window_attention,
    "fastrestore.channel_attention": channel_attention,
    **_with_in_place(
        {
            "aten.add.Tensor": add,
            "aten.sub.Tensor": sub,
            "aten.rsub.Scalar": rsub,
            "aten.rsub.Tensor": rsub,
            "aten.mul.Tensor": mul,
            "aten.div.Tensor": div,
            "aten.neg": neg,
            "aten.pow.Tensor_Scalar": power,
            "aten.square": square,
            "aten.relu": curve("relu"),
            "aten.relu6": curve("clamp", 0.0, 6.0),
            "aten.leaky_relu": leaky_relu,
            "aten.rrelu": rrelu,
            "aten.prelu": prelu,
            "aten.clamp": clamp,
            "aten.clamp_min": clamp,
            "aten.clamp_max": clamp_max,
            "aten.hardtanh": hardtanh,
            "aten.elu": elu,
            "aten.celu": celu,
            "aten.selu": curve("elu", 1.7580993408473766, 1.0507009873554805, 1.0),
            "aten.abs": curve("abs"),
            "aten.sigmoid": curve("sigmoid"),
            "aten.tanh": curve("tanh"),
            "aten.silu": curve("silu"),
            "aten.mish": curve("mish"),
            "aten.gelu": gelu,
            "aten.hardsigmoid": curve("hard_sigmoid"),
            "aten.hardswish": curve("hard_swish"),
            "aten.softplus": softplus,
        }
    ),
    **dict.fromkeys(
        [
            "aten.to.device",
            "aten.to.dtype",
            "aten.to.dtype_layout",
            "aten._to_copy",
            "aten.reshape",
            "aten.view",
            "aten.unsqueeze",
            "aten.alias",
            "aten.clone",
            "aten.contiguous",
            "aten.detach",
            "aten.detach_",
            "aten.lift_fresh_copy",
            "aten.dropout",
            "aten.dropout_",
            "aten.feature_dropout",
        ],
        same,
    ),
    "aten._assert_tensor_metadata": nothing,
}
