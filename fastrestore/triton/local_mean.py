"""Means over windows by channel, along columns and then along rows, at a cost that hardly grows with the window: a
program sums the first window of a run of pixels, and slides on from there."""

import torch
import triton
import triton.language as tl
from torch import Tensor

RUN, BLOCK_LINES, BLOCK_CHANNELS = 64, 8, 32


@triton.jit
def _added(sum, rest, value):
    """sum + value, and what rounding took from it added to `rest` (Knuth's two-sum)."""
    total = sum + value
    part = total - sum
    return total, rest + ((sum - (total - part)) + (value - part))


@triton.jit
def window_means_kernel(
    x, y, length, lines, channels, side, runs, image_pitch, line_pitch, pixel_pitch,
    RUN: tl.constexpr, BLOCK_LINES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Of images that are `lines` lines of `length` pixels, whose pitches are those of x and of y."""
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    groups = tl.cdiv(lines, BLOCK_LINES)
    line = tl.program_id(0) % groups * BLOCK_LINES + tl.arange(0, BLOCK_LINES)
    first = tl.program_id(0) // groups % runs * RUN + tl.zeros((BLOCK_LINES,), tl.int32)  # of every line
    image = (tl.program_id(0) // groups // runs).to(tl.int64)
    held = (line < lines)[:, None] & (channel < channels)
    place = image * image_pitch + line.to(tl.int64)[:, None] * line_pitch + channel
    source = x + place
    target = y + place
    most = length - side
    begin = tl.minimum(tl.maximum(first - (side - 1) // 2, 0), most)
    sum = tl.zeros((BLOCK_LINES, BLOCK_CHANNELS), tl.float32)
    rest = tl.zeros((BLOCK_LINES, BLOCK_CHANNELS), tl.float32)
    for i in range(0, side):
        value = tl.load(source + (begin + i).to(tl.int64)[:, None] * pixel_pitch, mask=held, other=0.0)
        sum, rest = _added(sum, rest, value.to(tl.float32))
    for i in range(0, RUN):
        pixel = first + i
        # The window moves by one pixel or, at an edge, not at all.
        moves = tl.minimum(tl.maximum(pixel - (side - 1) // 2, 0), most) - begin
        passed = held & (moves > 0)[:, None]
        enter = source + (begin + side).to(tl.int64)[:, None] * pixel_pitch
        leave = source + begin.to(tl.int64)[:, None] * pixel_pitch
        sum, rest = _added(sum, rest, tl.load(enter, mask=passed, other=0.0).to(tl.float32))
        sum, rest = _added(sum, rest, -tl.load(leave, mask=passed, other=0.0).to(tl.float32))
        begin += moves
        tl.store(
            target + pixel.to(tl.int64)[:, None] * pixel_pitch,
            ((sum + rest) / side).to(y.dtype.element_ty),
            mask=held & (pixel < length)[:, None],
        )


def local_mean(x: Tensor, y: Tensor, side: int) -> None:
    """x: [N, H, W, C] dense, with at least one value; y: the same, written.  As ops/local_mean.py says it."""
    n, height, width, channels = x.shape
    columns = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    for source, target, axis in ((x, columns, 1), (columns, y, 2)):
        length, lines = x.shape[axis], x.shape[3 - axis]
        runs = triton.cdiv(length, RUN)
        grid = n * runs * triton.cdiv(lines, BLOCK_LINES), triton.cdiv(channels, BLOCK_CHANNELS)
        window_means_kernel[grid](
            source, target, length, lines, channels, min(side, length), runs, height * width * channels,
            x.stride(3 - axis), x.stride(axis),
            RUN=RUN, BLOCK_LINES=BLOCK_LINES, BLOCK_CHANNELS=BLOCK_CHANNELS)  # fmt: skip
