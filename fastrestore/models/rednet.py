"""RED-Net (Mao et al., 2016): convolutions and as many transposed ones at half size, with skips every second layer.

RED10, RED20 and RED30 are 5, 10 and 15 layers a side.  Strides and parameter names (conv_layers.0.0, ...,
deconv_layers.0.0, ..., the last deconv_layers without a second number) as in yjn870/REDNet-pytorch, whose RED10
has no inner skips; like there, the output passes a last ReLU.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from fastrestore.layers import conv2d, conv_transpose2d, pad_to_multiple


@dataclass(frozen=True)
class REDNetConfig:
    channels: int = 3
    width: int = 64
    layers: int = 15  # convolutions, and as many transposed ones
    skips: bool = True  # between the layers; the one from input to output is always there


class REDNet(nn.Module):
    """forward(x) -> restored x, never negative.  x: [N, C, H, W] in [0, 1]."""

    Config = REDNetConfig
    multiple_of = 2
    takes_sigma = False

    def __init__(self, config: REDNetConfig):
        super().__init__()
        channels, width, inner = config.channels, config.width, config.layers - 1
        self.config = config
        convs = [nn.Conv2d(channels, width, 3, stride=2, padding=1)]
        convs += [nn.Conv2d(width, width, 3, padding=1) for _ in range(inner)]
        deconvs = [nn.ConvTranspose2d(width, width, 3, padding=1) for _ in range(inner)]
        last = nn.ConvTranspose2d(width, channels, 3, stride=2, padding=1, output_padding=1)
        self.conv_layers = nn.Sequential(*[nn.Sequential(conv, nn.ReLU()) for conv in convs])
        self.deconv_layers = nn.Sequential(*[nn.Sequential(conv, nn.ReLU()) for conv in deconvs], last)
        # The inner layers look one half-size pixel each; the strided pair, at an odd pixel, one and its neighbour.
        self.halo = 4 * inner + 2
        skipped = range(2, config.layers, 2) if config.skips else range(0)
        self._kept = tuple(skipped)[: (config.layers + 1) // 2 - 1]  # convolutions (from 1) whose output is kept

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        image = pad_to_multiple(x, self.multiple_of)
        y, kept = image, []
        for i, (conv, _) in enumerate(self.conv_layers, 1):
            y = conv2d(conv, y, activation="relu")
            if i in self._kept:
                kept.append(y)
        *inner, last = self.deconv_layers
        for i, (deconv, _) in enumerate(inner, 1):
            # The skip lands where the counts of both sides add up to an even number of layers.
            skip = kept.pop() if kept and (i + self.config.layers) % 2 == 0 else None
            y = conv_transpose2d(deconv, y, activation="relu", residual=skip)
        y = conv_transpose2d(last, y, activation="relu", residual=image, residual_first=True)
        return y[..., :height, :width]
