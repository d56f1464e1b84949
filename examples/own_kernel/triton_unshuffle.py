"""Pixel unshuffle by 2 in Triton, for `fastrestore bench own`, on a GPU or, for its answer alone, interpreted.

fastrestore bench own examples/own_kernel/triton_unshuffle.py
TRITON_INTERPRET=1 fastrestore bench own examples/own_kernel/triton_unshuffle.py
"""

import triton
import triton.language as tl

from fastrestore.bench.own import kernel

BLOCK = 1024


@triton.jit
def _unshuffle(x, out, total, height, width, channels, block: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < total
    # A pixel of the result holds [channel][row of the cell][column of the cell].
    column_in, row_in, channel = place % 2, place // 2 % 2, place // 4 % channels
    pixel = place // (4 * channels)
    row, column = pixel // (width // 2) * 2 + row_in, pixel % (width // 2) * 2 + column_in
    tl.store(out + place, tl.load(x + (row * width + column) * channels + channel, inside), inside)


@kernel("pixel_unshuffle", device="cuda")
def triton_unshuffle(x, out):
    height, width, channels = x.shape
    total = x.numel()
    _unshuffle[(triton.cdiv(total, BLOCK),)](x, out, total, height, width, channels, block=BLOCK)
