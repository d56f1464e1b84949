"""act(conv(x, weight) + bias [+ residual]) * scale [+ residual] as an implicit matrix product."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrestore.triton import interpreted

CONFIGS = (
    {"BLOCK_PIXELS": 64, "BLOCK_OUT": 64, "BLOCK_IN": 32, "num_warps": 4, "num_stages": 4},
    {"BLOCK_PIXELS": 128, "BLOCK_OUT": 64, "BLOCK_IN": 64, "num_warps": 4, "num_stages": 3},
    {"BLOCK_PIXELS": 128, "BLOCK_OUT": 128, "BLOCK_IN": 32, "num_warps": 8, "num_stages": 3},
    {"BLOCK_PIXELS": 256, "BLOCK_OUT": 32, "BLOCK_IN": 32, "num_warps": 8, "num_stages": 3},
)


@triton.jit
def activated(v, slope, scale):
    """slope: of negative values; 1 is the identity, 0 relu.  NaN stays NaN."""
    low = tl.where(slope == 0.0, 0.0, v * slope)
    return tl.where(v < 0.0, low, v) * scale


@triton.jit
def kernel(
    x, weight, bias, residual, y,
    pixels, height, width, out_height, out_width, in_channels, out_channels,
    slope, scale,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_TOP: tl.constexpr, PAD_LEFT: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    HAS_BIAS: tl.constexpr, RESIDUAL: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """x: [N, H, W, in]; weight: [KERNEL_H * KERNEL_W, out, in]; residual and y: [N, out H, out W, out].

    pixels: of y.  RESIDUAL: 0 none, 1 before the activation, 2 after the scale.
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
        inside = (pixel < pixels) & (in_row >= 0) & (in_row < height) & (in_column >= 0) & (in_column < width)
        source = ((image * height + in_row) * width + in_column) * in_channels
        for first in range(0, in_channels, BLOCK_IN):
            channel = first + tl.arange(0, BLOCK_IN)
            held = channel < in_channels
            a = tl.load(x + source[:, None] + channel[None, :], mask=inside[:, None] & held[None, :], other=0.0)
            b = tl.load(
                weight + (tap * out_channels + out[None, :]) * in_channels + channel[:, None],
                mask=held[:, None] & (out < out_channels)[None, :],
                other=0.0,
            )
            if WIDEN:
                a = a.to(tl.float32)
                b = b.to(tl.float32)
            sums = tl.dot(a, b, sums, input_precision="ieee")
    kept = (pixel < pixels)[:, None] & (out < out_channels)[None, :]
    target = pixel.to(tl.int64)[:, None] * out_channels + out[None, :]
    if HAS_BIAS:
        sums += tl.load(bias + out, mask=out < out_channels, other=0.0)[None, :]
    if RESIDUAL == 1:
        sums += tl.load(residual + target, mask=kept, other=0.0).to(tl.float32)
    sums = activated(sums, slope, scale)
    if RESIDUAL == 2:
        sums += tl.load(residual + target, mask=kept, other=0.0).to(tl.float32)
    tl.store(y + target, sums.to(y.dtype.element_ty), mask=kept)


if interpreted():
    tuned = kernel
else:
    tuned = triton.autotune(
        [
            triton.Config(
                {name: size for name, size in config.items() if name.startswith("BLOCK")},
                num_warps=config["num_warps"],
                num_stages=config["num_stages"],
            )
            for config in CONFIGS
        ],
        key=["pixels", "in_channels", "out_channels", "KERNEL_H", "STRIDE_H"],
    )(kernel)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    y: Tensor,
    *,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    slope: float,
    scale: float,
    residual_first: bool,
) -> None:
    """x: [N, H, W, in]; weight: [taps, out, in]; bias: float32 [out]; residual: y's shape; y is written.

    All dense, x, weight, residual and y of one type.
    """
    n, height, width, in_channels = x.shape
    _, out_height, out_width, out_channels = y.shape
    pixels = n * out_height * out_width
    if pixels == 0:
        return
    blocks = {} if tuned is not kernel else {k: v for k, v in CONFIGS[0].items() if k.startswith("BLOCK")}

    def grid(sizes: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(pixels, sizes["BLOCK_PIXELS"]) * triton.cdiv(out_channels, sizes["BLOCK_OUT"]),)

    tuned[grid](
        x, weight, x if bias is None else bias, x if residual is None else residual, y,
        pixels, height, width, out_height, out_width, in_channels, out_channels, slope, scale,
        *kernel_size, *stride, *padding, *dilation,
        HAS_BIAS=bias is not None,
        RESIDUAL=0 if residual is None else 1 if residual_first else 2,
        WIDEN=interpreted() and x.dtype == torch.bfloat16,
        **blocks,
    )  # fmt: skip
