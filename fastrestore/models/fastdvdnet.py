"""FastDVDnet (Tassano et al., CVPR 2020): a clip of five frames to its middle one, by two stages of small U-Nets.

The first stage's U-Net sees frames 1 to 3, 2 to 4 and 3 to 5, the second one's the three results; no motion is
estimated.  Parameter names as the authors publish them: temp1.inc.convblock.0, temp2.outc.convblock.3, ...
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastrestore.layers import pad_to_multiple, reach, sigma_map

FRAMES = 5


@dataclass(frozen=True)
class FastDVDnetConfig:
    channels: int = 3
    width: int = 32  # of the finest level; doubled at each halving of the size
    frame_width: int = 30  # features of each frame before they meet


class FastDVDnet(nn.Module):
    """forward(x, sigma) -> the restored middle frame [N, C, H, W].

    x: [N, 5, C, H, W] in [0, 1], the clip; or a picture [N, C, H, W], which stands for five of itself.  sigma: a number
    or [N], in 0-255 units.  Sides are padded by mirroring, as published.
    """

    Config = FastDVDnetConfig
    multiple_of = 4
    takes_sigma = True

    def __init__(self, config: FastDVDnetConfig):
        super().__init__()
        self.config = config
        self.temp1, self.temp2 = _DenBlock(config), _DenBlock(config)
        self.halo = _halo()

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        if x.ndim == 4:
            x = x[:, None].expand(-1, FRAMES, -1, -1, -1)
        if x.shape[1] != FRAMES:
            raise ValueError(f"FastDVDnet takes {FRAMES} frames, got {x.shape[1]}")
        height, width = x.shape[-2:]
        frames = [pad_to_multiple(frame, self.multiple_of, "reflect") for frame in x.unbind(1)]
        noise = sigma_map(sigma, frames[0])
        first = [self.temp1(frames[i : i + 3], noise) for i in range(3)]
        return self.temp2(first, noise)[..., :height, :width]


class _DenBlock(nn.Module):
    """Three frames [N, C, H, W] and the noise's plane to the middle frame."""

    def __init__(self, config: FastDVDnetConfig):
        super().__init__()
        channels, width, each = config.channels, config.width, config.frame_width
        self.inc = _Block(_layer(3 * (channels + 1), 3 * each, groups=3) + _layer(3 * each, width))
        self.downc0 = _down(width, 2 * width)
        self.downc1 = _down(2 * width, 4 * width)
        self.upc2 = _up(4 * width, 2 * width)
        self.upc1 = _up(2 * width, width)
        self.outc = _Block([*_layer(width, width), nn.Conv2d(width, channels, 3, padding=1, bias=False)])

    def forward(self, frames: list[Tensor], noise: Tensor) -> Tensor:
        y0 = self.inc(torch.cat([part for frame in frames for part in (frame, noise)], 1))
        y1 = self.downc0(y0)
        y1 = y1 + self.upc2(self.downc1(y1))
        return frames[1] - self.outc(y0 + self.upc1(y1))


class _Block(nn.Module):
    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.convblock = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.convblock(x)


class _Norm(nn.BatchNorm2d):
    """Batch normalisation without the count of batches, which no result depends on."""

    def __init__(self, width: int):
        super().__init__(width)
        self.num_batches_tracked = None

    def _load_from_state_dict(self, state: dict, prefix: str, metadata: dict, *rest: object) -> None:
        super()._load_from_state_dict(state, prefix, {**metadata, "version": 2}, *rest)  # older ones get a count


def _layer(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return [conv, _Norm(outputs), nn.ReLU()]


def _pair(inputs: int, outputs: int) -> _Block:
    return _Block(_layer(inputs, outputs) + _layer(outputs, outputs))


def _down(inputs: int, outputs: int) -> _Block:
    return _Block([*_layer(inputs, outputs, stride=2), _pair(outputs, outputs)])


def _up(inputs: int, outputs: int) -> _Block:
    wide = nn.Conv2d(inputs, 4 * outputs, 3, padding=1, bias=False)
    return _Block([_pair(inputs, inputs), wide, nn.PixelShuffle(2)])


def _halo() -> int:
    """How far an output pixel looks: through the coarsest level of both stages."""
    convolution, up, down = reach.convolution, reach.transposed(2, 2), reach.strided(3, 2, 1)
    stage = [convolution(2), up, convolution(3), up, convolution(5), down, convolution(2), down, convolution(2)]
    return reach.halo(2 * stage, 4)
