"""ESDNet (Yu et al., 2022): demoiréing of large pictures; a small U-Net whose blocks look at three scales each.

The scale-aware module (SAM) of the paper's section 4.2 runs one dense block at full, half and quarter size and weighs
the three by channel; ESDNet has one in each level, ESDNet-L two.  The picture enters and leaves by pixel shuffling.
Parameter names as the authors publish them: encoder.conv_first.0, encoder.encoder_1.rdb.conv_layers.0.conv.0,
encoder.encoder_1.sam_blocks.0.basic_block_2.conv_post.conv, ..., decoder.decoder_1.conv.conv.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore.layers import chain, conv2d

DILATIONS = (1, 2, 1)  # of a residual dense block
SCALE_DILATIONS = (1, 2, 3, 2, 1)  # of a scale-aware module's dense blocks
BORDER = (0.3827, 0.4141, 0.3912)  # mean colour of the training set FHDMi


@dataclass(frozen=True)
class ESDNetConfig:
    channels: int = 3
    encoder_width: int = 48  # of the finest level; twice and four times as many at the coarser ones
    decoder_width: int = 64
    growth: int = 32  # channels that each convolution of a dense block adds
    blocks: int = 1  # scale-aware modules a level


class ESDNet(nn.Module):
    """forward(x) -> restored x.  x: [N, C, H, W] in [0, 1].

    `scales` gives the results at full, half and quarter size, which the published training compares with the clean
    picture's.  As in the authors' test, sides that are no multiples of 32 get a border of the mean colour all
    around, for which there is no plan.  The weights of the three scales come from means over the whole picture: no
    halo.
    """

    Config = ESDNetConfig
    variants: ClassVar[dict[str, ESDNetConfig]] = {"esdnet": ESDNetConfig(), "esdnet-l": ESDNetConfig(blocks=2)}
    multiple_of = 32
    pads_with = "a border of the mean colour"
    takes_sigma = False
    halo = None

    def __init__(self, config: ESDNetConfig):
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.scales(x)[0]

    def scales(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The restored picture at full, half and quarter size; the smaller two keep their border."""
        height, width = x.shape[-2:]
        bottom, right = -height % self.multiple_of, -width % self.multiple_of
        if bottom or right:
            x = _bordered(x, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
        full, half, quarter = self.decoder(*self.encoder(x))
        return full[..., bottom // 2 : bottom // 2 + height, right // 2 : right // 2 + width], half, quarter


def _bordered(x: Tensor, pads: tuple[int, int, int, int]) -> Tensor:
    """x within the mean colour, or the mean grey."""
    count = x.shape[1]
    values = BORDER if count == 3 else [sum(BORDER) / 3] * count
    return torch.cat([F.pad(x[:, c : c + 1], pads, value=values[c]) for c in range(count)], 1)


class _Encoder(nn.Module):
    """[N, C, H, W] -> features at half, quarter and eighth size, of width, 2 width and 4 width channels."""

    def __init__(self, config: ESDNetConfig):
        super().__init__()
        width = config.encoder_width
        self.conv_first = nn.Sequential(nn.Conv2d(4 * config.channels, width, 5, padding=2), nn.ReLU())
        self.encoder_1 = _EncoderLevel(width, config, last=False)
        self.encoder_2 = _EncoderLevel(2 * width, config, last=False)
        self.encoder_3 = _EncoderLevel(4 * width, config, last=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y1 = self.encoder_1(chain(self.conv_first, F.pixel_unshuffle(x, 2)))
        y2 = self.encoder_2(chain(self.encoder_1.down, y1))
        return y1, y2, self.encoder_3(chain(self.encoder_2.down, y2))


class _EncoderLevel(nn.Module):
    """x: [N, width, H, W].  `down` halves the size of the result for the next level."""

    def __init__(self, width: int, config: ESDNetConfig, last: bool):
        super().__init__()
        self.rdb = _Dense(width, config.growth, DILATIONS)
        self.sam_blocks = nn.ModuleList(_ScaleAware(width, config.growth) for _ in range(config.blocks))
        if not last:
            self.down = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.rdb(x, residual=x)
        for block in self.sam_blocks:
            x = block(x)
        return x


class _Decoder(nn.Module):
    """The encoder's features -> the restored picture at full, half and quarter size."""

    def __init__(self, config: ESDNetConfig):
        super().__init__()
        a, b = config.encoder_width, config.decoder_width
        self.preconv_3, self.decoder_3 = _Conv(4 * a, b, 3, relu=True), _DecoderLevel(b, config)
        self.preconv_2, self.decoder_2 = _Conv(2 * a + b, b, 3, relu=True), _DecoderLevel(b, config)
        self.preconv_1, self.decoder_1 = _Conv(a + b, b, 3, relu=True), _DecoderLevel(b, config)

    def forward(self, y1: Tensor, y2: Tensor, y3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x3 = self.decoder_3(self.preconv_3(y3))
        x2 = self.decoder_2(self.preconv_2(torch.cat([y2, _resized(x3, 2.0)], 1)))
        x1 = self.decoder_1(self.preconv_1(torch.cat([y1, _resized(x2, 2.0)], 1)))
        return self.decoder_1.picture(x1), self.decoder_2.picture(x2), self.decoder_3.picture(x3)


class _DecoderLevel(nn.Module):
    """x: [N, width, H, W]; `picture` makes the restored picture at [2 H, 2 W] of the result."""

    def __init__(self, width: int, config: ESDNetConfig):
        super().__init__()
        self.rdb = _Dense(width, config.growth, DILATIONS)
        self.sam_blocks = nn.ModuleList(_ScaleAware(width, config.growth) for _ in range(config.blocks))
        self.conv = _Conv(width, 4 * config.channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rdb(x, residual=x)
        for block in self.sam_blocks:
            x = block(x)
        return x

    def picture(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 2)


class _Conv(nn.Module):
    """A convolution that keeps the size, with or without a ReLU.  x: [N, a, H, W]."""

    def __init__(self, a: int, b: int, kernel: int, dilation: int = 1, relu: bool = False):
        super().__init__()
        conv = nn.Conv2d(a, b, kernel, padding=dilation * (kernel // 2), dilation=dilation)
        self.conv = nn.Sequential(conv, nn.ReLU()) if relu else conv

    def forward(self, x: Tensor) -> Tensor:
        return (
            conv2d(self.conv[0], x, activation="relu") if isinstance(self.conv, nn.Sequential) else conv2d(self.conv, x)
        )


class _Dense(nn.Module):
    """Dilated convolutions, each of which reads the results of all before it.  x: [N, width, H, W]."""

    def __init__(self, width: int, growth: int, dilations: tuple[int, ...]):
        super().__init__()
        widths = [width + i * growth for i in range(len(dilations) + 1)]
        self.conv_layers = nn.ModuleList(
            _Conv(a, growth, 3, dilation, relu=True) for a, dilation in zip(widths, dilations, strict=False)
        )
        self.conv_post = _Conv(widths[-1], width, 1)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        for layer in self.conv_layers:
            x = torch.cat([layer(x), x], 1)
        return conv2d(self.conv_post.conv, x, residual=residual)


class _ScaleAware(nn.Module):
    """x + dense blocks of x at full, half and quarter size.  x: [N, width, H, W]."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.basic_block = _Dense(width, growth, SCALE_DILATIONS)
        self.basic_block_2 = _Dense(width, growth, SCALE_DILATIONS)
        self.basic_block_4 = _Dense(width, growth, SCALE_DILATIONS)
        self.fusion = _Fusion(3 * width)

    def forward(self, x: Tensor) -> Tensor:
        half = _resized(self.basic_block_2(_resized(x, 0.5)), 2.0)
        quarter = _resized(self.basic_block_4(_resized(x, 0.25)), 4.0)
        return x + self.fusion(self.basic_block(x), half, quarter)


class _Fusion(nn.Module):
    """The sum of three images, each channel weighed by what the means of all channels say.  Each: [N, width, H, W]."""

    def __init__(self, width: int):
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.compress1 = nn.Conv2d(width, width // 4, 1)
        self.compress2 = nn.Conv2d(width // 4, width // 4, 1)
        self.excitation = nn.Conv2d(width // 4, width, 1)

    def forward(self, *images: Tensor) -> Tensor:
        means = torch.cat([self.squeeze(image) for image in images], 1)
        weights = self.excitation(self.compress2(self.compress1(means).relu()).relu()).sigmoid().chunk(3, 1)
        a, b, c = (image * weight for image, weight in zip(images, weights, strict=True))
        return a + b + c


def _resized(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear")
