"""U-Net for bursts, our own: it restores each shot by itself, then a small network fuses the results, whatever their
number and order.

As in Aittala and Durand (ECCV 2018) what the shots have to do with each other goes through a maximum and a mean over
them, which know no order.  Each shot is blurred in its own way: of each pixel the fusion takes most from the shots that
have it sharp, and adds a residual.  Shots come aligned with the reference, which the result shows.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore.layers import ResidualBlock, conv2d
from fastrestore.models.unet import UNet, UNetConfig

GAIN = 8.0  # of the differences between pictures, which are small against what they differ in
SLOPE = 0.1  # of the activations below zero: plain ones died in training, all of them
UNKNOWN = -30.0  # added to the weight's logarithm of what a shot does not show


@dataclass(frozen=True)
class BurstUNetConfig(UNetConfig):
    width: int = 48  # channels of the fusion; a multiple of 16


class BurstUNet(UNet):
    """forward(x, sigma) -> restored x, of a shot alone; `fusion` makes one picture of several.

    x: [N, C, H, W] in [0, 1]; sigma as the UNet's.
    """

    Config = BurstUNetConfig

    def __init__(self, config: BurstUNetConfig):
        super().__init__(config)
        self.fusion = BurstFusion(config)


class BurstFusion(nn.Module):
    """forward(shots, alone, known) -> restored reference [N, C, H, W].

    shots: [N, K, C, H, W], the reference first, the others aligned with it, in any order.  alone: the shots' results
    alone, aligned alike.  known: [N, K, 1, H, W], 1 where a shot shows something, else 0; the reference's is 1.
    """

    multiple_of = 2

    def __init__(self, config: BurstUNetConfig):
        super().__init__()
        pixels, width = 4 * config.channels, config.width
        self.look = nn.Conv2d(3 * pixels + 4, width, 3, padding=1)
        self.block = ResidualBlock(width)
        self.compare = nn.Conv2d(3 * width, width, 3, padding=1)
        self.decide = ResidualBlock(width)
        self.weight = nn.Conv2d(width, 2 * pixels, 3, padding=1)
        self.finish = ResidualBlock(width)
        self.change = nn.Conv2d(width, pixels, 3, padding=1)
        for layer in (self.weight, self.change):
            nn.init.normal_(layer.weight, std=1e-3)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.weight.bias[pixels:], -3.0)  # at first little of the shots as they came,
        self.own = nn.Parameter(torch.ones(()))  # and more of the reference, by this in the logarithm
        self.halo = 2 * 10 + 1  # ten convolutions at half resolution, and the grid

    def forward(self, shots: Tensor, alone: Tensor, known: Tensor) -> Tensor:
        count, each, _, height, width = shots.shape
        bottom, right = -height % self.multiple_of, -width % self.multiple_of
        shots, alone, known = (
            F.pad(part.flatten(0, 1), (0, right, 0, bottom), mode="replicate").unflatten(0, (count, each))
            for part in (shots, alone, known)
        )
        reference = alone[:, :1].expand_as(alone)
        seen = [reference - 0.5, GAIN * (alone - reference), GAIN * (shots - alone), known]
        pixels = torch.cat(seen, 2).flatten(0, 1)
        y = self.block(conv2d(self.look, F.pixel_unshuffle(pixels, 2), activation="leaky_relu", slope=SLOPE))
        y = conv2d(self.compare, torch.cat([y, *_pooled(y, count)], 1), activation="leaky_relu", slope=SLOPE)
        y = self.decide(y)
        weights = F.pixel_shuffle(conv2d(self.weight, y), 2).float().unflatten(0, (count, each))
        weights = (
            weights + UNKNOWN * (1 - known) + self.own * (torch.arange(each, device=y.device) == 0).view(-1, 1, 1, 1)
        )
        weights = torch.cat(weights.chunk(2, 2), 1).softmax(1)
        change = F.pixel_shuffle(conv2d(self.change, self.finish(y.unflatten(0, (count, each)).amax(1))), 2)
        return ((weights * torch.cat([alone, shots], 1)).sum(1) + change)[..., :height, :width]


def _pooled(y: Tensor, count: int) -> list[Tensor]:
    """Maximum and mean over the shots of each of `count` bursts, repeated for each shot.  y: [count K, width, H, W]."""
    shots = y.unflatten(0, (count, -1))
    return [part.expand_as(shots).flatten(0, 1) for part in (shots.amax(1, keepdim=True), shots.mean(1, keepdim=True))]
