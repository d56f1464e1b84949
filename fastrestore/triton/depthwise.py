"""A convolution of each channel by itself, with conv2d's epilogue."""

import triton
import triton.language as tl
from torch import Tensor

from fastrestore.triton.common import EDGES, edge_pixel, tuned
from fastrestore.triton.conv2d import Epilogue, finish, launch

CONFIGS = (
    {"BLOCK_PIXELS": 64, "BLOCK_CHANNELS": 32, "num_warps": 4, "num_stages": 2},
    {"BLOCK_PIXELS": 32, "BLOCK_CHANNELS": 64, "num_warps": 4, "num_stages": 2},
    {"BLOCK_PIXELS": 32, "BLOCK_CHANNELS": 128, "num_warps": 8, "num_stages": 2},
    {"BLOCK_PIXELS": 128, "BLOCK_CHANNELS": 16, "num_warps": 4, "num_stages": 2},
)


@triton.jit
def kernel(
    x, weight, bias, residual, y,
    pixels, height, width, out_height, out_width, channels, slope, scale,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_TOP: tl.constexpr, PAD_LEFT: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    EDGE: tl.constexpr, HAS_BIAS: tl.constexpr, RESIDUAL: tl.constexpr, GELU: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """x: [N, H, W, C]; weight: [KERNEL_H * KERNEL_W, C]; residual and y: [N, out H, out W, C].  pixels: of y."""
    parts = tl.cdiv(channels, BLOCK_CHANNELS)
    pixel = tl.program_id(0) // parts * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    channel = tl.program_id(0) % parts * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    held = channel < channels
    column = pixel % out_width
    row = pixel // out_width % out_height
    image = (pixel // (out_width * out_height)).to(tl.int64)
    sums = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for tap in range(KERNEL_H * KERNEL_W):
        in_row = row * STRIDE_H - PAD_TOP + tap // KERNEL_W * DILATION_H
        in_column = column * STRIDE_W - PAD_LEFT + tap % KERNEL_W * DILATION_W
        place, inside = edge_pixel(in_row, in_column, height, width, EDGE)
        source, inside = (image * height * width + place)[:, None] * channels, (inside & (pixel < pixels))[:, None]
        value = tl.load(x + source + channel, mask=inside & held, other=0.0).to(tl.float32)
        sums += value * tl.load(weight + tap * channels + channel, mask=held, other=0.0).to(tl.float32)
    target = pixel.to(tl.int64)[:, None] * channels + channel
    kept = (pixel < pixels)[:, None] & held
    finish(sums, bias, residual, y, target, kept, channel, held, slope, scale, HAS_BIAS, RESIDUAL, GELU)


def _fits(blocks: dict[str, int], given: dict[str, int]) -> bool:
    return blocks["BLOCK_CHANNELS"] < 2 * max(16, given["channels"])


KEY = ["out_height", "out_width", "channels", "KERNEL_H", "STRIDE_H"]
tuned_kernel = tuned(kernel, CONFIGS, KEY, _fits)


def depthwise(
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
    """x: [N, H, W, C]; weight: [taps, C]; bias: float32 [C]; residual: y's shape; y is written.  All dense."""
    n, height, width, channels = x.shape
    _, out_height, out_width, _ = y.shape
    pixels = n * out_height * out_width
    if pixels == 0:
        return

    def grid(sizes: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(pixels, sizes["BLOCK_PIXELS"]) * triton.cdiv(channels, sizes["BLOCK_CHANNELS"]),)

    sizes, geometry = (pixels, height, width, out_height, out_width, channels), (kernel_size, stride, padding, dilation)
    launch(tuned_kernel, grid, (x, weight, bias, residual, y), sizes, epilogue, geometry, EDGE=EDGES[edge])
