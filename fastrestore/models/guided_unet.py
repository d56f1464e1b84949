"""Guided U-Net, our own: the U-Net with a second, less noisy picture of the same scene beside the first, such as depth,
infrared or a flash shot (as Petschnigg et al., 2004, filtered for).

The guide's features are added to the U-Net's first ones.  Where there is no guide they are nothing, so that without one
the network is a U-Net, whose weights fit (their names are the same).
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore.layers import ResidualBlock, conv2d, pad_to_multiple
from fastrestore.models.unet import UNet, UNetConfig


@dataclass(frozen=True)
class GuidedUNetConfig(UNetConfig):
    guide: int = 3  # channels of the guide
    guide_width: int = 32  # channels of its features; a multiple of 16


class GuidedUNet(UNet):
    """forward(x, sigma, guide) -> restored x, guided or not; without sigma where the configuration has none.

    x, sigma: the UNet's.  guide: [N, guide + 1, H, W], aligned with x, in [0, 1]; its last channel says where there is
    one: 1, else 0.  None: there is none.
    """

    Config = GuidedUNetConfig

    def __init__(self, config: GuidedUNetConfig):
        super().__init__(config)
        self.guide_channels = config.guide + 1
        self.guide_look = nn.Conv2d(4 * self.guide_channels, config.guide_width, 3, padding=1)
        self.guide_block = ResidualBlock(config.guide_width)
        self.guide_head = nn.Conv2d(config.guide_width, config.widths[0], 3, padding=1)
        nn.init.normal_(self.guide_head.weight, std=1e-2)
        nn.init.zeros_(self.guide_head.bias)

    def forward(self, x: Tensor, sigma: float | Tensor | None = None, guide: Tensor | None = None) -> Tensor:
        if guide is None:
            return super().forward(x, sigma)
        if guide.shape[2:] != x.shape[2:] or guide.shape[1] != self.guide_channels:
            raise ValueError(f"a guide of {list(guide.shape)} for pictures of {list(x.shape)}")
        image, guide = (pad_to_multiple(part, self.multiple_of) for part in (x, guide))
        known = F.avg_pool2d(guide[:, -1:], 2)
        y = conv2d(self.guide_look, F.pixel_unshuffle(guide, 2), activation="relu")
        y = self._head(image, sigma) + known * conv2d(self.guide_head, self.guide_block(y))
        return self._restored(image, self._body(y))[..., : x.shape[-2], : x.shape[-1]]


class Guided(nn.Module):
    """forward(x, sigma, guide) -> (restored x, guide): a guided U-Net whose plan has the guide as its state."""

    def __init__(self, model: GuidedUNet):
        super().__init__()
        self.model, self.config = model, model.config
        self.multiple_of, self.takes_sigma = model.multiple_of, model.takes_sigma
        self.states = ((model.guide_channels, 1),)

    def forward(self, x: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        return self.model(x, *given) if self.takes_sigma else self.model(x, None, *given), given[-1]
