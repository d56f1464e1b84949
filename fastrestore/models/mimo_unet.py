"""MIMO-UNet (Cho et al., 2021): one U-Net that takes the picture at three sizes and deblurs it at three sizes.

The parts of the paper's section 3: shallow convolutions of the smaller pictures (SCM), which gate the encoder's
features (FAM); fusion of all three levels in each skip (AFF).  MIMO-UNet has 8 residual blocks a level and side,
MIMO-UNet+ 20; MIMO-UNet++ is the latter's mean over turned pictures.
Parameter names as the authors publish them: feat_extract.0.main.0, Encoder.0.layers.0.main.0.main.0, FAM1, SCM1, ...
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore.layers import chain, conv2d, pad_to_multiple, reach


@dataclass(frozen=True)
class MIMOUNetConfig:
    channels: int = 3
    width: int = 32  # of the finest level; twice and four times as many at half and quarter size
    blocks: int = 8  # residual blocks a level and side


class MIMOUNet(nn.Module):
    """forward(x) -> restored x.  x: [N, C, H, W] in [0, 1].

    `scales` gives the results at all three sizes, which the published training compares with the sharp picture's.
    The authors give no padding; sides that are no multiples of 4 get their last row and column repeated.  The channel
    dropout that they train MIMO-UNet+ with does nothing at test time and is left out.
    """

    Config = MIMOUNetConfig
    variants: ClassVar[dict[str, MIMOUNetConfig]] = {
        "mimo-unet": MIMOUNetConfig(),
        "mimo-unet+": MIMOUNetConfig(blocks=20),
    }
    multiple_of = 4
    takes_sigma = False

    def __init__(self, config: MIMOUNetConfig):
        super().__init__()
        channels, width, blocks = config.channels, config.width, config.blocks
        self.config = config
        self.Encoder = nn.ModuleList(_Blocks(width * scale, blocks) for scale in (1, 2, 4))
        self.feat_extract = nn.ModuleList(
            [
                _conv(channels, width, 3),
                _conv(width, 2 * width, 3, stride=2),
                _conv(2 * width, 4 * width, 3, stride=2),
                _up(4 * width),
                _up(2 * width),
                _conv(width, channels, 3, relu=False),
            ]
        )
        self.Decoder = nn.ModuleList(_Blocks(width * scale, blocks) for scale in (4, 2, 1))
        self.Convs = nn.ModuleList([_conv(4 * width, 2 * width, 1), _conv(2 * width, width, 1)])
        self.ConvsOut = nn.ModuleList(_conv(width * scale, channels, 3, relu=False) for scale in (4, 2))
        self.AFFs = nn.ModuleList(_Fusion(7 * width, width * scale) for scale in (1, 2))
        self.FAM1, self.FAM2 = _Gate(4 * width), _Gate(2 * width)
        self.SCM1, self.SCM2 = _Shallow(channels, 4 * width), _Shallow(channels, 2 * width)
        up, down = reach.transposed(4, 2, padding=1), reach.strided(3, 2, padding=1)
        decoder = [reach.convolution(2 * blocks + 1), up, reach.convolution(2 * blocks), up]
        middle = reach.convolution(4 * blocks + 1)  # both sides of the coarsest level, and its gate
        encoder = [down, reach.convolution(2 * blocks + 1), down, reach.convolution(2 * blocks + 1)]
        self.halo = reach.halo([*decoder, middle, *encoder], self.multiple_of)

    def forward(self, x: Tensor) -> Tensor:
        return self.scales(x)[0]

    def scales(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The restored picture at full, half and quarter size; the smaller sides are rounded up."""
        height, width = x.shape[-2:]
        image = pad_to_multiple(x, self.multiple_of)
        half = F.interpolate(image, scale_factor=0.5)
        quarter = F.interpolate(half, scale_factor=0.5)

        e1 = self.Encoder[0](self.feat_extract[0](image))
        e2 = self.Encoder[1](self.FAM2(self.feat_extract[1](e1), self.SCM2(half)))
        e4 = self.Encoder[2](self.FAM1(self.feat_extract[2](e2), self.SCM1(quarter)))
        e4_at_half = F.interpolate(e4, scale_factor=2.0)
        skip2 = self.AFFs[1](F.interpolate(e1, scale_factor=0.5), e2, e4_at_half)
        skip1 = self.AFFs[0](e1, F.interpolate(e2, scale_factor=2.0), F.interpolate(e4_at_half, scale_factor=2.0))

        d4 = self.Decoder[0](e4)
        d2 = self.Decoder[1](self.Convs[0](torch.cat([self.feat_extract[3](d4), skip2], 1)))
        d1 = self.Decoder[2](self.Convs[1](torch.cat([self.feat_extract[4](d2), skip1], 1)))
        full = conv2d(self.feat_extract[5].main[0], d1, residual=image)[..., :height, :width]
        at_half = conv2d(self.ConvsOut[1].main[0], d2, residual=half)
        at_quarter = conv2d(self.ConvsOut[0].main[0], d4, residual=quarter)
        return (
            full,
            at_half[..., : (height + 1) // 2, : (width + 1) // 2],
            at_quarter[..., : (height + 3) // 4, : (width + 3) // 4],
        )


class _Layer(nn.Module):
    """A convolution and a ReLU.  x: [N, C, H, W]."""

    def __init__(self, conv: nn.Module, relu: bool):
        super().__init__()
        self.main = nn.Sequential(conv, nn.ReLU()) if relu else nn.Sequential(conv)

    def forward(self, x: Tensor) -> Tensor:
        return chain(self.main, x)


def _conv(a: int, b: int, kernel: int, stride: int = 1, relu: bool = True) -> _Layer:
    return _Layer(nn.Conv2d(a, b, kernel, stride=stride, padding=kernel // 2), relu)


def _up(width: int) -> _Layer:
    """[N, width, H, W] -> [N, width / 2, 2 H, 2 W]."""
    return _Layer(nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1), relu=True)


class _Residual(nn.Module):
    """x + conv(relu(conv(x))), 3x3.  x: [N, width, H, W]."""

    def __init__(self, width: int):
        super().__init__()
        self.main = nn.Sequential(_conv(width, width, 3), _conv(width, width, 3, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(self.main[1].main[0], self.main[0](x), residual=x)


class _Blocks(nn.Module):
    """Residual blocks in a row.  x: [N, width, H, W]."""

    def __init__(self, width: int, count: int):
        super().__init__()
        self.layers = nn.Sequential(*[_Residual(width) for _ in range(count)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class _Fusion(nn.Module):
    """AFF: the features of all levels, brought to one size.  Each: [N, ., H, W]."""

    def __init__(self, a: int, b: int):
        super().__init__()
        self.conv = nn.Sequential(_conv(a, b, 1), _conv(b, b, 3, relu=False))

    def forward(self, *features: Tensor) -> Tensor:
        return self.conv(torch.cat(features, 1))


class _Shallow(nn.Module):
    """SCM: features of a smaller picture.  x: [N, C, H, W] -> [N, width, H, W]."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.main = nn.Sequential(
            _conv(channels, width // 4, 3),
            _conv(width // 4, width // 2, 1),
            _conv(width // 2, width // 2, 3),
            _conv(width // 2, width - channels, 1),
        )
        self.conv = _conv(width, width, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat([x, self.main(x)], 1))


class _Gate(nn.Module):
    """FAM: a + conv(a * b).  a, b: [N, width, H, W]."""

    def __init__(self, width: int):
        super().__init__()
        self.merge = _conv(width, width, 3, relu=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return conv2d(self.merge.main[0], a * b, residual=a)
