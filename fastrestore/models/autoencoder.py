"""Convolutional denoising autoencoder: a strided encoder, a bottleneck and a transposed-convolution decoder with
symmetric skips added before the ReLU (RED-Net, Mao et al., 2016, here over a pyramid instead of at one size)."""

from dataclasses import dataclass

from torch import Tensor, nn

from fastrestore.layers import conv2d, conv_transpose2d, pad_to_multiple


@dataclass(frozen=True)
class AutoencoderConfig:
    channels: int = 3
    widths: tuple[int, ...] = (48, 96, 128)  # channels after each halving of the size
    depth: int = 3  # 3x3 convolutions a stage and side, the strided one not counted


class Autoencoder(nn.Module):
    """forward(x) -> restored x, for any noise level.  x: [N, C, H, W] in [0, 1]."""

    Config = AutoencoderConfig
    takes_sigma = False

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        inputs = [config.channels, *config.widths[:-1]]
        self.config = config
        self.multiple_of = 2 ** len(config.widths)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(inputs, config.widths, strict=True))
        self.encoders = nn.ModuleList(_stage(width, config.depth) for width in config.widths)
        self.decoders = nn.ModuleList(_stage(width, config.depth) for width in config.widths)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in zip(inputs, config.widths, strict=True)
        )
        nn.init.normal_(self.ups[0].weight, std=1e-3)
        nn.init.zeros_(self.ups[0].bias)
        levels = range(1, len(config.widths) + 1)
        self.halo = sum(2 * config.depth * 2**level for level in levels) + self.multiple_of - 1

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        image = pad_to_multiple(x, self.multiple_of)
        y = image
        skips = []
        for down, encoder in zip(self.downs, self.encoders, strict=True):
            y = conv2d(down, y)
            y, kept = _encode(encoder, y)
            skips.append(kept)
        last = len(self.ups) - 1
        for level in range(last, -1, -1):
            y = _decode(self.decoders[level], y, skips[level])
            y = conv_transpose2d(self.ups[level], y, residual=image if level == 0 else None)
        return y[..., :height, :width]


def _stage(width: int, depth: int) -> nn.ModuleList:
    layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        layer.weight.data.mul_(0.5)  # each decoder layer adds a skip: keeps the variance of the sum near one
        nn.init.zeros_(layer.bias)
    return layers


def _encode(layers: nn.ModuleList, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    kept = []
    for layer in layers:
        kept.append(x)
        x = conv2d(layer, x, activation="relu")
    return x, kept


def _decode(layers: nn.ModuleList, x: Tensor, kept: list[Tensor]) -> Tensor:
    for layer, skip in zip(layers, reversed(kept), strict=True):
        x = conv2d(layer, x, activation="relu", residual=skip, residual_first=True)
    return x
