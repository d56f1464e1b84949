"""Convolutional denoising autoencoder: a strided encoder, a bottleneck and a transposed-convolution decoder with
symmetric skips (RED-Net, Mao et al., 2016, here over a pyramid instead of at one size, and with residual blocks
between the skips: plain ones in their place ended 0.5 dB lower, after a shorter training)."""

from dataclasses import dataclass

from torch import Tensor, nn

from fastrestore.layers import ResidualBlock, conv2d, conv_transpose2d, pad_to_multiple


@dataclass(frozen=True)
class AutoencoderConfig:
    channels: int = 3
    widths: tuple[int, ...] = (48, 96, 128)  # channels after each halving of the size; multiples of 16
    blocks: int = 2  # residual blocks a level and side


class Autoencoder(nn.Module):
    """forward(x) -> restored x, for any noise level.  x: [N, C, H, W] in [0, 1]."""

    Config = AutoencoderConfig
    takes_sigma = False

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths, blocks = config.widths, config.blocks
        inputs = [config.channels, *widths[:-1]]
        self.config = config
        self.multiple_of = 2 ** len(widths)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(inputs, widths, strict=True))
        self.encoders = nn.ModuleList(_blocks(width, blocks) for width in widths)
        self.decoders = nn.ModuleList(_blocks(width, blocks) for width in widths)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in zip(inputs, widths, strict=True))
        nn.init.normal_(self.ups[0].weight, std=1e-3)
        nn.init.zeros_(self.ups[0].bias)
        # Each level's 3x3 convolutions look one of its pixels further; the coarsest grid's cells end anywhere.
        levels = range(1, len(widths) + 1)
        self.halo = sum(4 * blocks * 2**level for level in levels) + self.multiple_of - 1

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        image = pad_to_multiple(x, self.multiple_of)
        y = image
        skips = [image]
        for down, encoder in zip(self.downs, self.encoders, strict=True):
            y = encoder(conv2d(down, y))
            skips.append(y)
        skips.pop()  # the bottleneck goes into the decoder itself
        for up, decoder in reversed(list(zip(self.ups, self.decoders, strict=True))):
            y = conv_transpose2d(up, decoder(y), residual=skips.pop())
        return y[..., :height, :width]


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*[ResidualBlock(width) for _ in range(count)])
