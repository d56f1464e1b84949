"""Restormer (Zamir et al., 2022): a U-Net of transformer blocks whose attention is between channels, not pixels.

A block is the transposed attention (MDTA, equation 1 of the paper) and the gated feed-forward network (GDFN,
equation 2).  Parameter names as the authors publish them: patch_embed.proj, encoder_level1.0.attn.qkv, down1_2.body.0,
latent.0, up4_3.body.0, reduce_chan_level3, decoder_level3.0, refinement.0, output.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore.layers import ChannelNorm, channel_attention, conv2d, layer_norm, pad_to_multiple

EPS = 1e-5  # of the layer norm


@dataclass(frozen=True)
class RestormerConfig:
    channels: int = 3
    width: int = 48  # of the finest level; doubled at each halving of the size
    blocks: tuple[int, int, int, int] = (4, 6, 6, 8)  # of the levels, finest first
    refinement_blocks: int = 4
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)  # of the levels
    expansion: int = 266  # hidden channels of the feed-forward network for each 100 of its block
    norm_bias: bool = True  # whether the layer norm takes the mean off and adds a bias; not for denoising


class Restormer(nn.Module):
    """forward(x) -> restored x.  x: [N, C, H, W] in [0, 1].

    Sides are padded by reflection at the bottom and right, as the authors' tests do.  The attention compares channels
    over the whole picture: no halo.  Training and test run the same network; the published training goes on to ever
    larger patches.  The variant for two pictures of a dual-pixel sensor is not covered.
    """

    Config = RestormerConfig
    variants: ClassVar[dict[str, RestormerConfig]] = {
        "denoise-color": RestormerConfig(norm_bias=False),  # Gaussian noise, blind or of one level, and real noise
        "denoise-gray": RestormerConfig(channels=1, norm_bias=False),
        "deblur": RestormerConfig(),  # of motion, and of defocus in a single picture; deraining as well
    }
    multiple_of = 8
    takes_sigma = False
    halo = None
    pads_with = "reflect"

    def __init__(self, config: RestormerConfig):
        super().__init__()
        w1, w2, w3, w4 = (config.width * 2**level for level in range(4))
        n1, n2, n3, n4 = config.blocks
        h1, h2, h3, h4 = config.heads
        self.config = config
        self.patch_embed = _PatchEmbed(config.channels, w1)
        self.encoder_level1 = _blocks(w1, h1, n1, config)
        self.down1_2 = _Down(w1)
        self.encoder_level2 = _blocks(w2, h2, n2, config)
        self.down2_3 = _Down(w2)
        self.encoder_level3 = _blocks(w3, h3, n3, config)
        self.down3_4 = _Down(w3)
        self.latent = _blocks(w4, h4, n4, config)
        self.up4_3 = _Up(w4)
        self.reduce_chan_level3 = nn.Conv2d(w4, w3, 1, bias=False)
        self.decoder_level3 = _blocks(w3, h3, n3, config)
        self.up3_2 = _Up(w3)
        self.reduce_chan_level2 = nn.Conv2d(w3, w2, 1, bias=False)
        self.decoder_level2 = _blocks(w2, h2, n2, config)
        self.up2_1 = _Up(w2)
        self.decoder_level1 = _blocks(w2, h1, n1, config)  # the finest decoder keeps both halves: twice the width
        self.refinement = _blocks(w2, h1, config.refinement_blocks, config)
        self.output = nn.Conv2d(w2, config.channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        image = pad_to_multiple(x, self.multiple_of, "reflect")
        e1 = self.encoder_level1(self.patch_embed(image))
        e2 = self.encoder_level2(self.down1_2(e1))
        e3 = self.encoder_level3(self.down2_3(e2))
        y = self.latent(self.down3_4(e3))
        y = self.decoder_level3(conv2d(self.reduce_chan_level3, torch.cat([self.up4_3(y), e3], 1)))
        y = self.decoder_level2(conv2d(self.reduce_chan_level2, torch.cat([self.up3_2(y), e2], 1)))
        y = self.decoder_level1(torch.cat([self.up2_1(y), e1], 1))
        return conv2d(self.output, self.refinement(y), residual=image)[..., :height, :width]


class _PatchEmbed(nn.Module):
    """[N, C, H, W] -> [N, width, H, W]."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(self.proj, x)


class _Down(nn.Module):
    """[N, width, H, W] -> [N, 2 width, H / 2, W / 2]."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body[1](conv2d(self.body[0], x))


class _Up(nn.Module):
    """[N, width, H, W] -> [N, width / 2, 2 H, 2 W]."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body[1](conv2d(self.body[0], x))


class _Block(nn.Module):
    """x: [N, width, H, W]."""

    def __init__(self, width: int, heads: int, config: RestormerConfig):
        super().__init__()
        self.norm1 = _Norm(width, config.norm_bias)
        self.attn = _Attention(width, heads)
        self.norm2 = _Norm(width, config.norm_bias)
        self.ffn = _FeedForward(width, width * config.expansion // 100)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn(self.norm1(x), residual=x)
        return self.ffn(self.norm2(x), residual=x)


class _Norm(nn.Module):
    """Layer norm by pixel; without bias, the values are scaled but not centred.  x: [N, width, H, W]."""

    def __init__(self, width: int, bias: bool):
        super().__init__()
        self.body = ChannelNorm(width, EPS) if bias else _Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class _Scale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, None, EPS, centred=False)


class _Attention(nn.Module):
    """Multi-head attention between channels, over all pixels.  x: [N, width, H, W]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"{width} channels cannot be divided among {heads} heads")
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width, bias=False)
        self.project_out = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        qkv = conv2d(self.qkv_dwconv, conv2d(self.qkv, x))
        return conv2d(self.project_out, channel_attention(qkv, self.temperature.flatten()), residual=residual)


class _FeedForward(nn.Module):
    """GDFN: one half of a hidden image gates the other.  x: [N, width, H, W]."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.project_in = nn.Conv2d(width, 2 * hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project_out = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        gate, value = conv2d(self.dwconv, conv2d(self.project_in, x)).chunk(2, 1)
        return conv2d(self.project_out, F.gelu(gate) * value, residual=residual)


def _blocks(width: int, heads: int, count: int, config: RestormerConfig) -> nn.Sequential:
    return nn.Sequential(*[_Block(width, heads, config) for _ in range(count)])
