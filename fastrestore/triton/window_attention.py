"""Attention within windows of up to 8 x 8 pixels; windows, shift and distances are arithmetic on indices."""

import triton
import triton.language as tl
from torch import Tensor

from fastrestore.triton import widens
from fastrestore.triton.common import product

TOKENS = 64  # of the largest window


@triton.jit
def kernel(
    qkv, bias, y,
    height, width, heads, rows, columns, first, factor,
    SIDE: tl.constexpr, DEPTH: tl.constexpr, BLOCK_DEPTH: tl.constexpr, TOKENS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """A program takes one head of one window.  qkv: [N, H, W, 3 * heads * DEPTH]; bias: [heads, (2 SIDE - 1)^2].

    rows, columns: windows of an image, the first of which begins at pixel `first`, at most 0, each way.
    """
    head = tl.program_id(0) % heads
    window = tl.program_id(0) // heads
    image = (window // (rows * columns)).to(tl.int64)
    top = first + window // columns % rows * SIDE
    left = first + window % columns * SIDE
    token = tl.arange(0, TOKENS)
    row = top + token // SIDE
    column = left + token % SIDE
    inside = (token < SIDE * SIDE) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    depth = tl.arange(0, BLOCK_DEPTH)
    pixel = (image * height + row) * width + column
    source = qkv + (pixel * (3 * heads * DEPTH) + head * DEPTH)[:, None] + depth[None, :]
    held = inside[:, None] & (depth < DEPTH)[None, :]
    q = tl.load(source, mask=held, other=0.0)
    k = tl.load(source + heads * DEPTH, mask=held, other=0.0)
    v = tl.load(source + 2 * heads * DEPTH, mask=held, other=0.0)
    scores = product(q, tl.trans(k), tl.zeros((TOKENS, TOKENS), tl.float32), WIDEN) * factor
    down = token[:, None] // SIDE - token[None, :] // SIDE + SIDE - 1
    right = token[:, None] % SIDE - token[None, :] % SIDE + SIDE - 1
    pairs = (token < SIDE * SIDE)[:, None] & (token < SIDE * SIDE)[None, :]
    scores += tl.load(bias + (head * (2 * SIDE - 1) + down) * (2 * SIDE - 1) + right, mask=pairs, other=0.0)
    scores = tl.where(inside[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    result = product(weights.to(v.dtype), v, tl.zeros((TOKENS, BLOCK_DEPTH), tl.float32), WIDEN)
    target = y + (pixel * (heads * DEPTH) + head * DEPTH)[:, None] + depth[None, :]
    tl.store(target, result.to(y.dtype.element_ty), mask=held)


def window_attention(qkv: Tensor, bias: Tensor, y: Tensor, heads: int, side: int, shift: int, scale: float) -> None:
    """qkv: [N, H, W, 3 C] dense; bias: float32 [heads, (2 side - 1)^2]; y: [N, H, W, C], written."""
    n, height, width, channels = y.shape
    if y.numel() == 0:
        return
    first = shift - side if shift else 0
    rows, columns = triton.cdiv(height - first, side), triton.cdiv(width - first, side)
    depth = channels // heads
    kernel[(n * rows * columns * heads,)](
        qkv, bias, y, height, width, heads, rows, columns, first, scale,
        SIDE=side,
        DEPTH=depth,
        BLOCK_DEPTH=max(16, triton.next_power_of_2(depth)),
        TOKENS=TOKENS,
        WIDEN=widens(qkv.dtype),
        num_warps=4,
    )  # fmt: skip
