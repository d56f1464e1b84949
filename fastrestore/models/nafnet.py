"""NAFNet (Chen et al., 2022): a U-Net without nonlinear activations: gates, layer norm, simplified channel attention.

The block is figure 3c of the paper, the gate equation 4, the channel attention equation 6.  With `local` the
attention's mean is taken over a window around each pixel, as the authors test on pictures larger than their training
patches (TLC, Chu et al., 2022): the same weights, other results.
Parameter names as the authors publish them: intro, encoders.0.0.conv1, downs.0, middle_blks.0, ups.0.0, ending, ...
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore import ops
from fastrestore.layers import ChannelNorm, conv2d, pad_to_multiple

EPS = 1e-6  # of the layer norm


@dataclass(frozen=True)
class NAFNetConfig:
    channels: int = 3
    width: int = 32  # of the finest level; doubled at each halving of the size
    encoder_blocks: tuple[int, ...] = (2, 2, 4, 8)  # of the levels, finest first
    middle_blocks: int = 12
    decoder_blocks: tuple[int, ...] = (2, 2, 2, 2)  # coarsest first
    local: int = 0  # side in pixels of the window of the channel attention's mean; 0: the whole picture


class NAFNet(nn.Module):
    """forward(x) -> restored x.  x: [N, C, H, W] in [0, 1].

    Sides are padded with zeros at the bottom and right, as published.  The channel attention's mean is over the whole
    picture; with `local`, three dozen windows in a row reach further than any tile.  So there is no halo.  Trained
    weights need no change between training and test but `local`; dropout, which no published weights were trained with,
    is left out.
    """

    Config = NAFNetConfig
    variants: ClassVar[dict[str, NAFNetConfig]] = {
        "sidd-width32": NAFNetConfig(),
        "sidd-width64": NAFNetConfig(width=64),
        "gopro-width32": NAFNetConfig(3, 32, (1, 1, 1, 28), 1, (1, 1, 1, 1), local=384),
        "gopro-width64": NAFNetConfig(3, 64, (1, 1, 1, 28), 1, (1, 1, 1, 1), local=384),  # REDS as well
    }
    takes_sigma = False
    halo = None
    pads_with = "zero"

    def __init__(self, config: NAFNetConfig):
        super().__init__()
        levels = len(config.encoder_blocks)
        if len(config.decoder_blocks) != levels:
            raise ValueError(f"{levels} levels of encoder_blocks, but {len(config.decoder_blocks)} of decoder_blocks")
        widths = [config.width * 2**level for level in range(levels + 1)]
        locals_ = [config.local // 2**level for level in range(levels + 1)]
        if config.local and not locals_[-1]:
            raise ValueError(f"local must be 0 or at least {2**levels}, got {config.local}")
        self.config = config
        self.multiple_of = 2**levels
        self.intro = nn.Conv2d(config.channels, widths[0], 3, padding=1)
        self.encoders = nn.ModuleList(map(_blocks, widths[:-1], config.encoder_blocks, locals_[:-1]))
        self.downs = nn.ModuleList(nn.Conv2d(width, 2 * width, 2, stride=2) for width in widths[:-1])
        self.middle_blks = _blocks(widths[-1], config.middle_blocks, locals_[-1])
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, 2 * width, 1, bias=False), nn.PixelShuffle(2)) for width in widths[:0:-1]
        )
        self.decoders = nn.ModuleList(map(_blocks, widths[-2::-1], config.decoder_blocks, locals_[-2::-1]))
        self.ending = nn.Conv2d(widths[0], config.channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        image = pad_to_multiple(x, self.multiple_of, "zero")
        y = conv2d(self.intro, image)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            y = encoder(y)
            skips.append(y)
            y = conv2d(down, y)
        y = self.middle_blks(y)
        for (widen, shuffle), decoder in zip(self.ups, self.decoders, strict=True):
            y = decoder(shuffle(conv2d(widen, y)) + skips.pop())
        return conv2d(self.ending, y, residual=image)[..., :height, :width]


class _Block(nn.Module):
    """Two residual halves, each scaled by channel: gated 3x3 convolution with attention, then a gated 1x1 layer.

    x: [N, width, H, W].
    """

    def __init__(self, width: int, local: int):
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(width, EPS), ChannelNorm(width, EPS)
        self.conv1 = nn.Conv2d(width, 2 * width, 1)
        self.conv2 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.sca = nn.Sequential(_LocalMean(local) if local else nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1))
        self.conv3 = nn.Conv2d(width, width, 1)
        self.conv4 = nn.Conv2d(width, 2 * width, 1)
        self.conv5 = nn.Conv2d(width, width, 1)
        self.beta = nn.Parameter(torch.zeros(1, width, 1, 1))  # a new block is the identity
        self.gamma = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = _gate(conv2d(self.conv2, conv2d(self.conv1, self.norm1(x))))
        x = x + conv2d(self.conv3, y * self.sca(y)) * self.beta
        return x + conv2d(self.conv5, _gate(conv2d(self.conv4, self.norm2(x)))) * self.gamma


class _LocalMean(nn.Module):
    """ops.local_mean of windows of `side` pixels; of a picture that one window holds, a single pixel."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        if self.side >= max(x.shape[2:]) and not torch.compiler.is_compiling():
            return F.adaptive_avg_pool2d(x, 1)  # of all pixels at once; a trace holds for larger pictures too
        return ops.local_mean(x, self.side)


def _gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return a * b


def _blocks(width: int, count: int, local: int) -> nn.Sequential:
    return nn.Sequential(*[_Block(width, local) for _ in range(count)])
