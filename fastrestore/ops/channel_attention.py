"""Softmax attention between channels, over all pixels (Restormer, Zamir et al., 2022, equation 1).

qkv: [N, 3 C, H, W]: queries, keys and values one after the other, each by head; temperature: [heads].  Queries and
keys are divided by their lengths over the picture.  PyTorch computes the operator; plans have kernels for it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

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


torch.library.register_fake("fastrestore::channel_attention")(_empty)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    return tuple(gradients(reference, ctx.saved_tensors, (), ctx.needs_input_grad, grad))


torch.library.register_autograd("fastrestore::channel_attention", _backward, setup_context=_setup_context)
