"""Between pictures and tiles: the way in with its padding and conversion, blending, and the way out."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrestore.triton.common import EDGES, edge_pixel

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
def gather_kernel(
    picture, y, count, height, width, picture_channels, top, left, tile_width, channels,
    EDGE: tl.constexpr, TOP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """count: values of y."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    kept = at < count
    row = top + at // (tile_width * channels)
    column = left + at // channels % tile_width
    pixel, inside = edge_pixel(row, column, height, width, EDGE)
    channel = tl.where(picture_channels == 1, 0, at % channels)
    value = tl.load(picture + pixel * picture_channels + channel, mask=kept & inside, other=0)
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


@triton.jit
def _stored(value, to, kept, TOP: tl.constexpr, CLIP: tl.constexpr):
    """Writes float32 values as samples: clipped if CLIP, rounded to integers half to even; NaN becomes 0 there."""
    if CLIP:
        value = tl.where(value < 0.0, 0.0, tl.where(value > 1.0, 1.0, value))
    if TOP != 0:
        value = value * TOP
        value = tl.where(value > 0.0, tl.minimum(value, TOP), 0.0)
        value = ((value + 8388608.0) - 8388608.0).to(tl.int32)  # float32 holds integers alone from 2^23 on
    tl.store(to, value.to(to.dtype.element_ty), mask=kept)


@triton.jit
def store_kernel(
    x, picture, out, non_finite, pixels, width, channels, picture_width, top, left, strength,
    TOP: tl.constexpr, MIXED: tl.constexpr, CLIP: tl.constexpr, GREY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """picture + strength * (x - picture), MIXED: strength is not 1; GREY: pictures of one channel, the mean of x's."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    kept = at < pixels
    target = (top + at // width) * picture_width + left + at % width
    lost = tl.zeros((BLOCK,), tl.int64)
    grey = tl.zeros((BLOCK,), tl.float32)
    for channel in range(channels):
        value = tl.load(x + at * channels + channel, mask=kept, other=0.0).to(tl.float32)
        lost += tl.where(tl.abs(value) < float("inf"), 0, 1)
        if GREY:
            grey += value
        else:
            if MIXED:
                before = as_float(tl.load(picture + target * channels + channel, mask=kept, other=0), TOP)
                value = before + strength * (value - before)
            _stored(value, out + target * channels + channel, kept, TOP, CLIP)
    if GREY:
        grey = grey / channels
        if MIXED:
            before = as_float(tl.load(picture + target, mask=kept, other=0), TOP)
            grey = before + strength * (grey - before)
        _stored(grey, out + target, kept, TOP, CLIP)
    tl.atomic_add(non_finite, tl.sum(lost, 0))


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


def store_tile(
    x: Tensor,
    picture: Tensor,
    out: Tensor,
    top: int,
    left: int,
    *,
    strength: float,
    clip: bool,
    non_finite: Tensor,
) -> None:
    """Writes a restored tile at (top, left) of `out`: picture + strength * (x - picture), clipped and converted.

    x: [1, h, w, C] dense; picture, out: [H, W, C or 1], dense, of one of gather_tile's types; a picture of one channel
    gets the mean of x's.  non_finite: int64 [1], to which the number of x's values that are not finite is added.
    """
    _, height, width, channels = x.shape
    _, picture_width, picture_channels = picture.shape
    if x.numel() > 0:
        store_kernel[(triton.cdiv(height * width, 256),)](
            x, _carried(picture), _carried(out), non_finite, height * width, width, channels, picture_width, top, left,
            strength,
            TOP=TOPS.get(picture.dtype, 0),
            MIXED=strength != 1.0,
            CLIP=clip,
            GREY=picture_channels == 1 and channels > 1,
            BLOCK=256,
        )  # fmt: skip
