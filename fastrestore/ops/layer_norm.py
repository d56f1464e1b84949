"""Layer normalisation over the channels of each pixel (Ba et al., 2016).

centred: (x - mean) / sqrt(variance + eps) * weight + bias; otherwise x / sqrt(variance + eps) * weight + bias, as
Restormer has it without bias.  x: [N, C, H, W], weight and bias: [C].  On the CPU PyTorch computes the operator (plans
have a kernel for it); on a GPU dispatch.py says the way.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastrestore.ops import dispatch
from fastrestore.ops.recompute import gradients

LIB = torch.library.Library("fastrestore", "FRAGMENT")
LIB.define("layer_norm(Tensor x, Tensor weight, Tensor? bias, float eps, bool centred) -> Tensor")


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool = True) -> Tensor:
    """[N, C, H, W] -> the same shape, channels_last.  Raises ValueError or TypeError for what does not fit."""
    return torch.ops.fastrestore.layer_norm(x, weight, bias, eps, centred)


def reference(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
    pixels = x.permute(0, 2, 3, 1)
    if centred:
        y = F.layer_norm(pixels, weight.shape, weight, bias, eps)
    else:
        y = pixels / (pixels.var(-1, keepdim=True, correction=0) + eps).sqrt() * weight
        y = y if bias is None else y + bias
    return y.permute(0, 3, 1, 2)


def _empty(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
    """An empty tensor for the result; raises what a wrong argument deserves."""
    if not x.dtype.is_floating_point or weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
        raise TypeError(f"layer_norm: x, weight and bias must be of one floating type, got {x.dtype}, {weight.dtype}")
    if x.dim() != 4 or weight.shape != x.shape[1:2] or (bias is not None and bias.shape != weight.shape):
        raise ValueError(
            f"layer_norm: x must be [N, C, H, W], weight and bias [C], got {list(x.shape)} and {list(weight.shape)}"
        )
    return torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.impl(LIB, "layer_norm", "CompositeExplicitAutograd")
def _run(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
    return _empty(x, weight, bias, eps, centred).copy_(reference(x, weight, bias, eps, centred))


@torch.library.impl(LIB, "layer_norm", "CUDA")
def _cuda(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
    y = _empty(x, weight, bias, eps, centred)
    if y.numel() == 0:
        return y
    path = dispatch.take("layer_norm", x, x.shape[1])
    if path == "torch":
        return y.copy_(reference(x, weight, bias, eps, centred))
    pixels = x.permute(0, 2, 3, 1)
    weight, bias = weight.float().contiguous(), None if bias is None else bias.float().contiguous()
    with dispatch.launching(x) as stream:
        if path == "triton":
            from fastrestore.triton import layer_norm as triton_norm

            triton_norm.layer_norm(pixels.contiguous(), weight, bias, y.permute(0, 2, 3, 1), eps, centred)
            return y
        pixels, out = dispatch.padded(pixels), dispatch.empty(tuple(pixels.shape), x)
        dispatch.kernels().layer_norm(
            dispatch.TYPE_NAMES[x.dtype],
            dispatch.images(pixels),
            weight.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            eps,
            centred,
            dispatch.images(out),
            stream,
        )
    return out.contiguous().permute(0, 3, 1, 2)


torch.library.register_fake("fastrestore::layer_norm")(_empty)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3])
    ctx.options = inputs[3:]


def _backward(ctx, grad):
    return *gradients(reference, ctx.saved_tensors, ctx.options, ctx.needs_input_grad, grad), None, None


torch.library.register_autograd("fastrestore::layer_norm", _backward, setup_context=_setup_context)
