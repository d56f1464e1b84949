"""Softmax attention within square windows, on a fixed or a shifted grid (Swin transformer, Liu et al., 2021).

qkv: [N, H, W, 3 C]: queries, keys and values one after the other, each by head; any sides.  bias: [heads,
(2 side - 1)^2], added to the scores by the pixels' distance.  shift: where the first whole window begins; the smaller
windows at the image's edges keep to themselves.  On the CPU float32 runs our kernels; float64, which is there to check
gradients, runs the reference, and so does the backward pass.  On a GPU windows of up to 8 x 8 go the way that
dispatch.py says.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastrestore.ops import _C, dispatch
from fastrestore.ops.recompute import gradients

LIB = torch.library.Library("fastrestore", "FRAGMENT")
LIB.define("window_attention(Tensor qkv, Tensor bias, int side, int shift) -> Tensor")


def window_attention(qkv: Tensor, bias: Tensor, side: int, shift: int = 0) -> Tensor:
    """[N, H, W, 3 C] -> [N, H, W, C].  Raises ValueError or TypeError for what does not fit."""
    return torch.ops.fastrestore.window_attention(qkv, bias, side, shift)


def reference(qkv: Tensor, bias: Tensor, side: int, shift: int) -> Tensor:
    count, height, width, channels = qkv.shape
    heads, before = len(bias), (side - shift) % side  # rows and columns that are missing of the first windows
    after_y, after_x = -(height + before) % side, -(width + before) % side
    rows, columns = (before + height + after_y) // side, (before + width + after_x) // side
    parts = _windows(F.pad(qkv, (0, 0, before, after_x, before, after_y)), rows, columns, side)
    parts = parts.reshape(count, rows * columns, side * side, 3, heads, channels // (3 * heads))
    q, k, v = parts.permute(3, 0, 1, 4, 2, 5)  # each [N, windows, heads, pixels, channels of a head]
    scores = bias[:, _distances(side, bias.device)].to(qkv.dtype)
    if before or after_y or after_x:  # nobody attends to what is not there
        inside = F.pad(qkv.new_ones(1, height, width, 1), (0, 0, before, after_x, before, after_y))
        inside = _windows(inside, rows, columns, side).reshape(rows * columns, 1, 1, side * side)
        scores = scores.masked_fill(inside == 0, -torch.inf)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=scores)
    y = y.transpose(2, 3).reshape(count, rows, columns, side, side, channels // 3)
    y = y.transpose(2, 3).reshape(count, rows * side, columns * side, channels // 3)
    return y[:, before : before + height, before : before + width].contiguous()


def _windows(x: Tensor, rows: int, columns: int, side: int) -> Tensor:
    """[N, rows side, columns side, C] -> [N, rows, columns, side, side, C]"""
    return x.reshape(len(x), rows, side, columns, side, x.shape[-1]).transpose(2, 3)


def _distances(side: int, device: torch.device) -> Tensor:
    """[pixels, pixels] of a window: which of the (2 side - 1)^2 distances each pair has."""
    pixel = torch.arange(side * side, device=device)
    y, x = pixel // side, pixel % side
    return (y[:, None] - y + side - 1) * (2 * side - 1) + (x[:, None] - x + side - 1)


def _empty(qkv: Tensor, bias: Tensor, side: int, shift: int) -> Tensor:
    """An empty tensor for the result; raises what a wrong argument deserves."""
    dispatch.check_dtype("window_attention: qkv", qkv)
    if bias.dtype != qkv.dtype:
        raise TypeError(f"window_attention: qkv and bias must be of one type, got {qkv.dtype} and {bias.dtype}")
    if not 1 <= side <= _C.MOST_WINDOW or not 0 <= shift < side:
        raise ValueError(f"window_attention: side must be 1 to {_C.MOST_WINDOW} and shift less, got {side} and {shift}")
    if bias.dim() != 2 or len(bias) < 1 or bias.shape[1] != (2 * side - 1) ** 2:
        raise ValueError(
            f"window_attention: bias must be [heads, {(2 * side - 1) ** 2}] for windows of {side}, got "
            f"{list(bias.shape)}"
        )
    if qkv.dim() != 4 or qkv.shape[3] == 0 or qkv.shape[3] % (3 * len(bias)):
        raise ValueError(
            f"window_attention: qkv must be [N, H, W, 3 C], C a multiple of {len(bias)} heads, got {list(qkv.shape)}"
        )
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)


@torch.library.impl(LIB, "window_attention", "CPU")
def _cpu(qkv: Tensor, bias: Tensor, side: int, shift: int) -> Tensor:
    y = _empty(qkv, bias, side, shift)
    if qkv.dtype == torch.float64:
        return y.copy_(reference(qkv, bias, side, shift))
    qkv, bias = qkv.contiguous(), bias.contiguous()
    heads = len(bias)
    _C.window_attention(
        qkv.data_ptr(),
        y.data_ptr(),
        *qkv.shape[:3],
        heads,
        y.shape[3] // heads,
        side,
        shift,
        bias.data_ptr(),
        torch.get_num_threads(),
    )
    return y


LARGEST_ON_GPU = 8  # side of a window that the GPU's kernels take


@torch.library.impl(LIB, "window_attention", "CUDA")
def _cuda(qkv: Tensor, bias: Tensor, side: int, shift: int) -> Tensor:
    y = _empty(qkv, bias, side, shift)
    heads, depth = len(bias), y.shape[3] // len(bias)
    if y.numel() == 0:
        return y
    fits = side <= LARGEST_ON_GPU and depth % 2 == 0
    path = dispatch.take("window_attention", qkv, depth) if fits else "torch"
    if path == "torch":
        return reference(qkv, bias, side, shift)
    bias = bias.float().contiguous()
    with dispatch.launching(qkv) as stream:
        if path == "triton":
            from fastrestore.triton import window_attention as triton_attention

            triton_attention.window_attention(qkv.contiguous(), bias, y, heads, side, shift, depth**-0.5)
            return y
        qkv, out = dispatch.padded(qkv), dispatch.empty(tuple(y.shape), qkv)
        dispatch.kernels().window_attention(
            dispatch.TYPE_NAMES[qkv.dtype],
            dispatch.images(qkv),
            heads,
            side,
            shift,
            depth**-0.5,
            bias.data_ptr(),
            dispatch.images(out),
            stream,
        )
    return out.contiguous()


torch.library.register_fake("fastrestore::window_attention")(_empty)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:2])
    ctx.grid = inputs[2:]


def _backward(ctx, grad):
    return *gradients(reference, ctx.saved_tensors, ctx.grid, ctx.needs_input_grad, grad), None, None


torch.library.register_autograd("fastrestore::window_attention", _backward, setup_context=_setup_context)
