"""Softmax attention between channels, over all pixels (Restormer, Zamir et al., 2022, equation 1).

qkv: [N, 3 C, H, W]: queries, keys and values one after the other, each by head; temperature: [heads].  Queries and
keys are divided by their lengths over the picture.  On the CPU PyTorch computes the operator (plans have kernels for
it); on a GPU dispatch.py says the way.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastrestore.ops import dispatch
from fastrestore.ops.recompute import gradients

LIB = torch.library.Library("fastrestore", "FRAGMENT")
LIB.define("channel_attention(Tensor qkv, Tensor temperature) -> Tensor")


def channel_attention(qkv: Tensor, temperature: Tensor) -> Tensor:
    """[N, 3 C, H, W] -> [N, C, H, W], channels_last.  Raises ValueError or TypeError for what does not fit."""
    return torch.ops.fastrestore.channel_attention(qkv, temperature)


def reference(qkv: Tensor, temperature: Tensor) -> Tensor:
    count, channels, height, width = qkv.shape
    q, k, v = qkv.reshape(count, 3, len(temperature), -1, height * width).unbind(1)
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * temperature[:, None, None]
    return (scores.softmax(-1) @ v).reshape(count, channels // 3, height, width)


def _empty(qkv: Tensor, temperature: Tensor) -> Tensor:
    """An empty tensor for the result; raises what a wrong argument deserves."""
    if not qkv.dtype.is_floating_point or temperature.dtype != qkv.dtype:
        raise TypeError(
            f"channel_attention: qkv and temperature must be of one floating type, got {qkv.dtype} and "
            f"{temperature.dtype}"
        )
    if temperature.dim() != 1 or len(temperature) < 1:
        raise ValueError(f"channel_attention: temperature must be [heads], got {list(temperature.shape)}")
    if qkv.dim() != 4 or qkv.shape[1] == 0 or qkv.shape[1] % (3 * len(temperature)):
        raise ValueError(
            f"channel_attention: qkv must be [N, 3 C, H, W], C a multiple of {len(temperature)} heads, got "
            f"{list(qkv.shape)}"
        )
    count, channels, height, width = qkv.shape
    shape = (count, channels // 3, height, width)
    return torch.empty(shape, dtype=qkv.dtype, device=qkv.device, memory_format=torch.channels_last)


@torch.library.impl(LIB, "channel_attention", "CompositeExplicitAutograd")
def _run(qkv: Tensor, temperature: Tensor) -> Tensor:
    return _empty(qkv, temperature).copy_(reference(qkv, temperature))


PIXELS_OF_SUMS = 4096  # that one block of the CUDA kernel takes, about


@torch.library.impl(LIB, "channel_attention", "CUDA")
def _cuda(qkv: Tensor, temperature: Tensor) -> Tensor:
    y = _empty(qkv, temperature)
    if y.numel() == 0:
        return y
    path = dispatch.take("channel_attention", qkv, y.shape[1] // len(temperature))
    if path == "torch":
        return y.copy_(reference(qkv, temperature))
    pixels, out, temperature = qkv.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1), temperature.float().contiguous()
    with dispatch.launching(qkv) as stream:
        if path == "triton":
            from fastrestore.triton import channel_attention as triton_attention

            triton_attention.channel_attention(pixels.contiguous(), temperature, out)
        else:
            for one, result in zip(pixels.split(1), out.split(1), strict=True):
                result.copy_(_mixed(dispatch.padded(one), temperature, stream))
    return y


def _mixed(qkv: Tensor, temperature: Tensor, stream: int) -> Tensor:
    """The result for one image, [1, H, W, C], by the CUDA kernels: the values' mixture is a 1x1 convolution of them."""
    _, height, width, channels = qkv.shape
    heads, channels = len(temperature), channels // 3
    depth, padded = channels // heads, -(-channels // 16) * 16
    fold = max(1, PIXELS_OF_SUMS // width)  # rows
    groups = -(-height // fold)
    grams, weights = temperature.new_empty(groups, heads, depth * (depth + 2)), temperature.new_empty(heads, depth**2)
    mixture, y = qkv.new_empty(padded, padded), dispatch.empty((1, height, width, channels), qkv)
    kind, kernels, one = dispatch.TYPE_NAMES[qkv.dtype], dispatch.kernels(), torch.eye(channels, device=qkv.device)
    kernels.row_grams(kind, dispatch.images(qkv), heads, fold, grams.data_ptr(), stream)
    kernels.softmax_of_grams(grams.data_ptr(), groups, heads, depth, temperature.data_ptr(), weights.data_ptr(), stream)
    kernels.fold_mixture(
        kind, weights.data_ptr(), channels, heads, one.data_ptr(), channels, mixture.data_ptr(), stream
    )
    values = dispatch.padded(qkv[..., 2 * channels :])
    kernels.convolve(
        kind, dispatch.images(values), mixture.data_ptr(), 0, None, dispatch.images(y), (1, 1), (1, 1), (0, 0), (1, 1),
        1, False, "zero", "none", 0.0, 1.0, False, "auto", stream)  # fmt: skip
    return y


torch.library.register_fake("fastrestore::channel_attention")(_empty)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    return tuple(gradients(reference, ctx.saved_tensors, (), ctx.needs_input_grad, grad))


torch.library.register_autograd("fastrestore::channel_attention", _backward, setup_context=_setup_context)
