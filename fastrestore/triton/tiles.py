"""Between pictures and tiles: the way in with its padding and conversion, the way out, and blending."""

import torch
import triton
import triton.language as tl
from torch import Tensor

EDGES = {"zero": 0, "reflect": 1, "clamp": 2}
TOPS = {torch.uint8: 255.0, torch.uint16: 65535.0}  # of what stands for 1
# Triton knows no uint16 of torch's: its bits travel as int16.
CARRIERS = {torch.uint16: torch.int16}


@triton.jit
def as_float(value, TOP: tl.constexpr):
    """TOP: 0 for floats."""
    if TOP == 0:
        return value.to(tl.float32)
    if TOP == 65535:
        return (value.to(tl.int32) & 0xFFFF).to(tl.float32) / TOP
    return value.to(tl.float32) / TOP


@triton.jit
def edge_pixel(i, size, EDGE: tl.constexpr):
    """The pixel of [0, size) that stands in for i; with zeros outside, any."""
    if EDGE == 1:
        period = tl.maximum(2 * (size - 1), 1)
        phase = (i % period + period) % period
        i = tl.where(phase < size, phase, period - phase)
    return tl.minimum(tl.maximum(i, 0), size - 1)


@triton.jit
def gather_kernel(
    picture, y, count, height, width, picture_channels, top, left, tile_width, channels,
    EDGE: tl.constexpr, TOP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """count: values of y."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    kept = at < count
    row = top + at // (tile_width * channels)
    column = left + at // channels % tile_width
    inside = kept
    if EDGE == 0:
        inside = kept & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixel = edge_pixel(row, height, EDGE) * width + edge_pixel(column, width, EDGE)
    channel = tl.where(picture_channels == 1, 0, at % channels)
    value = tl.load(picture + pixel * picture_channels + channel, mask=inside, other=0)
    tl.store(y + at, as_float(value, TOP).to(y.dtype.element_ty), mask=kept)


@triton.jit
def ramp(i, size, before, after):
    """The weight of pixel i along one axis: raised cosines over the first `before` and the last `after` pixels."""
    left = size - 1 - i
    rising = 0.5 - 0.5 * tl.cos(3.141592653589793 * (i + 0.5) / tl.maximum(before, 1))
    falling = 0.5 - 0.5 * tl.cos(3.141592653589793 * (left + 0.5) / tl.maximum(after, 1))
    return tl.where(i < before, rising, 1.0) * tl.where(left < after, falling, 1.0)


@triton.jit
def blend_kernel(
    x, sums, count, height, width, channels, image_width, top, left,
    ramp_top, ramp_bottom, ramp_left, ramp_right,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """sums += weight * x; count: values of x."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    kept = at < count
    row = at // (width * channels)
    column = at // channels % width
    weight = ramp(row, height, ramp_top, ramp_bottom) * ramp(column, width, ramp_left, ramp_right)
    target = sums + ((top + row) * image_width + left + column) * channels + at % channels
    value = tl.load(x + at, mask=kept, other=0.0).to(tl.float32)
    tl.store(target, tl.load(target, mask=kept, other=0.0) + weight * value, mask=kept)


def _carried(picture: Tensor) -> Tensor:
    return picture.view(CARRIERS.get(picture.dtype, picture.dtype))


def gather_tile(picture: Tensor, y: Tensor, top: int, left: int, edge: str) -> None:
    """picture: [H, W, C or 1] uint8, uint16, float16 or float32, dense; y: [1, h, w, C], written: its pixel (0, 0) is
    pixel (top, left) of the picture, and outside of that what `edge` says."""
    height, width, picture_channels = picture.shape
    _, _, tile_width, channels = y.shape
    if y.numel() > 0:
        gather_kernel[(triton.cdiv(y.numel(), 1024),)](
            _carried(picture), y, y.numel(), height, width, picture_channels, top, left, tile_width, channels,
            EDGE=EDGES[edge],
            TOP=TOPS.get(picture.dtype, 0),
            BLOCK=1024,
        )  # fmt: skip


def blend_tile(x: Tensor, sums: Tensor, top: int, left: int, ramps: tuple[int, int, int, int]) -> None:
    """x: [1, h, w, C] dense; sums: float32 [H, W, C], added to.  ramps: pixels at the top, bottom, left and right over
    which the tile's weight rises or falls."""
    _, height, width, channels = x.shape
    if x.numel() > 0:
        blend_kernel[(triton.cdiv(x.numel(), 1024),)](
            x, sums, x.numel(), height, width, channels, sums.shape[1], top, left, *ramps, BLOCK=1024
        )
