"""Residual U-Net for all three tasks, our own: pixel-unshuffled input, strided convolutions down and transposed ones
up, residual blocks without normalisation (after DRUNet, Zhang et al., 2021, at 1/8 of its operations a pixel or
less).  For denoising it has a σ plane; for moiré, which comes with another tone, a gain beside the residual; for blur,
whose kind shows at a few strong edges, attention within windows (Swin transformer, Liu et al., 2021) that carries what
they tell to the rest, and that shifted windows and the levels carry further."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore.layers import (
    ChannelNorm,
    ResidualBlock,
    conv2d,
    conv_transpose2d,
    pad_to_multiple,
    reach,
    sigma_map,
    window_attention,
)

EPS = 1e-5  # of the layer norm
MOST_WINDOW = 64  # its bias grows with the square


@dataclass(frozen=True)
class UNetConfig:
    channels: int = 3
    widths: tuple[int, ...] = (64, 96, 144)  # of the levels, finest first; multiples of 16
    blocks: int = 2  # residual blocks a level and side
    sigma: bool = True  # whether the noise level is an input
    gain: bool = False  # the result is x * (1 + gain) - residual, each predicted, instead of x - residual
    window: int = 0  # side of the attention's windows, in pixels of the level, below the finest level; 0: no attention
    head_width: int = 16  # channels of an attention head


class UNet(nn.Module):
    """forward(x, sigma) -> restored x, or forward(x) where the configuration has no sigma.

    x: [N, C, H, W] in [0, 1]; sigma: a number or [N], in 0-255 units.  Grey images enter with their plane repeated
    in every channel.
    """

    Config = UNetConfig
    takes_sigma = True  # unless the configuration says otherwise

    def __init__(self, config: UNetConfig):
        super().__init__()
        widths = config.widths
        self.config = config
        self.takes_sigma = config.sigma
        if config.window > MOST_WINDOW:
            raise ValueError(f"window must be at most {MOST_WINDOW}, got {config.window}")
        self.multiple_of = 2 ** len(widths) * max(1, config.window)
        self.head = nn.Conv2d(4 * config.channels + config.sigma, widths[0], 3, padding=1)
        self.encoders = nn.ModuleList(_level(config, level) for level in range(len(widths) - 1))
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.middle = _level(config, len(widths) - 1)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.decoders = nn.ModuleList(_level(config, level) for level in range(len(widths) - 1))
        self.tail = nn.Conv2d(widths[0], 4 * config.channels * (1 + config.gain), 3, padding=1)
        nn.init.normal_(self.tail.weight, std=1e-3)
        self.halo = reach.halo(self._steps(), self.multiple_of)

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        if (sigma is None) == self.takes_sigma:
            raise ValueError(f"this UNet takes {'a' if self.takes_sigma else 'no'} sigma")
        image = pad_to_multiple(x, self.multiple_of)
        return self._restored(image, self._body(self._head(image, sigma)))[..., : x.shape[-2], : x.shape[-1]]

    def _head(self, image: Tensor, sigma: float | Tensor | None) -> Tensor:
        """The first features, at half resolution."""
        y = F.pixel_unshuffle(image, 2)
        return conv2d(self.head, torch.cat([y, sigma_map(sigma, y)], 1) if self.takes_sigma else y)

    def _body(self, y: Tensor) -> Tensor:
        """From the first features to the last ones."""
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            y = encoder(y)
            skips.append(y)
            y = conv2d(down, y)
        y = self.middle(y)
        for up, decoder in reversed(list(zip(self.ups, self.decoders, strict=True))):
            y = decoder(conv_transpose2d(up, y, residual=skips.pop()))
        return y

    def _restored(self, image: Tensor, y: Tensor) -> Tensor:
        """The image restored by the last features."""
        y = F.pixel_shuffle(conv2d(self.tail, y), 2)
        if self.config.gain:
            residual, gain = y.chunk(2, 1)
            return image + image * gain - residual
        return image - y

    def _steps(self) -> list[reach.Step]:
        """The path through all levels, from the output to the input."""
        steps = [reach.transposed(2, 2), reach.convolution()]
        for decoder in self.decoders:
            steps += [*_steps(decoder), reach.transposed(2, 2)]
        steps += _steps(self.middle)
        for encoder in reversed(self.encoders):
            steps += [reach.strided(2, 2), *_steps(encoder)]
        return [*steps, reach.convolution(), reach.strided(2, 2)]


class AttentiveBlock(ResidualBlock):
    """Attention, then the residual block.  x: [N, width, H, W]."""

    def __init__(self, width: int, config: UNetConfig, shift: int):
        super().__init__(width)
        self.attention = WindowAttention(width, config.head_width, config.window, shift)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.attention(x))


class WindowAttention(nn.Module):
    """x + attention within the windows of a grid that begins at pixel `shift`.  x: [N, width, H, W]."""

    def __init__(self, width: int, head_width: int, side: int, shift: int):
        super().__init__()
        if width % head_width:
            raise ValueError(f"{width} channels cannot be divided among heads of {head_width}")
        self.side, self.shift = side, shift
        self.norm = ChannelNorm(width, EPS)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)
        self.bias = nn.Parameter(torch.zeros(width // head_width, (2 * side - 1) ** 2))
        nn.init.normal_(self.proj.weight, std=0.01 * width**-0.5)  # as a residual block, it starts as the identity
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        qkv = conv2d(self.qkv, self.norm(x)).permute(0, 2, 3, 1)
        y = window_attention(qkv, self.bias, self.side, self.shift).permute(0, 3, 1, 2)
        return conv2d(self.proj, y, residual=x)


def _level(config: UNetConfig, level: int) -> nn.Sequential:
    """The blocks of a level and side.  The first two attend, on a grid and on one shifted by half a window; at the
    finest level none does, where windows would see little and cost most."""
    width, attentive = config.widths[level], 2 if config.window and level else 0
    shifts = (0, config.window // 2)
    return nn.Sequential(
        *[
            AttentiveBlock(width, config, shifts[i]) if i < attentive else ResidualBlock(width)
            for i in range(config.blocks)
        ]
    )


def _steps(blocks: nn.Sequential) -> list[reach.Step]:
    """From the output of a level's blocks to their input."""
    steps = []
    for block in reversed(blocks):
        steps.append(reach.convolution(2))
        if isinstance(block, AttentiveBlock):
            steps.append(reach.windows(block.attention.side, block.attention.shift))
    return steps
