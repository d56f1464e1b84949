"""An image seen through a flow field: out(x, y) = in(x + flow_x, y + flow_y), bilinear between pixels.

x: [N, C, H, W]; flow: [N, 2, H, W], along width and along height, in pixels.  Beyond the image its edge is repeated.
PyTorch computes the operator; plans have a kernel for it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastrestore.ops.recompute import gradients

LIB = torch.library.Library("fastrestore", "FRAGMENT")
LIB.define("warp(Tensor x, Tensor flow) -> Tensor")


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """[N, C, H, W] -> the same shape, channels_last.  Raises ValueError or TypeError for what does not fit."""
    return torch.ops.fastrestore.warp(x, flow)


def reference(x: Tensor, flow: Tensor) -> Tensor:
    height, width = x.shape[2:]
    rows = torch.arange(height, dtype=x.dtype, device=x.device)[:, None]
    columns = torch.arange(width, dtype=x.dtype, device=x.device)
    # grid_sample counts from -1 at the first pixel to 1 at the last; a picture of one pixel has no other place.
    across = (columns + flow[:, 0]) * (2 / max(width - 1, 1)) - 1
    down = (rows + flow[:, 1]) * (2 / max(height - 1, 1)) - 1
    places = torch.stack([across, down], -1)
    return F.grid_sample(x, places, mode="bilinear", padding_mode="border", align_corners=True)


def _empty(x: Tensor, flow: Tensor) -> Tensor:
    """An empty tensor for the result; raises what a wrong argument deserves."""
    if not x.dtype.is_floating_point or flow.dtype != x.dtype:
        raise TypeError(f"warp: x and flow must be of one floating type, got {x.dtype} and {flow.dtype}")
    if x.dim() != 4 or tuple(flow.shape) != (x.shape[0], 2, *x.shape[2:]):
        raise ValueError(
            f"warp: x must be [N, C, H, W] and flow [N, 2, H, W], got {list(x.shape)} and {list(flow.shape)}"
        )
    return torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.impl(LIB, "warp", "CompositeExplicitAutograd")
def _run(x: Tensor, flow: Tensor) -> Tensor:
    y = _empty(x, flow)
    return y.copy_(reference(x, flow)) if x.numel() else y


torch.library.register_fake("fastrestore::warp")(_empty)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    return tuple(gradients(reference, ctx.saved_tensors, (), ctx.needs_input_grad, grad))


torch.library.register_autograd("fastrestore::warp", _backward, setup_context=_setup_context)
