"""The residual block of the restoration U-Nets."""

from torch import Tensor, nn

from fastrestore.layers.fused import conv2d


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), 3x3, without normalisation (EDSR, Lim et al., 2017).  x: [N, width, H, W].

    The second convolution starts near zero, so that a deep network starts as the identity: in a trial of the
    first minutes of training this was worth more than any other choice.
    """

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.kaiming_normal_(self.conv1.weight, nonlinearity="relu")
        nn.init.normal_(self.conv2.weight, std=0.01 * width**-0.5)
        nn.init.zeros_(self.conv1.bias)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(self.conv2, conv2d(self.conv1, x, activation="relu"), residual=x)
