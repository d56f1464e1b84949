"""act(conv(x, weight) + bias [+ residual]) * scale [+ residual] as an implicit matrix product; transposed, too."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from fastrestore.triton import widens
from fastrestore.triton.common import EDGES, edge_pixel, gelu, product, tuned

CONFIGS = (
    {"BLOCK_PIXELS": 64, "BLOCK_OUT": 64, "BLOCK_IN": 32, "num_warps": 4, "num_stages": 4},
    {"BLOCK_PIXELS": 128, "BLOCK_OUT": 64, "BLOCK_IN": 64, "num_warps": 4, "num_stages": 3},
    {"BLOCK_PIXELS": 128, "BLOCK_OUT": 128, "BLOCK_IN": 32, "num_warps": 8, "num_stages": 3},
    {"BLOCK_PIXELS": 256, "BLOCK_OUT": 32, "BLOCK_IN": 32, "num_warps": 8, "num_stages": 3},
    {"BLOCK_PIXELS": 128, "BLOCK_OUT": 16, "BLOCK_IN": 16, "num_warps": 4, "num_stages": 3},
)


class Epilogue(NamedTuple):
    """What follows the products.  slope: of negative values; 1 is the identity, 0 relu; of no account with gelu."""

    slope: float = 1.0
    scale: float = 1.0
    residual_first: bool = False
    gelu: bool = False

    def constants(self, bias: Tensor | None, residual: Tensor | None) -> dict[str, int | bool]:
        """What a kernel is told of it."""
        added = 0 if residual is None else 1 if self.residual_first else 2
        return {"HAS_BIAS": bias is not None, "RESIDUAL": added, "GELU": self.gelu}


def launch(
    kernel: Any,
    grid: Any,
    tensors: Sequence[Tensor | None],
    sizes: Sequence[int],
    epilogue: Epilogue,
    geometry: Sequence[tuple[int, int]],
    **constants: int | bool,
) -> None:
    """Launches a convolution's kernel.  tensors: x, weight, bias, residual and y; geometry: kernel, stride, ..."""
    x, weight, bias, residual, y = tensors
    kernel[grid](
        x, weight, x if bias is None else bias, x if residual is None else residual, y,
        *sizes, epilogue.slope, epilogue.scale, *(side for pair in geometry for side in pair),
        **constants, **epilogue.constants(bias, residual),
    )  # fmt: skip


