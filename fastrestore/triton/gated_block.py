"""NAFNet's block in two kernels, split where it needs the mean of the whole picture:

    front: g = gate(depthwise3x3(expand(norm(x)))), and sums of g        back: y = x + project(g * scale)
                                                                               z = y + contract(gate(expand(norm(y))))

gate(a, b) = a * b of the two halves of the channels; the norms are plain: what they scale and shift by is part of the
weights and biases that follow.  What lies between never leaves the chip.  The front goes down a tile row by row: what a
row's pixels and their neighbours to both sides are expanded to is added to the rows above, at and below it.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from fastrestore.triton import widens
from fastrestore.triton.common import edge_pixel, product, tuned
from fastrestore.triton.layer_norm import normalised

TILE_HEIGHT, TILE_WIDTH = 16, 64  # of the front, whose sums are a tile's
FRONT_CONFIGS = (
    {"BLOCK": 16, "num_warps": 4, "num_stages": 2},
    {"BLOCK": 32, "num_warps": 4, "num_stages": 2},
    {"BLOCK": 32, "num_warps": 8, "num_stages": 2},
    {"BLOCK": 64, "num_warps": 8, "num_stages": 2},
)
BACK_CONFIGS = (
    {"BLOCK_PIXELS": 32, "BLOCK": 32, "num_warps": 4, "num_stages": 2},
    {"BLOCK_PIXELS": 64, "BLOCK": 32, "num_warps": 4, "num_stages": 2},
    {"BLOCK_PIXELS": 64, "BLOCK": 16, "num_warps": 8, "num_stages": 3},
    {"BLOCK_PIXELS": 128, "BLOCK": 32, "num_warps": 8, "num_stages": 2},
)


@triton.jit
def _shifted(bias, out, held, HAS_BIAS: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr):
    """What sums begin with: the bias of the channels `out`, or 0."""
    sums = tl.zeros((PIXELS, BLOCK), tl.float32)
    if HAS_BIAS:
        sums += tl.load(bias + out, mask=held, other=0.0)
    return sums


@triton.jit
def _weights(weight, channel, held, out, there, channels):
    """Of a 1x1 convolution from the channels `channel` to the channels `out`.  weight: [outputs, channels]."""
    return tl.load(weight + out * channels + channel[:, None], mask=held[:, None] & there, other=0.0)


@triton.jit
def _add_row(
    above, here, below, rows, weights, bias, depthwise, shift, inside, out, there, channels, WIDEN: tl.constexpr,
):  # fmt: skip
    """What a row's pixels, one to the side by shift - 1, add to the depthwise convolution of the row above it, its own
    and the one below; the channels `out`.  rows: [pixels, channels]; weights, bias: of the expansion before it."""
    wide = product(rows, weights, bias, WIDEN)
    wide = tl.where(inside[:, None], wide, 0.0).to(rows.dtype).to(tl.float32)
    taps = depthwise + shift * (2 * channels) + out
    below += wide * tl.load(taps, mask=there, other=0.0).to(tl.float32)
    here += wide * tl.load(taps + 6 * channels, mask=there, other=0.0).to(tl.float32)
    above += wide * tl.load(taps + 12 * channels, mask=there, other=0.0).to(tl.float32)
    return above, here, below


@triton.jit
def front_kernel(
    x, expand, expand_bias, depthwise, depthwise_bias, y, sums,
    height, width, rows_of_tiles, tiles_of_row, channels, epsilon,
    HAS_BIAS: tl.constexpr, WIDEN: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program takes a tile and BLOCK channels of g, left and right of the gate."""
    tile = tl.program_id(0) % (rows_of_tiles * tiles_of_row)
    image = (tl.program_id(0) // (rows_of_tiles * tiles_of_row)).to(tl.int64)
    top = tile // tiles_of_row * TILE_HEIGHT
    column = tile % tiles_of_row * TILE_WIDTH + tl.arange(0, TILE_WIDTH)
    channel = tl.arange(0, BLOCK_CHANNELS)
    held = channel < channels
    out = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = out < channels
    left_weights = _weights(expand, channel, held, out, there, channels)
    right_weights = _weights(expand, channel, held, out + channels, there, channels)
    left_bias = _shifted(expand_bias, out, there, HAS_BIAS, TILE_WIDTH, BLOCK)
    right_bias = _shifted(expand_bias, out + channels, there, HAS_BIAS, TILE_WIDTH, BLOCK)
    left_begin = _shifted(depthwise_bias, out, there, HAS_BIAS, TILE_WIDTH, BLOCK)
    right_begin = _shifted(depthwise_bias, out + channels, there, HAS_BIAS, TILE_WIDTH, BLOCK)
    left_above, left_here = left_begin, left_begin
    right_above, right_here = right_begin, right_begin
    total = tl.zeros((BLOCK,), tl.float32)
    for number in range(top - 1, tl.minimum(top + TILE_HEIGHT, height) + 1):
        row = tl.zeros((TILE_WIDTH,), tl.int32) + number
        left_below, right_below = left_begin, right_begin
        for shift in tl.static_range(3):
            place, inside = edge_pixel(row, column + (shift - 1), height, width, 0)
            source = x + (image * height * width + place)[:, None] * channels + channel
            pixels = tl.load(source, mask=inside[:, None] & held, other=0.0).to(tl.float32)
            pixels = normalised(pixels, held, channels, epsilon, True).to(x.dtype.element_ty)
            left_above, left_here, left_below = _add_row(
                left_above, left_here, left_below, pixels, left_weights, left_bias, depthwise, shift, inside, out,
                there, channels, WIDEN)  # fmt: skip
            right_above, right_here, right_below = _add_row(
                right_above, right_here, right_below, pixels, right_weights, right_bias, depthwise, shift, inside,
                out + channels, there, channels, WIDEN)  # fmt: skip
        gated = left_above * right_above
        target = ((image * height + (row - 1)) * width + column)[:, None] * channels + out
        kept = ((row > top) & (column < width))[:, None] & there
        tl.store(y + target, gated.to(y.dtype.element_ty), mask=kept)
        total += tl.sum(tl.where(kept, gated, 0.0), 0)
        left_above, left_here = left_here, left_below
        right_above, right_here = right_here, right_below
    tl.store(sums + tl.program_id(0).to(tl.int64) * channels + out, total, mask=there)


@triton.jit
def back_kernel(
    gated, scale, x, project, project_bias, expand, expand_bias, contract, contract_bias, y,
    pixels, channels, epsilon,
    HAS_BIAS: tl.constexpr, WIDEN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """gated, x, y: [N, pixels, channels]; scale: [N, channels].  BLOCK channels of what is multiplied at a time."""
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    image = tl.program_id(1).to(tl.int64)
    place = (image * pixels + pixel)[:, None] * channels
    channel = tl.arange(0, BLOCK_CHANNELS)
    held = channel < channels
    kept = (pixel < pixels)[:, None]
    sums = tl.load(x + place + channel, mask=kept & held, other=0.0).to(tl.float32)
    sums += _shifted(project_bias, channel, held, HAS_BIAS, BLOCK_PIXELS, BLOCK_CHANNELS)
    for first in range(0, channels, BLOCK):
        part = first + tl.arange(0, BLOCK)
        there = part < channels
        value = tl.load(gated + place + part, mask=kept & there, other=0.0).to(tl.float32)
        value *= tl.load(scale + image * channels + part, mask=there, other=0.0).to(tl.float32)
        value = value.to(gated.dtype.element_ty)
        sums = product(value, _weights(project, part, there, channel, held, channels), sums, WIDEN)
    rows = normalised(sums, held, channels, epsilon, True).to(x.dtype.element_ty)
    sums += _shifted(contract_bias, channel, held, HAS_BIAS, BLOCK_PIXELS, BLOCK_CHANNELS)
    for first in range(0, channels, BLOCK):
        part = first + tl.arange(0, BLOCK)
        there = part < channels
        left = _shifted(expand_bias, part, there, HAS_BIAS, BLOCK_PIXELS, BLOCK)
        left = product(rows, _weights(expand, channel, held, part, there, channels), left, WIDEN)
        right = _shifted(expand_bias, part + channels, there, HAS_BIAS, BLOCK_PIXELS, BLOCK)
        right = product(rows, _weights(expand, channel, held, part + channels, there, channels), right, WIDEN)
        value = (left * right).to(x.dtype.element_ty)
        sums = product(value, _weights(contract, part, there, channel, held, channels), sums, WIDEN)
    tl.store(y + place + channel, sums.to(y.dtype.element_ty), mask=kept & held)


def _front_fits(blocks: dict[str, int], given: dict[str, int]) -> bool:
    return blocks["BLOCK"] <= given["BLOCK_CHANNELS"]


def _back_fits(blocks: dict[str, int], given: dict[str, int]) -> bool:
    """Blocks whose sums registers hold, and slices that are no more than there is."""
    wide = given["BLOCK_CHANNELS"]
    return blocks["BLOCK_PIXELS"] * wide <= 1 << 14 and blocks["BLOCK"] <= wide


tuned_front = tuned(front_kernel, FRONT_CONFIGS, ["height", "width", "channels"], _front_fits)
tuned_back = tuned(back_kernel, BACK_CONFIGS, ["pixels", "channels"], _back_fits)


class Front(NamedTuple):
    """Of one type: expand [2 C, C], depthwise [9, 2 C]; biases float32 [2 C], both or neither."""

    expand: Tensor
    depthwise: Tensor
    expand_bias: Tensor | None = None
    depthwise_bias: Tensor | None = None


class Back(NamedTuple):
    """Of one type: project [C, C], expand [2 C, C], contract [C, C]; biases float32, all or none."""

    project: Tensor
    expand: Tensor
    contract: Tensor
    project_bias: Tensor | None = None
    expand_bias: Tensor | None = None
    contract_bias: Tensor | None = None


def _tiles(x: Tensor) -> tuple[int, int]:
    return triton.cdiv(x.shape[1], TILE_HEIGHT), triton.cdiv(x.shape[2], TILE_WIDTH)


def front_tiles(x: Tensor) -> int:
    """How many sums there are of each image and channel."""
    rows, columns = _tiles(x)
    return rows * columns


def front(x: Tensor, block: Front, epsilon: float, y: Tensor, sums: Tensor) -> None:
    """x, y: [N, H, W, C] dense, C at most 256; sums: float32 [N, front_tiles(x), C], for
    statistics.mean_of_sums; y and sums are written."""
    n, height, width, channels = x.shape
    if x.numel() == 0:
        return
    rows, columns = _tiles(x)
    has_bias = block.expand_bias is not None
    expand_bias, depthwise_bias = (block.expand_bias, block.depthwise_bias) if has_bias else (sums, sums)
    tuned_front[lambda sizes: (n * rows * columns, triton.cdiv(channels, sizes["BLOCK"]))](
        x, block.expand, expand_bias, block.depthwise, depthwise_bias, y, sums,
        height, width, rows, columns, channels, epsilon,
        HAS_BIAS=has_bias,
        WIDEN=widens(x.dtype),
        TILE_HEIGHT=TILE_HEIGHT,
        TILE_WIDTH=TILE_WIDTH,
        BLOCK_CHANNELS=max(16, triton.next_power_of_2(channels)),
    )  # fmt: skip


def back(gated: Tensor, scale: Tensor, x: Tensor, block: Back, epsilon: float, y: Tensor) -> None:
    """gated, x, y: [N, H, W, C] dense, C at most 256; scale: [N, C]; y is written."""
    n, height, width, channels = x.shape
    if x.numel() == 0:
        return
    pixels, has_bias = height * width, block.project_bias is not None
    biases = block[3:] if has_bias else (scale,) * 3
    tuned_back[lambda sizes: (triton.cdiv(pixels, sizes["BLOCK_PIXELS"]), n)](
        gated, scale, x, block.project, biases[0], block.expand, biases[1], block.contract, biases[2], y,
        pixels, channels, epsilon,
        HAS_BIAS=has_bias,
        WIDEN=widens(x.dtype),
        BLOCK_CHANNELS=max(16, triton.next_power_of_2(channels)),
    )  # fmt: skip
