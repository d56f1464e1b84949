"""The mean by channel of the window of `side` pixels around each pixel; near an edge, of the nearest window inside.

x: [N, C, H, W].  Pixel p's window begins at p - (side - 1) / 2, rounded down; where a side of the picture is no longer
than the window's, the mean is over all of it.  On the CPU PyTorch computes the operator (plans have a kernel for it);
on a GPU dispatch.py says the way.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastrestore.ops import dispatch
from fastrestore.ops.recompute import gradients

LIB = torch.library.Library("fastrestore", "FRAGMENT")
LIB.define("local_mean(Tensor x, SymInt side) -> Tensor")


def local_mean(x: Tensor, side: int) -> Tensor:
    """[N, C, H, W] -> the same shape, channels_last.  Raises ValueError or TypeError for what does not fit."""
    return torch.ops.fastrestore.local_mean(x, side)


def reference(x: Tensor, side: int) -> Tensor:
    height, width = x.shape[2:]
    if side >= height and side >= width:
        return F.adaptive_avg_pool2d(x, 1).expand(x.shape)
    return _running_mean(_running_mean(x, 3, min(side, width)), 2, min(side, height))


def _running_mean(x: Tensor, axis: int, side: int) -> Tensor:
    """The mean of `side` pixels along an axis.  As differences of sums, which float32 would round at the end of a long
    row more than at its start: float64."""
    sums = x.double().cumsum(axis)
    length = x.shape[axis] - side + 1
    first = sums.narrow(axis, side - 1, 1)
    means = torch.cat([first, sums.narrow(axis, side, length - 1) - sums.narrow(axis, 0, length - 1)], axis) / side
    before = (side - 1) // 2
    pads = (before, side - 1 - before)
    return F.pad(means.to(x.dtype), (*pads, 0, 0) if axis == 3 else (0, 0, *pads), mode="replicate")


def _empty(x: Tensor, side: int) -> Tensor:
    """An empty tensor for the result; raises what a wrong argument deserves."""
    if not x.dtype.is_floating_point:
        raise TypeError(f"local_mean: x must be of a floating type, got {x.dtype}")
    if x.dim() != 4 or side < 1:
        raise ValueError(f"local_mean: x must be [N, C, H, W] and side at least 1, got {list(x.shape)} and {side}")
    return torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.impl(LIB, "local_mean", "CompositeExplicitAutograd")
def _run(x: Tensor, side: int) -> Tensor:
    y = _empty(x, side)
    return y.copy_(reference(x, side)) if x.numel() else y


@torch.library.impl(LIB, "local_mean", "CUDA")
def _cuda(x: Tensor, side: int) -> Tensor:
    y = _empty(x, side)
    if y.numel() == 0:
        return y
    path = dispatch.take("local_mean", x, x.shape[1])
    if path == "torch":
        return y.copy_(reference(x, side))
    pixels = x.permute(0, 2, 3, 1)
    with dispatch.launching(x) as stream:
        if path == "triton":
            from fastrestore.triton import local_mean as triton_mean

            triton_mean.local_mean(pixels.contiguous(), y.permute(0, 2, 3, 1), side)
            return y
        pixels, out = dispatch.padded(pixels), dispatch.empty(tuple(pixels.shape), x)
        sums = torch.empty(*pixels.shape[:3], -(-pixels.shape[3] // 8) * 8, device=x.device)
        dispatch.kernels().local_mean(
            dispatch.TYPE_NAMES[x.dtype], side, dispatch.images(pixels), sums.data_ptr(), dispatch.images(out), stream
        )
    return out.contiguous().permute(0, 3, 1, 2)


torch.library.register_fake("fastrestore::local_mean")(_empty)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])
    ctx.side = inputs[1]


def _backward(ctx, grad):
    return *gradients(reference, ctx.saved_tensors, (ctx.side,), ctx.needs_input_grad, grad), None


torch.library.register_autograd("fastrestore::local_mean", _backward, setup_context=_setup_context)
