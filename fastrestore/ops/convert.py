"""Pictures to network input and back.

from_pixels: [N, H, W, C] uint8, uint16 (v / 255, v / 65535), float16 or float32 -> float32 [N, C, H, W].
to_pixels: the way back; integers are rounded half to even and saturate, NaN becomes 0.  On a GPU torch computes both.
"""

import torch
from torch import Tensor

from fastrestore.ops import _C

LIB = torch.library.Library("fastrestore", "FRAGMENT")
LIB.define("from_pixels(Tensor image) -> Tensor")
LIB.define("to_pixels(Tensor x, ScalarType dtype, bool clip) -> Tensor")

_PIXEL = {
    torch.uint8: _C.Pixel.u8,
    torch.uint16: _C.Pixel.u16,
    torch.float16: _C.Pixel.f16,
    torch.float32: _C.Pixel.f32,
}
_TOP = {torch.uint8: 255, torch.uint16: 65535}


def from_pixels(image: Tensor) -> Tensor:
    """[N, H, W, C] -> float32 [N, C, H, W], channels_last"""
    return torch.ops.fastrestore.from_pixels(image)


def to_pixels(x: Tensor, dtype: torch.dtype, clip: bool = True) -> Tensor:
    """float32 [N, C, H, W] -> [N, H, W, C] of dtype.  clip: to [0, 1], which integers are in any case."""
    return torch.ops.fastrestore.to_pixels(x, dtype, clip)


def reference(image: Tensor) -> Tensor:
    x = image.permute(0, 3, 1, 2).to(torch.float32)
    return x / _TOP[image.dtype] if image.dtype in _TOP else x


def to_reference(x: Tensor, dtype: torch.dtype, clip: bool = True) -> Tensor:
    x = x.permute(0, 2, 3, 1)
    if clip:
        x = x.clamp(0, 1)
    if dtype in _TOP:
        top = _TOP[dtype]
        x = (x * top).nan_to_num(0, top, 0).clamp(0, top).round()
    return x.to(dtype)


def _check(name: str, tensor: Tensor, axes: str) -> None:
    if tensor.dim() != 4:
        raise ValueError(f"{name}: the input must be {axes}, got {list(tensor.shape)}")


def _in(image: Tensor) -> Tensor:
    """An empty tensor for the result."""
    _check("from_pixels", image, "[N, H, W, C]")
    if image.dtype not in _PIXEL:
        raise TypeError(f"from_pixels: the image must be uint8, uint16, float16 or float32, got {image.dtype}")
    n, height, width, channels = image.shape
    shape = (n, channels, height, width)
    return torch.empty(shape, dtype=torch.float32, device=image.device, memory_format=torch.channels_last)


def _out(x: Tensor, dtype: torch.dtype, clip: bool) -> Tensor:
    """An empty tensor for the result."""
    _check("to_pixels", x, "[N, C, H, W]")
    if x.dtype != torch.float32:
        raise TypeError(f"to_pixels: x must be float32, got {x.dtype}")
    if dtype not in _PIXEL:
        raise TypeError(f"to_pixels: dtype must be uint8, uint16, float16 or float32, got {dtype}")
    n, channels, height, width = x.shape
    return torch.empty((n, height, width, channels), dtype=dtype, device=x.device)


@torch.library.impl(LIB, "from_pixels", "CPU")
def _cpu_in(image: Tensor) -> Tensor:
    y = _in(image)
    image = image.contiguous()
    _C.from_pixels(_PIXEL[image.dtype], image.data_ptr(), y.data_ptr(), y.numel(), torch.get_num_threads())
    return y


@torch.library.impl(LIB, "to_pixels", "CPU")
def _cpu_out(x: Tensor, dtype: torch.dtype, clip: bool) -> Tensor:
    y = _out(x, dtype, clip)
    x = x.contiguous(memory_format=torch.channels_last)
    _C.to_pixels(_PIXEL[dtype], x.data_ptr(), y.data_ptr(), y.numel(), clip, torch.get_num_threads())
    return y


@torch.library.impl(LIB, "from_pixels", "CUDA")
def _cuda_in(image: Tensor) -> Tensor:
    return _in(image).copy_(reference(image))


@torch.library.impl(LIB, "to_pixels", "CUDA")
def _cuda_out(x: Tensor, dtype: torch.dtype, clip: bool) -> Tensor:
    return _out(x, dtype, clip).copy_(to_reference(x, dtype, clip))


torch.library.register_fake("fastrestore::from_pixels")(_in)
torch.library.register_fake("fastrestore::to_pixels")(_out)


def _setup_in(ctx, inputs, output):
    ctx.dtype = inputs[0].dtype


def _backward_in(ctx, grad):
    return grad.permute(0, 2, 3, 1).to(ctx.dtype)


def _setup_out(ctx, inputs, output):
    x, _, ctx.clip = inputs
    ctx.save_for_backward(x if ctx.clip else None)


def _backward_out(ctx, grad):
    grad = grad.permute(0, 3, 1, 2).to(torch.float32)
    if ctx.clip:
        (x,) = ctx.saved_tensors
        grad = grad * ((x >= 0) & (x <= 1))
    return grad, None, None


torch.library.register_autograd("fastrestore::from_pixels", _backward_in, setup_context=_setup_in)
torch.library.register_autograd("fastrestore::to_pixels", _backward_out, setup_context=_setup_out)
