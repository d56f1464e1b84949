"""Norms and gates over a pixel's channels."""

import triton
import triton.language as tl
from torch import Tensor

from fastrestore.triton.common import gelu


@triton.jit
def normalised(v, held, channels, epsilon, SUBTRACT: tl.constexpr):
    """(v - mean) / sqrt(variance + epsilon) over the channels that are held; without SUBTRACT the mean stays.

    v: float32 [pixels, block of all channels], 0 where none is held.
    """
    centred = tl.where(held[None, :], v - tl.sum(v, 1)[:, None] / channels, 0.0)
    factor = 1.0 / tl.sqrt(tl.sum(centred * centred, 1)[:, None] / channels + epsilon)
    if SUBTRACT:
        v = centred
    return v * factor


@triton.jit
def norm_kernel(
    x, scale, shift, y, pixels, channels, epsilon,
    HAS_SHIFT: tl.constexpr, SUBTRACT: tl.constexpr, BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """What `normalised` gives, * scale + shift."""
    pixel = tl.program_id(0).to(tl.int64) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    channel = tl.arange(0, BLOCK_CHANNELS)
    held = channel < channels
    kept = (pixel < pixels)[:, None] & held[None, :]
    at = pixel[:, None] * channels + channel[None, :]
    v = tl.load(x + at, mask=kept, other=0.0).to(tl.float32)
    v = normalised(v, held, channels, epsilon, SUBTRACT)
    v = v * tl.load(scale + channel, mask=held, other=0.0)[None, :]
    if HAS_SHIFT:
        v += tl.load(shift + channel, mask=held, other=0.0)[None, :]
    tl.store(y + at, v.to(y.dtype.element_ty), mask=kept)


@triton.jit
def gate_kernel(x, y, count, channels, GELU: tl.constexpr, BLOCK: tl.constexpr):
    """y[c] = act(x[c]) * x[c + channels], act the identity or gelu; count: values of y."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    kept = at < count
    source = x + at // channels * (2 * channels) + at % channels
    left = tl.load(source, mask=kept, other=0.0).to(tl.float32)
    right = tl.load(source + channels, mask=kept, other=0.0).to(tl.float32)
    if GELU:
        left = gelu(left)
    tl.store(y + at, (left * right).to(y.dtype.element_ty), mask=kept)


def layer_norm(
    x: Tensor, scale: Tensor, shift: Tensor | None, y: Tensor, epsilon: float, subtract_mean: bool = True
) -> None:
    """x, y: [N, H, W, C] dense; scale, shift: float32 [C]; y is written."""
    channels = x.shape[-1]
    pixels = x.numel() // channels
    if pixels == 0:
        return
    block = triton.next_power_of_2(channels)
    together = max(1, 2048 // block)
    norm_kernel[(triton.cdiv(pixels, together),)](
        x, scale, scale if shift is None else shift, y, pixels, channels, epsilon,
        HAS_SHIFT=shift is not None,
        SUBTRACT=subtract_mean,
        BLOCK_PIXELS=together,
        BLOCK_CHANNELS=block,
    )  # fmt: skip


def gate(x: Tensor, y: Tensor, gelu: bool = False) -> None:
    """x: [N, H, W, 2 C] dense; y: [N, H, W, C], written."""
    if y.numel() > 0:
        gate_kernel[(triton.cdiv(y.numel(), 1024),)](x, y, y.numel(), y.shape[-1], GELU=gelu, BLOCK=1024)
