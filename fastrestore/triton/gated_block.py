"""NAFNet's block in two kernels, split where it needs the mean of the whole picture:

    front: g = gate(depthwise3x3(expand(norm(x)))), and sums of g        back: y = x + project(g * scale)
                                                                               z = y + contract(gate(expand(norm(y))))

gate(a, b) = a * b of the two halves of the channels; the norms are plain: what they scale and shift by is part of the
weights and biases that follow.  A tile's values never leave the chip; the front finds a pixel's neighbours among them.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from fastrestore.triton import widens
from fastrestore.triton.common import product, tuned
from fastrestore.triton.layer_norm import normalised

FRONT_CONFIGS = (
    {"BLOCK": 16, "num_warps": 4, "num_stages": 2},
    {"BLOCK": 16, "num_warps": 8, "num_stages": 2},
    {"BLOCK": 32, "num_warps": 8, "num_stages": 2},
    {"BLOCK": 64, "num_warps": 8, "num_stages": 1},
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
def _pointwise(rows, weight, sums, channel, held, out, there, channels, WIDEN: tl.constexpr):
    """sums plus a 1x1 convolution of rows [pixels, channels] to the channels `out`.  weight: [outputs, channels]."""
    weights = tl.load(weight + out * channels + channel[:, None], mask=held[:, None] & there, other=0.0)
    return product(rows, weights, sums, WIDEN)


@triton.jit
def _deepened(
    rows, expand, expand_bias, depthwise, depthwise_bias, channel, held, out, there, inside, channels,
    HAS_BIAS: tl.constexpr, WIDEN: tl.constexpr, PIXELS: tl.constexpr, TILE_WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """depthwise3x3(expand(rows)), the channels `out`, of a tile's pixels; of the outermost anything."""
    wide = _shifted(expand_bias, out, there, HAS_BIAS, PIXELS, BLOCK)
    wide = _pointwise(rows, expand, wide, channel, held, out, there, channels, WIDEN)
    wide = tl.where(inside[:, None], wide, 0.0).to(rows.dtype)
    pixel = tl.arange(0, PIXELS)
    sums = _shifted(depthwise_bias, out, there, HAS_BIAS, PIXELS, BLOCK)
    for tap in tl.static_range(9):
        near = pixel + (tap // 3 - 1) * TILE_WIDTH + tap % 3 - 1
        near = tl.minimum(tl.maximum(near, 0), PIXELS - 1)
        values = tl.gather(wide, tl.broadcast_to(near[:, None], (PIXELS, BLOCK)), 0)
        weight = tl.load(depthwise + tap * (2 * channels) + out, mask=there, other=0.0)
        sums += values.to(tl.float32) * weight.to(tl.float32)
    return sums


@triton.jit
def front_kernel(
    x, expand, expand_bias, depthwise, depthwise_bias, y, sums,
    height, width, rows_of_tiles, tiles_of_row, channels, epsilon,
    HAS_BIAS: tl.constexpr, WIDEN: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program takes a tile, whose outermost pixels are there for their neighbours; BLOCK channels of g at a time."""
    PIXELS: tl.constexpr = TILE_HEIGHT * TILE_WIDTH
    tile = tl.program_id(0) % (rows_of_tiles * tiles_of_row)
    image = (tl.program_id(0) // (rows_of_tiles * tiles_of_row)).to(tl.int64)
    down = tl.arange(0, PIXELS) // TILE_WIDTH
    right = tl.arange(0, PIXELS) % TILE_WIDTH
    row = tile // tiles_of_row * (TILE_HEIGHT - 2) - 1 + down
    column = tile % tiles_of_row * (TILE_WIDTH - 2) - 1 + right
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    inner = (down > 0) & (down < TILE_HEIGHT - 1) & (right > 0) & (right < TILE_WIDTH - 1)
    place = ((image * height + row) * width + column)[:, None] * channels
    channel = tl.arange(0, BLOCK_CHANNELS)
    held = channel < channels
    image_rows = tl.load(x + place + channel, mask=inside[:, None] & held, other=0.0)
    rows = normalised(image_rows.to(tl.float32), held, channels, epsilon, True).to(x.dtype.element_ty)
    for first in range(0, channels, BLOCK):
        out = first + tl.arange(0, BLOCK)
        there = out < channels
        gated = _deepened(
            rows, expand, expand_bias, depthwise, depthwise_bias, channel, held, out, there, inside, channels,
            HAS_BIAS, WIDEN, PIXELS, TILE_WIDTH, BLOCK)  # fmt: skip
        gated *= _deepened(
            rows, expand, expand_bias, depthwise, depthwise_bias, channel, held, out + channels, there, inside,
            channels, HAS_BIAS, WIDEN, PIXELS, TILE_WIDTH, BLOCK)  # fmt: skip
        kept = (inside & inner)[:, None] & there
        tl.store(y + place + out, gated.to(y.dtype.element_ty), mask=kept)
        total = tl.sum(tl.where(kept, gated, 0.0), 0)
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
        sums = _pointwise(value, project, sums, part, there, channel, held, channels, WIDEN)
    rows = normalised(sums, held, channels, epsilon, True).to(x.dtype.element_ty)
    sums += _shifted(contract_bias, channel, held, HAS_BIAS, BLOCK_PIXELS, BLOCK_CHANNELS)
    for first in range(0, channels, BLOCK):
        part = first + tl.arange(0, BLOCK)
        there = part < channels
        left = _shifted(expand_bias, part, there, HAS_BIAS, BLOCK_PIXELS, BLOCK)
        left = _pointwise(rows, expand, left, channel, held, part, there, channels, WIDEN)
        right = _shifted(expand_bias, part + channels, there, HAS_BIAS, BLOCK_PIXELS, BLOCK)
        right = _pointwise(rows, expand, right, channel, held, part + channels, there, channels, WIDEN)
        value = (left * right).to(x.dtype.element_ty)
        sums = _pointwise(value, contract, sums, part, there, channel, held, channels, WIDEN)
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


def _tile_of(x: Tensor) -> tuple[int, int]:
    """Height and width in pixels, the outermost among them: what the shared memory of a small GPU holds of them."""
    return (16, 16) if x.shape[3] * x.element_size() <= 256 else (8, 16)


def _tiles(x: Tensor) -> tuple[int, int]:
    (tile_height, tile_width), (_, height, width, _) = _tile_of(x), x.shape
    return triton.cdiv(height, tile_height - 2), triton.cdiv(width, tile_width - 2)


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
    (tile_height, tile_width), (rows, columns) = _tile_of(x), _tiles(x)
    has_bias = block.expand_bias is not None
    expand_bias, depthwise_bias = (block.expand_bias, block.depthwise_bias) if has_bias else (sums, sums)
    tuned_front[lambda _: (n * rows * columns,)](
        x, block.expand, expand_bias, block.depthwise, depthwise_bias, y, sums,
        height, width, rows, columns, channels, epsilon,
        HAS_BIAS=has_bias,
        WIDEN=widens(x.dtype),
        TILE_HEIGHT=tile_height,
        TILE_WIDTH=tile_width,
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
