"""Convolutional recurrent cells: a hidden image that each new one changes."""

import torch
from torch import Tensor, nn

from fastrestore.layers.fused import conv2d


class ConvGRU(nn.Module):
    """h' = h + z (c - h), z and r = sigmoid(conv([x, h])), c = tanh(conv([x, r h])) (Ballas et al., 2016).

    x: [N, channels, H, W], h and the result: [N, hidden, H, W].  It looks two kernels far into both.
    """

    def __init__(self, channels: int, hidden: int, side: int = 3):
        super().__init__()
        self.gates = nn.Conv2d(channels + hidden, 2 * hidden, side, padding=side // 2)
        self.candidate = nn.Conv2d(channels + hidden, hidden, side, padding=side // 2)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        update, reset = conv2d(self.gates, torch.cat([x, h], 1)).sigmoid().chunk(2, 1)
        candidate = conv2d(self.candidate, torch.cat([x, reset * h], 1)).tanh()
        return h + update * (candidate - h)


class ConvLSTM(nn.Module):
    """c' = f c + i g, h' = o tanh(c'), with i, f, o = sigmoid and g = tanh of conv([x, h]) (Shi et al., 2015), without
    connections from the cell to the gates.

    x: [N, channels, H, W], h and c: [N, hidden, H, W].
    """

    def __init__(self, channels: int, hidden: int, side: int = 3):
        super().__init__()
        self.gates = nn.Conv2d(channels + hidden, 4 * hidden, side, padding=side // 2)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The new h and c."""
        i, f, o, g = conv2d(self.gates, torch.cat([x, h], 1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
