"""SwinIR (Liang et al., 2021): residual groups of window attention at full resolution.

The networks for denoising and for JPEG artefacts (tasks 004 to 006 of the authors' code), which keep the picture's
size; section 3 of the paper.  Parameter names as the authors publish them: conv_first, patch_embed.norm,
layers.0.residual_group.blocks.0.attn.qkv, ..., layers.0.conv, norm, conv_after_body, conv_last.  The two tables that
their files also hold (relative_position_index, attn_mask) follow from the configuration and are computed.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore.layers import conv2d, pad_to_multiple, reach, window_attention

MEAN = (0.4488, 0.4371, 0.4040)  # of the training set DIV2K's colours
MOST_WINDOW = 64  # its bias grows with the square


@dataclass(frozen=True)
class SwinIRConfig:
    channels: int = 3
    width: int = 180
    blocks: tuple[int, ...] = (6, 6, 6, 6, 6, 6)  # of the groups
    heads: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    window: int = 8  # side in pixels
    expansion: int = 2  # hidden channels of the perceptron for each of its block
    peak: int = 1  # values within are in [0, peak]


class SwinIR(nn.Module):
    """forward(x) -> restored x, for the noise level or JPEG quality of the weights.  x: [N, C, H, W] in [0, 1].

    Sides are padded to whole windows by reflection at the bottom and right, as the authors' network does (their test
    script mirrors the picture before).  Attention stays in its windows, whose grid begins at the picture's origin, so
    the halo is finite.  The published training drops whole blocks at random (stochastic depth 0.1), which does nothing
    at test time and is left out.
    """

    Config = SwinIRConfig
    variants: ClassVar[dict[str, SwinIRConfig]] = {
        "denoise-color": SwinIRConfig(),
        "denoise-gray": SwinIRConfig(channels=1),
        "jpeg-color": SwinIRConfig(window=7, peak=255),
        "jpeg-gray": SwinIRConfig(channels=1, window=7, peak=255),
    }
    takes_sigma = False
    pads_with = "reflect"

    def __init__(self, config: SwinIRConfig):
        super().__init__()
        if len(config.heads) != len(config.blocks):
            raise ValueError(f"{len(config.blocks)} groups of blocks, but heads for {len(config.heads)}")
        if config.window > MOST_WINDOW:
            raise ValueError(f"window must be at most {MOST_WINDOW}, got {config.window}")
        width = config.width
        self.config = config
        self.multiple_of = config.window
        self.conv_first = nn.Conv2d(config.channels, width, 3, padding=1)
        self.patch_embed = _Embed(width)
        self.layers = nn.ModuleList(
            _Group(config, blocks, heads) for blocks, heads in zip(config.blocks, config.heads, strict=True)
        )
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, config.channels, 3, padding=1)
        groups = [
            step
            for group in reversed(self.layers)
            for step in (
                reach.convolution(),
                *(reach.windows(config.window, block.shift) for block in reversed(group.residual_group.blocks)),
            )
        ]
        self.halo = reach.halo([reach.convolution(2), *groups, reach.convolution()], config.window)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        mean = x.new_tensor(MEAN if self.config.channels == 3 else [0.0])[:, None, None]
        image = (pad_to_multiple(x, self.multiple_of, "reflect") - mean) * self.config.peak
        shallow = conv2d(self.conv_first, image)
        y = self.patch_embed.norm(shallow.permute(0, 2, 3, 1))
        for group in self.layers:
            y = group(y)
        y = self.norm(y).permute(0, 3, 1, 2)
        y = conv2d(self.conv_after_body, y, residual=shallow)
        y = conv2d(self.conv_last, y, residual=image)
        return (y / self.config.peak + mean)[..., :height, :width]


class _Embed(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)


class _Group(nn.Module):
    """x + conv(blocks(x)).  x: [N, H, W, width]."""

    def __init__(self, config: SwinIRConfig, blocks: int, heads: int):
        super().__init__()
        self.residual_group = _Blocks(config, blocks, heads)
        self.conv = nn.Conv2d(config.width, config.width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.residual_group(x).permute(0, 3, 1, 2)
        return conv2d(self.conv, y, residual=x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class _Blocks(nn.Module):
    """Every second block's windows are shifted by half their side.  x: [N, H, W, width]."""

    def __init__(self, config: SwinIRConfig, count: int, heads: int):
        super().__init__()
        shifts = (0, config.window // 2)
        self.blocks = nn.ModuleList(_Block(config, heads, shifts[i % 2]) for i in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class _Block(nn.Module):
    """Window attention, then a perceptron for each pixel.  x: [N, H, W, width]."""

    def __init__(self, config: SwinIRConfig, heads: int, shift: int):
        super().__init__()
        width = config.width
        self.shift = shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = _Attention(width, heads, config.window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _Perceptron(width, width * config.expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), self.shift)
        return x + self.mlp(self.norm2(x))


class _Attention(nn.Module):
    """x: [N, H, W, width].  The grid of windows begins at `shift`."""

    def __init__(self, width: int, heads: int, side: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"{width} channels cannot be divided among {heads} heads")
        self.side = side
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, shift: int) -> Tensor:
        bias = self.relative_position_bias_table.t()
        return self.proj(window_attention(self.qkv(x), bias, self.side, shift))


class _Perceptron(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))
