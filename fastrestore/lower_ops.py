"""How each torch operator becomes nodes of the graph: one handler an operator, listed in HANDLERS.

A handler gets the walk over the exported program (lower.py), the operator's fx node, and its arguments with every
tensor replaced by what stands for it here (lower_values.py): a Record (an image of the graph to be), a View (some
channels of one), a Padded image, a Sigma, or a constant tensor.  It returns the result as one of these, and raises
ValueError, saying why, for arguments that no node of the graph can express.  lower.py adds operator and module to the
message.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fastrestore.lower_layers import (
    adaptive_avg_pool2d,
    amax,
    avg_pool2d,
    channel_attention,
    conv2d,
    conv_transpose2d,
    fused_conv2d,
    layer_norm,
    layer_norm_last,
    linear,
    local_mean,
    max_pool2d,
    mean,
    pad,
    permute,
    pixel_shuffle,
    pixel_unshuffle,
    reflection_pad,
    replication_pad,
    resize,
    warp,
    window_attention,
    zero_pad,
)
from fastrestore.lower_values import (
    CONVOLUTIONS,
    Last,
    Record,
    Sigma,
    array,
    by_channel,
    image,
    is_image,
    number,
    pick,
    view,
)

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
    operands, channels = _two(walk, a, b)
    if operands[0].whole and not operands[1].whole:
        operands, channels = operands[::-1], channels[::-1]
    counts = {count for _, count in channels}
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


def _two(walk, a, b) -> tuple[list[Record], list[tuple[int, int]]]:
    """Two images and what is read of each: a run of channels, in place."""
    operands, channels = [], []
    for x in (a, b):
        part = view(x)
        if len(part.ranges) > 1:
            part = view(image(walk, x))
        operands.append(part.record)
        channels += part.ranges
    counts = {count for _, count in channels}
    if len(counts) > 1 and 1 not in counts:
        raise ValueError("the operands have different channels")
    return operands, channels


def div(walk, node, a, b):
    if not is_image(b) and not isinstance(b, Sigma):
        return mul(walk, node, a, 1 / b.double() if isinstance(b, Tensor) else 1 / b)
    return _combine(walk, a, b, "divide")


def _combine(walk, a, b, formula):
    if not is_image(a) or not is_image(b):
        raise ValueError("one of the operands is not an image")
    operands, channels = _two(walk, a, b)
    return walk.add("combine", *operands, channels=max(n for _, n in channels), parts=channels, formula=formula)


def minimum(walk, node, a, b):
    return _combine(walk, a, b, "minimum")


def maximum(walk, node, a, b):
    return _combine(walk, a, b, "maximum")


def greater(walk, node, a, b):
    """1 where a > b, else 0; b may be a constant."""
    return _combine(walk, a, b, "above") if is_image(b) else activate(walk, node, a, "above", (number(b),))


def less(walk, node, a, b):
    return _combine(walk, b, a, "above") if is_image(b) else greater(walk, node, neg(walk, node, a), -number(b))


def power(walk, node, x, exponent):
    if exponent == 2:
        return mul(walk, node, x, x)
    raise ValueError(f"only squares have a plan, not the power of {exponent}")


def square(walk, node, x):
    return mul(walk, node, x, x)


# --- activations


def activate(walk, node, x, curve: str, values: tuple[float, ...] = (), slope: Tensor | None = None):
    conv = walk.sole_source(node, 0)
    if curve in ("relu", "leaky_relu", "gelu") and conv is not None and conv.method in CONVOLUTIONS:
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
    "aten.amax": amax,
    "aten.permute": permute,
    "fastrestore.layer_norm": layer_norm,
    "fastrestore.local_mean": local_mean,
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
            "aten.exp": curve("exp"),
            "aten.log": curve("log"),
            "aten.log1p": curve("log1p"),
            "aten.sqrt": curve("sqrt"),
            "aten.reciprocal": curve("reciprocal"),
            "aten.minimum": minimum,
            "aten.maximum": maximum,
            "aten.gt.Scalar": greater,
            "aten.gt.Tensor": greater,
            "aten.lt.Scalar": less,
            "aten.lt.Tensor": less,
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
