"""torch.pixel_shuffle and torch.pixel_unshuffle in channels_last, bit for bit.

x: [N, C r r, H, W] <-> [N, C, H r, W r].  On the CPU float32 runs our kernels; float64, which is there to check
gradients, runs the reference.  On a GPU dispatch.py says the way.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastrestore.ops import _C, dispatch

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
    dispatch.check_dtype(f"{name}: x", x)
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


def _on_gpu(name: str, x: Tensor, y: Tensor, r: int) -> Tensor:
    """The result, of y's shape."""
    if y.numel() == 0:
        return y
    path = dispatch.take("pixel_shuffle", x, max(x.shape[1], y.shape[1]))
    if path == "torch":
        plain = reference if name == "pixel_shuffle" else unshuffle_reference
        return plain(x, r).contiguous(memory_format=torch.channels_last)
    pixels = x.permute(0, 2, 3, 1)
    with dispatch.launching(x) as stream:
        if path == "triton":
            from fastrestore.triton import pixel_shuffle as triton_shuffle

            getattr(triton_shuffle, name)(pixels.contiguous(), y.permute(0, 2, 3, 1), r)
            return y
        pixels, out = dispatch.padded(pixels), dispatch.empty(tuple(y.permute(0, 2, 3, 1).shape), x)
        run = getattr(dispatch.kernels(), name)
        run(dispatch.TYPE_NAMES[x.dtype], dispatch.images(pixels), r, dispatch.images(out), stream)
    return out.contiguous().permute(0, 3, 1, 2)


@torch.library.impl(LIB, "pixel_shuffle", "CUDA")
def _cuda_shuffle(x: Tensor, r: int) -> Tensor:
    return _on_gpu("pixel_shuffle", x, _shuffled(x, r), r)


@torch.library.impl(LIB, "pixel_unshuffle", "CUDA")
def _cuda_unshuffle(x: Tensor, r: int) -> Tensor:
    return _on_gpu("pixel_unshuffle", x, _unshuffled(x, r), r)


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
