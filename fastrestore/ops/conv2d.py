"""act(conv(x, weight) + bias [+ residual]) * scale [+ residual] in one pass.

x: [N, C, H, W], weight: [out, C / groups, kernel_h, kernel_w], bias: [out], residual: the output's shape.
On the CPU float32 runs our kernels; float64, which is there to check gradients, runs the reference.  On a GPU float16
and bfloat16 go the way that dispatch.py says.  The result is channels_last whatever the inputs are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from fastrestore.ops import _C, dispatch

LIB = torch.library.Library("fastrestore", "FRAGMENT")
LIB.define(
    "conv2d(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int[] stride, int[] padding, int[] dilation, "
    "int groups, str activation, float slope, float scale, bool residual_first, str algorithm) -> Tensor"
)

ACTIVATIONS = ("none", "relu", "leaky_relu")
ALGORITHMS = ("auto", "direct", "winograd4", "reference")


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    activation: str = "none",
    slope: float = 0.0,
    scale: float = 1.0,
    residual_first: bool = False,
    algorithm: str = "auto",
) -> Tensor:
    """activation: none, relu or leaky_relu (of `slope`); algorithm: auto, direct, winograd4 or reference.

    The residual is added before the activation if residual_first, else after the scale.
    """
    return torch.ops.fastrestore.conv2d(
        x,
        weight,
        bias,
        residual,
        _pair("stride", stride),
        _pair("padding", padding),
        _pair("dilation", dilation),
        groups,
        activation,
        slope,
        scale,
        residual_first,
        algorithm,
    )


def _pair(name: str, value: tuple[int, int]) -> list[int]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"conv2d: {name} must be two numbers, along height and width, got {value!r}")
    return list(value)


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    slope: float,
    scale: float,
    residual_first: bool,
) -> Tensor:
    y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    if residual is not None and residual_first:
        y = y + residual
    if activation == "relu":
        y = F.relu(y)
    elif activation == "leaky_relu":
        y = F.leaky_relu(y, slope)
    y = y * scale
    return y if residual is None or residual_first else y + residual


def _out_size(name: str, size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    if size == 0:
        return 0
    reach = dilation * (kernel - 1) + 1
    if size + 2 * padding < reach:
        raise ValueError(
            f"conv2d: a kernel that spans {reach} pixels does not fit into the {name} {size} + 2 * {padding}"
        )
    return (size + 2 * padding - reach) // stride + 1


def _out_shape(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    algorithm: str,
) -> tuple[int, int, int, int]:
    """The output's shape; raises what a wrong argument deserves."""
    dispatch.check_dtype("conv2d: x", x)
    if x.dim() != 4 or weight.dim() != 4:
        raise ValueError(
            f"conv2d: x must be [N, C, H, W] and weight [out, C / groups, kernel_h, kernel_w], "
            f"got {list(x.shape)} and {list(weight.shape)}"
        )
    for name, tensor in (("weight", weight), ("bias", bias), ("residual", residual)):
        if tensor is not None and tensor.dtype != x.dtype:
            raise TypeError(f"conv2d: {name} must be {x.dtype} as x is, got {tensor.dtype}")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"conv2d: {name} must be on {x.device} as x is, got {tensor.device}")
    if min(len(stride), len(padding), len(dilation)) != 2 or max(len(stride), len(padding), len(dilation)) != 2:
        raise ValueError(f"conv2d: stride, padding and dilation must be pairs, got {stride}, {padding}, {dilation}")
    if min(*stride, *dilation, groups, *weight.shape) < 1 or min(padding) < 0:
        raise ValueError(
            f"conv2d: stride, dilation, groups and the weight's sizes must be at least 1, padding at least 0; "
            f"got {stride}, {dilation}, {groups}, {list(weight.shape)}, {padding}"
        )
    n, channels, height, width = x.shape
    out_channels, group_channels, kernel_h, kernel_w = weight.shape
    if channels != group_channels * groups or out_channels % groups != 0:
        raise ValueError(
            f"conv2d: a weight of {list(weight.shape)} in {groups} groups takes {group_channels * groups} channels "
            f"and must make a multiple of {groups}; x has {channels} channels"
        )
    if bias is not None and bias.shape != (out_channels,):
        raise ValueError(f"conv2d: bias must be [{out_channels}], got {list(bias.shape)}")
    if activation not in ACTIVATIONS or algorithm not in ALGORITHMS:
        raise ValueError(
            f"conv2d: activation must be one of {ACTIVATIONS} and algorithm one of {ALGORITHMS}, "
            f"got {activation!r} and {algorithm!r}"
        )
    shape = (
        n,
        out_channels,
        _out_size("height", height, kernel_h, stride[0], padding[0], dilation[0]),
        _out_size("width", width, kernel_w, stride[1], padding[1], dilation[1]),
    )
    if residual is not None and residual.shape != shape:
        raise ValueError(f"conv2d: residual must be {list(shape)} as the output is, got {list(residual.shape)}")
    return shape