@triton.jit
def finish(
    sums, bias, residual, y, target, kept, out, held, slope, scale,
    HAS_BIAS: tl.constexpr, RESIDUAL: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    """The end of every convolution: writes sums to y.  NaN stays NaN.

    sums, target, kept: [pixels, channels]; out, held: [channels].  RESIDUAL: 0 none, 1 before the activation, 2 after
    the scale.
    """
    if HAS_BIAS:
        sums += tl.load(bias + out, mask=held, other=0.0)[None, :]
    if RESIDUAL == 1:
        sums += tl.load(residual + target, mask=kept, other=0.0).to(tl.float32)
    if GELU:
        sums = gelu(sums)
    else:
        low = tl.where(slope == 0.0, 0.0, sums * slope)
        sums = tl.where(sums < 0.0, low, sums)
    sums = sums * scale
    if RESIDUAL == 2:
        sums += tl.load(residual + target, mask=kept, other=0.0).to(tl.float32)
    tl.store(y + target, sums.to(y.dtype.element_ty), mask=kept)


@triton.jit
def add_tap(
    sums, x, weight, source, inside, tap, out, in_channels, out_channels,
    WIDEN: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """sums with the products of one tap.  source, inside: [pixels], of x; tap: the number of its weights."""
    for first in range(0, in_channels, BLOCK_IN):
        channel = first + tl.arange(0, BLOCK_IN)
        held = channel < in_channels
        a = tl.load(x + (source * in_channels)[:, None] + channel, mask=inside[:, None] & held, other=0.0)
        b = tl.load(
            weight + (tap * out_channels + out) * in_channels + channel[:, None],
            mask=held[:, None] & (out < out_channels),
            other=0.0,
        )
        sums = product(a, b, sums, WIDEN)
    return sums


@triton.jit
def kernel(
    x, weight, bias, residual, y,
    pixels, height, width, out_height, out_width, in_channels, out_channels, slope, scale,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_TOP: tl.constexpr, PAD_LEFT: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    EDGE: tl.constexpr, HAS_BIAS: tl.constexpr, RESIDUAL: tl.constexpr, GELU: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """x: [N, H, W, in]; weight: [KERNEL_H * KERNEL_W, out, in]; residual and y: [N, out H, out W, out].

    pixels: of y.
    """
    parts = tl.cdiv(out_channels, BLOCK_OUT)
    pixel = tl.program_id(0) // parts * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    out = tl.program_id(0) % parts * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    column = pixel % out_width
    row = pixel // out_width % out_height
    image = (pixel // (out_width * out_height)).to(tl.int64)
    sums = tl.zeros((BLOCK_PIXELS, BLOCK_OUT), tl.float32)
    for tap in range(KERNEL_H * KERNEL_W):
        in_row = row * STRIDE_H - PAD_TOP + tap // KERNEL_W * DILATION_H
        in_column = column * STRIDE_W - PAD_LEFT + tap % KERNEL_W * DILATION_W
        place, inside = edge_pixel(in_row, in_column, height, width, EDGE)
        source, inside = image * height * width + place, inside & (pixel < pixels)
        sums = add_tap(sums, x, weight, source, inside, tap, out, in_channels, out_channels, WIDEN, BLOCK_IN)
    held = out < out_channels
    target = pixel.to(tl.int64)[:, None] * out_channels + out
    kept = (pixel < pixels)[:, None] & held
    finish(sums, bias, residual, y, target, kept, out, held, slope, scale, HAS_BIAS, RESIDUAL, GELU)


@triton.jit
def transposed_kernel(
    x, weight, bias, residual, y,
    images, height, width, out_height, out_width, in_channels, out_channels, slope, scale,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_TOP: tl.constexpr, PAD_LEFT: tl.constexpr,
    HAS_BIAS: tl.constexpr, RESIDUAL: tl.constexpr, GELU: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """As above, transposed.  The pixels of y that lie STRIDE apart meet the same taps: they are a phase, of which there
    are STRIDE_H * STRIDE_W, the second axis of programs."""
    phase_h = tl.program_id(1) // STRIDE_W
    phase_w = tl.program_id(1) % STRIDE_W
    columns = tl.cdiv(out_width, STRIDE_W)
    rows = tl.cdiv(out_height, STRIDE_H)
    parts = tl.cdiv(out_channels, BLOCK_OUT)
    pixel = tl.program_id(0) // parts * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    out = tl.program_id(0) % parts * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    row = (phase_h + STRIDE_H - PAD_TOP % STRIDE_H) % STRIDE_H + pixel // columns % rows * STRIDE_H
    column = (phase_w + STRIDE_W - PAD_LEFT % STRIDE_W) % STRIDE_W + pixel % columns * STRIDE_W
    image = (pixel // (columns * rows)).to(tl.int64)
    there = (image < images) & (row < out_height) & (column < out_width)
    sums = tl.zeros((BLOCK_PIXELS, BLOCK_OUT), tl.float32)
    for tap_h in range(phase_h, KERNEL_H, STRIDE_H):
        for tap_w in range(phase_w, KERNEL_W, STRIDE_W):
            in_row = (row + PAD_TOP - tap_h) // STRIDE_H
            in_column = (column + PAD_LEFT - tap_w) // STRIDE_W
            place, inside = edge_pixel(in_row, in_column, height, width, 0)
            source, inside, tap = image * height * width + place, inside & there, tap_h * KERNEL_W + tap_w
            sums = add_tap(sums, x, weight, source, inside, tap, out, in_channels, out_channels, WIDEN, BLOCK_IN)
    held = out < out_channels
    target = ((image * out_height + row) * out_width + column)[:, None] * out_channels + out
    finish(sums, bias, residual, y, target, there[:, None] & held, out, held, slope, scale, HAS_BIAS, RESIDUAL, GELU)


def _fits(blocks: dict[str, int], given: dict[str, int]) -> bool:
    """Blocks that are not mostly padding."""
    return blocks["BLOCK_OUT"] < 2 * max(16, given["out_channels"]) and blocks["BLOCK_IN"] < 2 * max(
        16, given["in_channels"]
    )


KEY = ["out_height", "out_width", "in_channels", "out_channels", "KERNEL_H", "STRIDE_H"]
tuned_kernel = tuned(kernel, CONFIGS, KEY, _fits)
tuned_transposed = tuned(transposed_kernel, CONFIGS, KEY, _fits)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    y: Tensor,
    epilogue: Epilogue,
    *,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    edge: str = "zero",
) -> None:
    """x: [N, H, W, in]; weight: [taps, out, in]; bias: float32 [out]; residual: y's shape; y is written.

    All dense, x, weight, residual and y of one type.  edge: what lies outside of x; see EDGES.
    """
    n, height, width, in_channels = x.shape
    _, out_height, out_width, out_channels = y.shape
    pixels = n * out_height * out_width
    if pixels == 0:
        return

    def grid(sizes: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(pixels, sizes["BLOCK_PIXELS"]) * triton.cdiv(out_channels, sizes["BLOCK_OUT"]),)

    sizes = (pixels, height, width, out_height, out_width, in_channels, out_channels)
    geometry = (kernel_size, stride, padding, dilation)
    tensors = (x, weight, bias, residual, y)
    launch(tuned_kernel, grid, tensors, sizes, epilogue, geometry, EDGE=EDGES[edge], WIDEN=widens(x.dtype))


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    y: Tensor,
    epilogue: Epilogue,
    *,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> None:
    """As conv2d; y's size may be any that the transposed convolution can have, with output padding or without."""
    n, height, width, in_channels = x.shape
    _, out_height, out_width, out_channels = y.shape
    if y.numel() == 0:
        return
    pixels = n * triton.cdiv(out_height, stride[0]) * triton.cdiv(out_width, stride[1])

    def grid(sizes: dict[str, int]) -> tuple[int, int]:
        blocks = triton.cdiv(pixels, sizes["BLOCK_PIXELS"]) * triton.cdiv(out_channels, sizes["BLOCK_OUT"])
        return blocks, stride[0] * stride[1]

    sizes = (n, height, width, out_height, out_width, in_channels, out_channels)
    tensors, geometry = (x, weight, bias, residual, y), (kernel_size, stride, padding)
    launch(tuned_transposed, grid, tensors, sizes, epilogue, geometry, WIDEN=widens(x.dtype))
