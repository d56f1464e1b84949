"""Residual U-Net for all three tasks, our own: pixel-unshuffled input, strided convolutions down and transposed ones
up, residual blocks without normalisation (after DRUNet, Zhang et al., 2021, at 1/8 of its operations a pixel or
less).  For denoising it has a σ plane; for moiré, which comes with another tone, a gain beside the residual."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore.layers import ResidualBlock, conv2d, conv_transpose2d, pad_to_multiple, sigma_map


@dataclass(frozen=True)
class UNetConfig:
    channels: int = 3
    widths: tuple[int, ...] = (64, 96, 144)  # of the levels, finest first; multiples of 16
    blocks: int = 2  # residual blocks a level and side
    sigma: bool = True  # whether the noise level is an input
    gain: bool = False  # the result is x * (1 + gain) - residual, each predicted, instead of x - residual


class UNet(nn.Module):
    """forward(x, sigma) -> restored x, or forward(x) where the configuration has no sigma.

    x: [N, C, H, W] in [0, 1]; sigma: a number or [N], in 0-255 units.  Grey images enter with their plane repeated
    in every channel.
    """

    Config = UNetConfig
    takes_sigma = True  # unless the configuration says otherwise

    def __init__(self, config: UNetConfig):
        super().__init__()
        widths, blocks = config.widths, config.blocks
        self.config = config
        self.takes_sigma = config.sigma
        self.multiple_of = 2 ** len(widths)
        self.head = nn.Conv2d(4 * config.channels + config.sigma, widths[0], 3, padding=1)
        self.encoders = nn.ModuleList(_blocks(width, blocks) for width in widths[:-1])
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.middle = _blocks(widths[-1], blocks)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.decoders = nn.ModuleList(_blocks(width, blocks) for width in widths[:-1])
        self.tail = nn.Conv2d(widths[0], 4 * config.channels * (1 + config.gain), 3, padding=1)
        nn.init.normal_(self.tail.weight, std=1e-3)
        self.halo = _halo(len(widths), blocks)

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


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*[ResidualBlock(width) for _ in range(count)])


def _halo(levels: int, blocks: int) -> int:
    """Pixels of context that an output pixel depends on, each way, at most over all positions.

    Level l has pixels of 2^(l+1) input pixels; each of its 3x3 convolutions looks one of them further.
    """
    convolutions = [2 + 4 * blocks if level == 0 else 4 * blocks for level in range(levels)]
    convolutions[-1] = 2 * blocks if levels > 1 else 2 + 2 * blocks
    reach = sum(count * 2 ** (level + 1) for level, count in enumerate(convolutions))
    return reach + 2**levels - 1  # the grid of the coarsest level: a pixel may stand at either end of its cell
