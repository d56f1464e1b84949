"""DnCNN (Zhang et al., 2017): plain convolutions that predict the noise, which is subtracted.

DnCNN-S is 17 convolutions for one noise level, DnCNN-B 20 for a range of them; both with batch normalisation
merged into the convolutions, as the authors publish them.  Parameter names: model.0, model.2, ... (KAIR).
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from fastrestore.layers import chain, conv2d


@dataclass(frozen=True)
class DnCNNConfig:
    channels: int = 3
    width: int = 64
    depth: int = 17  # convolutions


class DnCNN(nn.Module):
    """forward(x) -> restored x.  x: [N, C, H, W] in [0, 1]."""

    Config = DnCNNConfig
    multiple_of = 1
    takes_sigma = False

    def __init__(self, config: DnCNNConfig):
        super().__init__()
        widths = [config.channels, *[config.width] * (config.depth - 1), config.channels]
        self.config = config
        layers = []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])
        self.halo = config.depth

    def forward(self, x: Tensor) -> Tensor:
        *body, tail = self.model
        return conv2d(tail, chain(body, x), scale=-1.0, residual=x)
