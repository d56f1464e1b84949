"""SCUNet (Zhang et al., 2022): DRUNet's U-Net, each block of which splits its channels between convolutions and
window attention.

Section 3.1 and figure 1 of the paper.  Parameter names as the authors publish them: m_head.0, m_down1.0.conv1_1,
m_down1.0.trans_block.msa.embedding_layer, m_down1.0.conv_block.0, m_down1.4, m_body.0, m_up3.0, m_tail.0.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastrestore.layers import conv2d, conv_transpose2d, pad_to_multiple, reach, window_attention

MOST_WINDOW = 64  # its bias grows with the square


@dataclass(frozen=True)
class SCUNetConfig:
    channels: int = 3
    width: int = 64  # of the finest level; doubled at each halving of the size
    blocks: tuple[int, ...] = (4, 4, 4, 4, 4, 4, 4)  # three levels down, the coarsest, three levels up
    head_width: int = 32  # channels of an attention head
    window: int = 8  # side, in pixels of the level


class SCUNet(nn.Module):
    """forward(x) -> restored x, for the noise that the weights are for.  x: [N, C, H, W] in [0, 1].

    Sides are padded to whole windows of the coarsest level by repetition at the bottom and right, as the authors' code
    says.  Attention stays in its windows, whose grid begins at the picture's origin, so the halo is finite: 357 pixels
    as published.  Training and test run the same network.
    """

    Config = SCUNetConfig
    variants: ClassVar[dict[str, SCUNetConfig]] = {"color": SCUNetConfig(), "gray": SCUNetConfig(channels=1)}
    takes_sigma = False

    def __init__(self, config: SCUNetConfig):
        super().__init__()
        if len(config.blocks) != 7:
            raise ValueError(f"blocks must be seven numbers, got {len(config.blocks)}")
        if config.window > MOST_WINDOW:
            raise ValueError(f"window must be at most {MOST_WINDOW}, got {config.window}")
        widths = [config.width * 2**level for level in range(4)]
        w1, w2, w3, w4 = widths
        self.config = config
        self.multiple_of = 8 * config.window
        down1, down2, down3, body, up3, up2, up1 = (
            [_Block(width, config, config.window // 2 * (i % 2)) for i in range(count)]
            for width, count in zip([*widths, w3, w2, w1], config.blocks, strict=True)
        )
        self.m_head = nn.Sequential(nn.Conv2d(config.channels, w1, 3, padding=1, bias=False))
        self.m_down1 = nn.Sequential(*down1, nn.Conv2d(w1, w2, 2, stride=2, bias=False))
        self.m_down2 = nn.Sequential(*down2, nn.Conv2d(w2, w3, 2, stride=2, bias=False))
        self.m_down3 = nn.Sequential(*down3, nn.Conv2d(w3, w4, 2, stride=2, bias=False))
        self.m_body = nn.Sequential(*body)
        self.m_up3 = nn.Sequential(nn.ConvTranspose2d(w4, w3, 2, stride=2, bias=False), *up3)
        self.m_up2 = nn.Sequential(nn.ConvTranspose2d(w3, w2, 2, stride=2, bias=False), *up2)
        self.m_up1 = nn.Sequential(nn.ConvTranspose2d(w2, w1, 2, stride=2, bias=False), *up1)
        self.m_tail = nn.Sequential(nn.Conv2d(w1, config.channels, 3, padding=1, bias=False))
        stages = [self.m_head, self.m_down1, self.m_down2, self.m_down3, self.m_body]
        stages += [self.m_up3, self.m_up2, self.m_up1, self.m_tail]
        self.halo = reach.halo([_step(layer) for stage in stages for layer in stage][::-1], self.multiple_of)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x1 = conv2d(self.m_head[0], pad_to_multiple(x, self.multiple_of))
        x2 = _run(self.m_down1, x1)
        x3 = _run(self.m_down2, x2)
        x4 = _run(self.m_down3, x3)
        y = _run(self.m_up3, self.m_body(x4) + x4)
        y = _run(self.m_up2, y + x3)
        y = _run(self.m_up1, y + x2)
        return conv2d(self.m_tail[0], y + x1)[..., :height, :width]


class _Block(nn.Module):
    """x + a 1x1 convolution of both halves: one through convolutions, one through attention.  x: [N, width, H, W]."""

    def __init__(self, width: int, config: SCUNetConfig, shift: int):
        super().__init__()
        half = width // 2
        if half % config.head_width:
            raise ValueError(f"half of {width} channels is no multiple of a head's {config.head_width}")
        self.side, self.shift = config.window, shift
        self.conv1_1 = nn.Conv2d(width, width, 1)
        self.conv_block = nn.Sequential(
            nn.Conv2d(half, half, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1, bias=False),
        )
        self.trans_block = _Transformer(half, config, shift)
        self.conv1_2 = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = conv2d(self.conv1_1, x).chunk(2, 1)
        a = conv2d(self.conv_block[2], conv2d(self.conv_block[0], a, activation="relu"), residual=a)
        b = self.trans_block(b.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return conv2d(self.conv1_2, torch.cat([a, b], 1), residual=x)


class _Transformer(nn.Module):
    """Window attention, then a perceptron for each pixel.  x: [N, H, W, width]."""

    def __init__(self, width: int, config: SCUNetConfig, shift: int):
        super().__init__()
        self.ln1 = nn.LayerNorm(width)
        self.msa = _Attention(width, width // config.head_width, config.window, shift)
        self.ln2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.msa(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class _Attention(nn.Module):
    """x: [N, H, W, width].  The grid of windows begins at `shift`."""

    def __init__(self, width: int, heads: int, side: int, shift: int):
        super().__init__()
        self.side, self.shift = side, shift
        self.relative_position_params = nn.Parameter(torch.zeros(heads, 2 * side - 1, 2 * side - 1))
        self.embedding_layer = nn.Linear(width, 3 * width)
        self.linear = nn.Linear(width, width)
        nn.init.trunc_normal_(self.relative_position_params, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.relative_position_params.flatten(1)
        return self.linear(window_attention(self.embedding_layer(x), bias, self.side, self.shift))


def _run(layers: nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            x = conv2d(layer, x)
        elif isinstance(layer, nn.ConvTranspose2d):
            x = conv_transpose2d(layer, x)
        else:
            x = layer(x)
    return x


def _step(layer: nn.Module) -> reach.Step:
    if isinstance(layer, nn.ConvTranspose2d):
        return reach.transposed(2, 2)
    if isinstance(layer, nn.Conv2d):
        return reach.convolution() if layer.stride == (1, 1) else reach.strided(2, 2)
    return reach.either(reach.windows(layer.side, layer.shift), reach.convolution(2))
