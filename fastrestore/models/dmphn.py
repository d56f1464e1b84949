"""DMPHN (Zhang et al., 2019): deblurring by a hierarchy of patches; each level corrects the next coarser one.

DMPHN(1-2-4) of the paper's section 3 and figure 2: level 3 sees quarters of the picture, level 2 its upper and lower
half, level 1 the whole; all levels work at full resolution, each with an encoder and a decoder of its own.
Parameter names as the authors publish them, in one file a part: encoder_lv1 (.layer1, .layer2.0, ...), decoder_lv1.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastrestore.layers import conv2d, pad_to_multiple


@dataclass(frozen=True)
class DMPHNConfig:
    channels: int = 3
    width: int = 32  # of the finest features; twice and four times as many at half and quarter size
    layers: int = 3  # levels of the hierarchy: 3 is DMPHN(1-2-4), 4 is DMPHN(1-2-4-8)


class DMPHN(nn.Module):
    """forward(x) -> restored x.  x: [N, C, H, W] in [0, 1].

    The patches are shares of the picture, and each is convolved with zeros around it.  The result therefore depends
    on the picture's size: no halo, and no plan, whose operators must not know the size (`aten.chunk` of rows).  The
    authors give no padding; sides that are no multiples get their last row and column repeated.
    """

    Config = DMPHNConfig
    variants: ClassVar[dict[str, DMPHNConfig]] = {
        "1-2": DMPHNConfig(layers=2),
        "1-2-4": DMPHNConfig(),
        "1-2-4-8": DMPHNConfig(layers=4),
    }
    takes_sigma = False
    halo = None

    def __init__(self, config: DMPHNConfig):
        super().__init__()
        self.config = config
        # Patches, whose sides are the picture's over a power of 2, are halved twice by the strided convolutions.
        self.multiple_of = 4 * 2 ** (config.layers // 2)
        for level in range(1, config.layers + 1):
            setattr(self, f"encoder_lv{level}", _Encoder(config.channels, config.width))
            setattr(self, f"decoder_lv{level}", _Decoder(config.channels, config.width))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        patches = [pad_to_multiple(x, self.multiple_of) - 0.5]
        for level in range(2, self.config.layers + 1):
            patches.append(_halves(patches[-1], _axis(level)))
        features: Tensor | float = 0.0  # of the finer levels, joined to this level's patches
        correction: Tensor | float = 0.0  # what the finer level adds to this level's input
        for level in range(self.config.layers, 0, -1):
            encoder, decoder = getattr(self, f"encoder_lv{level}"), getattr(self, f"decoder_lv{level}")
            features = encoder(patches[level - 1] + correction) + features
            if level > 1:
                features = _joined(features, _axis(level))
            correction = decoder(features)
        return (correction + 0.5)[..., :height, :width]


class _Pair(nn.Sequential):
    """x + conv(relu(conv(x))), 3x3.  x: [N, width, H, W]."""

    def __init__(self, width: int):
        convs = [nn.Conv2d(width, width, 3, padding=1) for _ in range(2)]
        super().__init__(convs[0], nn.ReLU(), convs[1])

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(self[2], conv2d(self[0], x, activation="relu"), residual=x)


class _Encoder(nn.Module):
    """[N, C, H, W] -> [N, 4 width, H / 4, W / 4]."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.layer1 = nn.Conv2d(channels, width, 3, padding=1)
        self.layer2, self.layer3 = _Pair(width), _Pair(width)
        self.layer5 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.layer6, self.layer7 = _Pair(2 * width), _Pair(2 * width)
        self.layer9 = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.layer10, self.layer11 = _Pair(4 * width), _Pair(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(conv2d(self.layer1, x)))
        x = self.layer7(self.layer6(conv2d(self.layer5, x)))
        return self.layer11(self.layer10(conv2d(self.layer9, x)))


class _Decoder(nn.Module):
    """[N, 4 width, H / 4, W / 4] -> [N, C, H, W]."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.layer13, self.layer14 = _Pair(4 * width), _Pair(4 * width)
        self.layer16 = nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1)
        self.layer17, self.layer18 = _Pair(2 * width), _Pair(2 * width)
        self.layer20 = nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1)
        self.layer21, self.layer22 = _Pair(width), _Pair(width)
        self.layer24 = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer16(self.layer14(self.layer13(x)))
        x = self.layer20(self.layer18(self.layer17(x)))
        return conv2d(self.layer24, self.layer22(self.layer21(x)))


def _axis(level: int) -> int:
    """Even levels halve the rows of the level before, odd ones the columns."""
    return 2 if level % 2 == 0 else 3


def _halves(x: Tensor, axis: int) -> Tensor:
    """The first halves of all images, then the second ones: [2 N, C, ...]."""
    return torch.cat(x.chunk(2, axis))


def _joined(x: Tensor, axis: int) -> Tensor:
    """The reverse of _halves."""
    return torch.cat(x.chunk(2), axis)