def _pixelwise(x: Tensor) -> tuple[Tensor, list[int]]:
    """x, or a channels_last copy, such that a pixel's channels lie together, and its pitches in elements."""
    channels, width = x.shape[1], x.shape[3]
    if (channels != 1 and x.stride(1) != 1) or (width != 1 and x.stride(3) < channels):
        x = x.contiguous(memory_format=torch.channels_last)
    return x, [x.stride(0), x.stride(2), max(x.stride(3), channels)]


@torch.library.impl(LIB, "conv2d", "CPU")
def _cpu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    slope: float,
    scale: float,
    residual_first: bool,
    algorithm: str,
) -> Tensor:
    shape = _out_shape(x, weight, bias, residual, stride, padding, dilation, groups, activation, algorithm)
    y = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
    if y.numel() == 0:
        return y
    if x.dtype == torch.float64:
        plain = reference(
            x, weight, bias, residual, stride, padding, dilation, groups, activation, slope, scale, residual_first
        )
        return y.copy_(plain)
    x, x_pitch = _pixelwise(x)
    weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    residual, residual_pitch = (None, [0, 0, 0]) if residual is None else _pixelwise(residual)
    _C.conv2d(
        x.data_ptr(),
        x.shape,
        x_pitch,
        weight.data_ptr(),
        weight.shape,
        0 if bias is None else bias.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        residual_pitch,
        y.data_ptr(),
        y.shape,
        stride,
        padding,
        dilation,
        groups,
        activation,
        slope,
        scale,
        residual_first,
        algorithm,
        torch.get_num_threads(),
    )
    return y


_kept: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # packed weights, and the version of what they were made of


def _packed(weight: Tensor, depthwise: bool) -> Tensor:
    """A weight as the CUDA kernels take it: [taps][out][in], padded with zeros to multiples of 16; depthwise
    [taps][channels], padded to one of 8.  Kept with the weight until that changes."""
    kept = None if weight.is_inference() else _kept.get(weight)
    if kept is not None and kept[0] == weight._version:
        return kept[1]
    out, inside = weight.shape[:2]
    taps = weight.detach().flatten(2).permute(2, 0, 1)
    if depthwise:
        packed = F.pad(taps[..., 0], (0, -out % 8)).contiguous()
    else:
        packed = F.pad(taps, (0, -inside % 16, 0, -out % 16)).contiguous()
    if not weight.is_inference():
        _kept[weight] = (weight._version, packed)
    return packed


