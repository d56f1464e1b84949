"""Depth to space and back: pure movement of values."""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def kernel(x, y, count, height, width, channels, R: tl.constexpr, PACK: tl.constexpr, BLOCK: tl.constexpr):
    """height, width, channels: of y; PACK: y is the packed one.  count: values of y."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    kept = at < count
    c = at % channels
    column = at // channels % width
    row = at // (channels * width) % height
    image = at // (channels * width * height)
    if PACK:
        source = ((image * height + row) * R + c // R % R) * (width * R) + column * R + c % R
        source = source * (channels // (R * R)) + c // (R * R)
    else:
        source = (image * (height // R) + row // R) * (width // R) + column // R
        source = (source * channels + c) * (R * R) + row % R * R + column % R
    tl.store(y + at, tl.load(x + source, mask=kept), mask=kept)


def _run(x: Tensor, y: Tensor, r: int, pack: bool) -> None:
    if y.numel() > 0:
        _, height, width, channels = y.shape
        kernel[(triton.cdiv(y.numel(), 1024),)](x, y, y.numel(), height, width, channels, R=r, PACK=pack, BLOCK=1024)


def pixel_shuffle(x: Tensor, y: Tensor, r: int) -> None:
    """x: [N, H, W, C r r] dense; y: [N, H r, W r, C], written."""
    _run(x, y, r, False)


def pixel_unshuffle(x: Tensor, y: Tensor, r: int) -> None:
    """x: [N, H r, W r, C] dense; y: [N, H, W, C r r], written."""
    _run(x, y, r, True)
