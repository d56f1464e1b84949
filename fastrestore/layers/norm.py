"""Layer normalisation over the channels of each pixel."""

import torch
from torch import Tensor, nn

from fastrestore.layers.fused import layer_norm


class ChannelNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias, by pixel over its channels.  x: [N, channels, H, W].

    It looks at one pixel only, so it adds nothing to a model's halo.
    """

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)