@torch.library.impl(LIB, "conv2d", "CUDA")
def _cuda(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    slope: float,
    scale: float,
    residual_first: bool,
    algorithm: str,
) -> Tensor:
    shape = _out_shape(x, weight, bias, residual, stride, padding, dilation, groups, activation, algorithm)
    n, out, height, width = shape
    if 0 in shape:
        return x.new_empty(shape).contiguous(memory_format=torch.channels_last)
    depthwise = groups == x.shape[1] == out > 1
    dense = depthwise or groups == 1
    path = dispatch.take("depthwise" if depthwise else "conv2d", x, max(x.shape[1], out)) if dense else "torch"
    if path == "torch":
        y = reference(
            x, weight, bias, residual, stride, padding, dilation, groups, activation, slope, scale, residual_first
        )
        return y.contiguous(memory_format=torch.channels_last)
    bias = None if bias is None else bias.float()
    pixels, r = x.permute(0, 2, 3, 1), None if residual is None else residual.permute(0, 2, 3, 1)
    with dispatch.launching(x) as stream:
        if path == "triton":
            from fastrestore.triton import conv2d as triton_conv2d
            from fastrestore.triton import depthwise as triton_depthwise

            y = x.new_empty(n, height, width, out)
            run = triton_depthwise.depthwise if depthwise else triton_conv2d.conv2d
            run(
                pixels.contiguous(),
                (weight.flatten(1).T if depthwise else weight.flatten(2).permute(2, 0, 1)).contiguous(),
                bias,
                None if r is None else r.contiguous(),
                y,
                triton_conv2d.Epilogue(
                    {"none": 1.0, "relu": 0.0, "leaky_relu": slope}[activation], scale, residual_first
                ),
                kernel_size=tuple(weight.shape[2:]),
                stride=tuple(stride),
                padding=tuple(padding),
                dilation=tuple(dilation),
            )
            return y.permute(0, 3, 1, 2)
        y = dispatch.empty((n, height, width, out), x)
        pixels, r = dispatch.padded(pixels), None if r is None else dispatch.padded(r)
        packed = _packed(weight, depthwise)
        dispatch.kernels().convolve(
            dispatch.TYPE_NAMES[x.dtype],
            dispatch.images(pixels),
            packed.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            None if r is None else dispatch.images(r),
            dispatch.images(y),
            weight.shape[2:],
            stride,
            padding,
            dilation,
            groups,
            False,
            "zero",
            activation,
            slope,
            scale,
            residual_first,
            "auto",
            stream,
        )
    return y.contiguous().permute(0, 3, 1, 2)


@torch.library.register_fake("fastrestore::conv2d")
def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    slope: float,
    scale: float,
    residual_first: bool,
    algorithm: str,
) -> Tensor:
    shape = _out_shape(x, weight, bias, residual, stride, padding, dilation, groups, activation, algorithm)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _setup_context(ctx, inputs, output):
    x, weight, bias, residual, *options = inputs
    ctx.stride, ctx.padding, ctx.dilation, ctx.groups = options[:4]
    ctx.activation, ctx.slope, ctx.scale, residual_first, _ = options[4:]
    ctx.bias_sizes = None if bias is None else list(bias.shape)
    ctx.residual_before = residual is not None and residual_first
    ctx.residual_after = residual is not None and not residual_first
    # Where the output has the sign of what entered the activation it stands in for that; else backward
    # computes the convolution again.
    keeps_sign = ctx.scale > 0 and (ctx.activation == "relu" or ctx.slope > 0) and not ctx.residual_after
    ctx.again = ctx.activation != "none" and not keeps_sign
    ctx.save_for_backward(
        x,
        weight,
        bias if ctx.again else None,
        residual if ctx.again and ctx.residual_before else None,
        output if ctx.activation != "none" and keeps_sign else None,
    )


def _backward(ctx, grad):
    x, weight, bias, residual, entered = ctx.saved_tensors
    grad_residual = grad if ctx.residual_after else None
    grad = grad * ctx.scale
    if ctx.again:
        entered = F.conv2d(x, weight, bias, ctx.stride, ctx.padding, ctx.dilation, ctx.groups)
        entered = entered if residual is None else entered + residual
    if ctx.activation == "relu":
        grad = torch.ops.aten.threshold_backward(grad, entered, 0)
    elif ctx.activation == "leaky_relu":
        grad = torch.ops.aten.leaky_relu_backward(grad, entered, ctx.slope, False)
    if ctx.residual_before:
        grad_residual = grad
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        ctx.bias_sizes,
        ctx.stride,
        ctx.padding,
        ctx.dilation,
        False,
        [0, 0],
        ctx.groups,
        ctx.needs_input_grad[:3],
    )
    return grad_x, grad_weight, grad_bias, grad_residual, *[None] * 9


torch.library.register_autograd("fastrestore::conv2d", _backward, setup_context=_setup_context)
