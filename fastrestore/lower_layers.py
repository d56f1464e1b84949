"""How torch's layers become nodes of the graph: convolutions, norms, attention, pooling, resizing; see lower_ops.py."""

import torch

from fastrestore.lower_values import Last, Padded, Record, View, array, image, last, one, two

_PLAIN = {"activation": "none", "slope": 0.0, "scale": 1.0, "residual_first": False}


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
    axes = sorted(d % 4 for d in dims or [])
    if not keepdim or axes not in ([1], [2, 3]):
        raise ValueError("only the mean over height and width, or over channels, which are kept, has a plan")
    return _channel_pool(walk, x, "average") if axes == [1] else _mean(walk, x)


def amax(walk, node, x, dims=(), keepdim=False):
    if not keepdim or [d % 4 for d in dims] != [1]:
        raise ValueError("only the greatest of the channels, which are kept, has a plan")
    return _channel_pool(walk, x, "max")


def _channel_pool(walk, x, kind):
    return walk.add("channel_pool", image(walk, x), channels=1, kind=kind)


def local_mean(walk, node, x, side):
    x = image(walk, x)
    return walk.add("local_mean", x, channels=x.channels, side=side)


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
