"""torch.pixel_shuffle and torch.pixel_unshuffle in channels_last, bit for bit.

x: [N, C r r, H, W] <-> [N, C, H r, W r].  float32 runs our kernels; float64, which is there to check
gradients, runs the reference.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastrestore.ops import _C

LIB = torch.library.Library("fastrestore", "FRAGMENT")
LIB.define("pixel_shuffle(Tensor x, int r) -> Tensor")
LIB.define("pixel_unshuffle(Tensor x, int r) -> Tensor")

reference = F.pixel_shuffle
unshuffle_reference = F.pixel_unshuffle


def pixel_shuffle(x: Tensor, r: int) -> Tensor:
    """[N, C r r, H, W] -> [N, C, H r, W r]"""
    return torch.ops.fastrestore.pixel_shuffle(x, r)


def pixel_unshuffle(x: Tensor, r: int) -> Tensor:
    """[N, C, H r, W r] -> [N, C r r, H, W]"""
    return torch.ops.fastrestore.pixel_unshuffle(x, r)


def _check(name: str, x: Tensor, r: int) -> None:
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: x must be float32 (or float64, for checks), got {x.dtype}")
    if x.dim() != 4 or r < 1:
        raise ValueError(f"{name}: x must be [N, C, H, W] and r at least 1, got {list(x.shape)} and {r}")


def _shuffled(x: Tensor, r: int) -> Tensor:
    """An empty tensor for the result."""
    _check("pixel_shuffle", x, r)
    n, channels, height, width = x.shape
    if channels % (r * r) != 0:
        raise ValueError(f"pixel_shuffle: x must have a multiple of {r * r} channels, got {channels}")
    shape = (n, channels // (r * r), height * r, width * r)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _unshuffled(x: Tensor, r: int) -> Tensor:
    """An empty tensor for the result."""
    _check("pixel_unshuffle", x, r)
    n, channels, height, width = x.shape
    if height % r != 0 or width % r != 0:
        raise ValueError(f"pixel_unshuffle: height and width must be multiples of {r}, got {height} and {width}")
    shape = (n, channels * r * r, height // r, width // r)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@torch.library.impl(LIB, "pixel_shuffle", "CPU")
def _cpu_shuffle(x: Tensor, r: int) -> Tensor:
    y = _shuffled(x, r)
    if x.dtype == torch.float64:
        return y.copy_(reference(x, r))
    x = x.contiguous(memory_format=torch.channels_last)
    n, _, height, width = x.shape
    _C.pixel_shuffle(x.data_ptr(), y.data_ptr(), n, height, width, y.shape[1], r, torch.get_num_threads())
    return y


@torch.library.impl(LIB, "pixel_unshuffle", "CPU")
def _cpu_unshuffle(x: Tensor, r: int) -> Tensor:
    y = _unshuffled(x, r)
    if x.dtype == torch.float64:
        return y.copy_(unshuffle_reference(x, r))
    x = x.contiguous(memory_format=torch.channels_last)
    n, _, height, width = y.shape
    _C.pixel_unshuffle(x.data_ptr(), y.data_ptr(), n, height, width, x.shape[1], r, torch.get_num_threads())
    return y


torch.library.register_fake("fastrestore::pixel_shuffle")(_shuffled)
torch.library.register_fake("fastrestore::pixel_unshuffle")(_unshuffled)


def _setup_context(ctx, inputs, output):
    ctx.r = inputs[1]


def _shuffle_backward(ctx, grad):
    return pixel_unshuffle(grad, ctx.r), None


def _unshuffle_backward(ctx, grad):
    return pixel_shuffle(grad, ctx.r), None


torch.library.register_autograd("fastrestore::pixel_shuffle", _shuffle_backward, setup_context=_setup_context)
torch.library.register_autograd("fastrestore::pixel_unshuffle", _unshuffle_backward, setup_context=_setup_context)
