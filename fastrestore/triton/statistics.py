"""Means by channel over whole images, in two steps, each in an order that depends on the image's size alone."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_PIXELS, BLOCK_PARTS, BLOCK_CHANNELS = 64, 32, 64
MOST_PARTS = 512  # of an image, about


@triton.jit
def sums_kernel(
    x, sums, pixels, part, parts, channels, BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr
):  # fmt: skip
    """x: [N, pixels, C]; sums: [N, parts, C], of `part` pixels each."""
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    held = channel < channels
    image = (tl.program_id(0) // parts).to(tl.int64)
    begin = tl.program_id(0) % parts * part
    end = tl.minimum(begin + part, pixels)
    sum = tl.zeros((BLOCK_CHANNELS,), tl.float32)
    for first in range(begin, end, BLOCK_PIXELS):
        pixel = first + tl.arange(0, BLOCK_PIXELS)
        source = x + (image * pixels + pixel)[:, None] * channels + channel
        sum += tl.sum(tl.load(source, mask=(pixel < end)[:, None] & held, other=0.0).to(tl.float32), 0)
    tl.store(sums + tl.program_id(0).to(tl.int64) * channels + channel, sum, mask=held)


@triton.jit
def mean_kernel(
    sums, y, parts, pixels, channels, BLOCK_PARTS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr
):  # fmt: skip
    """sums: [N, parts, C]; y: [N, C]."""
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    held = channel < channels
    image = tl.program_id(0).to(tl.int64)
    sum = tl.zeros((BLOCK_CHANNELS,), tl.float32)
    for first in range(0, parts, BLOCK_PARTS):
        part = first + tl.arange(0, BLOCK_PARTS)
        source = sums + (image * parts + part)[:, None] * channels + channel
        sum += tl.sum(tl.load(source, mask=(part < parts)[:, None] & held, other=0.0), 0)
    tl.store(y + image * channels + channel, (sum / pixels).to(y.dtype.element_ty), mask=held)


def part_of(pixels: int) -> int:
    """How many pixels of an image one program takes."""
    return max(1024, triton.next_power_of_2(triton.cdiv(pixels, MOST_PARTS)))


def mean_of_sums(sums: Tensor, y: Tensor, pixels: int) -> None:
    """sums: float32 [N, parts, C], of images of so many pixels; y: [N, C], written."""
    n, parts, channels = sums.shape
    if n > 0:
        mean_kernel[(n, triton.cdiv(channels, BLOCK_CHANNELS))](
            sums, y, parts, pixels, channels, BLOCK_PARTS=BLOCK_PARTS, BLOCK_CHANNELS=BLOCK_CHANNELS
        )


def mean(x: Tensor, y: Tensor) -> None:
    """x: [N, H, W, C] dense, with at least one pixel; y: [N, C], written."""
    n, height, width, channels = x.shape
    pixels, part = height * width, part_of(height * width)
    parts = triton.cdiv(pixels, part)
    sums = torch.empty((n, parts, channels), dtype=torch.float32, device=x.device)
    if n > 0:
        sums_kernel[(n * parts, triton.cdiv(channels, BLOCK_CHANNELS))](
            x, sums, pixels, part, parts, channels, BLOCK_PIXELS=BLOCK_PIXELS, BLOCK_CHANNELS=BLOCK_CHANNELS
        )
    mean_of_sums(sums, y, pixels)
