"""DRUNet (Zhang et al., 2021): a residual U-Net of four levels without biases, with a plane of σ beside the picture.

Parameter names as in KAIR's UNetRes: m_head, m_down1.0.res.0, ..., m_body, m_up3, ..., m_tail.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastrestore.layers import conv2d, conv_transpose2d, pad_to_multiple, sigma_map


@dataclass(frozen=True)
class DRUNetConfig:
    channels: int = 3
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)  # of the levels, finest first
    blocks: int = 4  # residual blocks a level and side


class DRUNet(nn.Module):
    """forward(x, sigma) -> restored x.  x: [N, C, H, W] in [0, 1]; sigma: a number or [N], in 0-255 units."""

    Config = DRUNetConfig
    multiple_of = 8
    takes_sigma = True

    def __init__(self, config: DRUNetConfig):
        super().__init__()
        (w1, w2, w3, w4), blocks = config.widths, config.blocks
        self.config = config
        self.m_head = nn.Conv2d(config.channels + 1, w1, 3, padding=1, bias=False)
        self.m_down1 = nn.Sequential(*_blocks(w1, blocks), nn.Conv2d(w1, w2, 2, stride=2, bias=False))
        self.m_down2 = nn.Sequential(*_blocks(w2, blocks), nn.Conv2d(w2, w3, 2, stride=2, bias=False))
        self.m_down3 = nn.Sequential(*_blocks(w3, blocks), nn.Conv2d(w3, w4, 2, stride=2, bias=False))
        self.m_body = nn.Sequential(*_blocks(w4, blocks))
        self.m_up3 = nn.Sequential(nn.ConvTranspose2d(w4, w3, 2, stride=2, bias=False), *_blocks(w3, blocks))
        self.m_up2 = nn.Sequential(nn.ConvTranspose2d(w3, w2, 2, stride=2, bias=False), *_blocks(w2, blocks))
        self.m_up1 = nn.Sequential(nn.ConvTranspose2d(w2, w1, 2, stride=2, bias=False), *_blocks(w1, blocks))
        self.m_tail = nn.Conv2d(w1, config.channels, 3, padding=1, bias=False)
        # Head and tail; 4 convolutions a block pair at pixels of 1, 2, 4 and 2 a block of 8; the cell of 8.
        self.halo = 2 + 4 * blocks * (1 + 2 + 4) + 2 * blocks * 8 + 7

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        height, width = x.shape[-2:]
        image = pad_to_multiple(x, self.multiple_of)
        x1 = conv2d(self.m_head, torch.cat([image, sigma_map(sigma, image)], 1))
        x2 = _down(self.m_down1, x1)
        x3 = _down(self.m_down2, x2)
        x4 = _down(self.m_down3, x3)
        y = _up(self.m_up3, self.m_body(x4) + x4)
        y = _up(self.m_up2, y + x3)
        y = _up(self.m_up1, y + x2)
        return conv2d(self.m_tail, y + x1)[..., :height, :width]


class _Block(nn.Module):
    """x + conv(relu(conv(x))), 3x3, without biases.  x: [N, width, H, W]."""

    def __init__(self, width: int):
        super().__init__()
        convs = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2)]
        self.res = nn.Sequential(convs[0], nn.ReLU(), convs[1])

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(self.res[2], conv2d(self.res[0], x, activation="relu"), residual=x)


def _blocks(width: int, count: int) -> list[_Block]:
    return [_Block(width) for _ in range(count)]


def _down(layers: nn.Sequential, x: Tensor) -> Tensor:
    *blocks, down = layers
    for block in blocks:
        x = block(x)
    return conv2d(down, x)


def _up(layers: nn.Sequential, x: Tensor) -> Tensor:
    up, *blocks = layers
    x = conv_transpose2d(up, x)
    for block in blocks:
        x = block(x)
    return x
