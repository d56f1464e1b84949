"""FFDNet (Zhang et al., 2018): plain convolutions on the four sub-images of the picture and a plane of σ.

Grey: 15 convolutions of 64 channels; colour: 12 of 96.  Parameter names: model.0, model.2, ... (KAIR).
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore.layers import chain, pad_to_multiple, sigma_map


@dataclass(frozen=True)
class FFDNetConfig:
    channels: int = 3
    width: int = 96
    depth: int = 12  # convolutions


class FFDNet(nn.Module):
    """forward(x, sigma) -> restored x.  x: [N, C, H, W] in [0, 1]; sigma: a number or [N], in 0-255 units."""

    Config = FFDNetConfig
    multiple_of = 2
    takes_sigma = True

    def __init__(self, config: FFDNetConfig):
        super().__init__()
        widths = [4 * config.channels + 1, *[config.width] * (config.depth - 1), 4 * config.channels]
        self.config = config
        layers = []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])
        self.halo = 2 * config.depth + 1  # each convolution looks one sub-image pixel further, and the 2x2 cell

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        height, width = x.shape[-2:]
        y = F.pixel_unshuffle(pad_to_multiple(x, 2), 2)
        y = chain(self.model, torch.cat([y, sigma_map(sigma, y)], 1))
        return F.pixel_shuffle(y, 2)[..., :height, :width]
