"""ESTRNN (Zhong et al., ECCV 2020): a recurrent cell of residual dense blocks, and attention between near frames.

The cell turns each frame and a hidden state into features at a quarter of the size; a frame is rebuilt from those of
two frames before it to two after it, weighted by how they go together over the whole picture.  Parameter names as the
authors publish them: cell.F_B0, cell.F_R.RDBs.0.dense_layers.0.conv, fusion.F_f.0, recons.model.0, ...
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastrestore.layers import pad_to_multiple


@dataclass(frozen=True)
class ESTRNNConfig:
    channels: int = 3
    width: int = 16  # a fifth of the cell's features: C80 is 16
    blocks: int = 15  # residual dense blocks of the cell: B15 is 15
    past: int = 2  # frames before one that it is rebuilt from
    future: int = 2  # frames after it


class ESTRNN(nn.Module):
    """forward(x) -> restored frames [N, T - past - future, C, H, W], or of a picture itself.

    x: [N, T, C, H, W] in [0, 1], the clip; frames without enough neighbours are left out, as published.  A picture
    [N, C, H, W] stands for a clip of itself and comes back restored.  The attention sees whole pictures: no halo.
    """

    Config = ESTRNNConfig
    multiple_of = 4
    takes_sigma = False
    halo = None

    def __init__(self, config: ESTRNNConfig):
        super().__init__()
        self.config = config
        self.cell, self.fusion, self.recons = _Cell(config), _Attention(config), _Reconstructor(config)

    def forward(self, x: Tensor) -> Tensor:
        span = self.config.past + 1 + self.config.future
        if x.ndim == 4:
            return self(x[:, None].expand(-1, span, -1, -1, -1))[:, 0]
        if x.shape[1] < span:
            raise ValueError(f"this ESTRNN takes {span} frames or more, got {x.shape[1]}")
        height, width = x.shape[-2:]
        features, state = [], None
        for frame in x.unbind(1):
            frame = 2 * pad_to_multiple(frame, self.multiple_of) - 1  # trained on -1 to 1
            if state is None:
                state = frame.new_zeros(frame.shape[0], self.config.width, frame.shape[2] // 4, frame.shape[3] // 4)
            y, state = self.cell(frame, state)
            features.append(y)
        near = [features[i : i + span] for i in range(len(features) - span + 1)]
        restored = torch.stack([self.recons.model(self.fusion(part)) for part in near], 1)
        return (restored[..., :height, :width] + 1) / 2


class _Dense(nn.Module):
    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.act(self.conv(x))], 1)


class _DenseBlock(nn.Module):
    """x + three dense layers of it, brought back to its width."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.dense_layers = nn.Sequential(*[_Dense(width + i * growth, growth) for i in range(3)])
        self.conv1x1 = nn.Conv2d(width + 3 * growth, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv1x1(self.dense_layers(x))


class _Down(nn.Module):
    def __init__(self, width: int, growth: int):
        super().__init__()
        self.rdb = _DenseBlock(width, growth)
        self.down_sampling = nn.Conv2d(width, 2 * width, 5, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_sampling(self.rdb(x))


class _DenseBlocks(nn.Module):
    def __init__(self, width: int, growth: int, blocks: int):
        super().__init__()
        self.RDBs = nn.ModuleList(_DenseBlock(width, growth) for _ in range(blocks))
        self.conv1x1 = nn.Conv2d(blocks * width, width, 1)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        each = []
        for block in self.RDBs:
            x = block(x)
            each.append(x)
        return self.conv3x3(self.conv1x1(torch.cat(each, 1)))


class _Cell(nn.Module):
    """(frame [N, C, H, W], state [N, width, H/4, W/4]) -> (features [N, 5 width, H/4, W/4], the next state)."""

    def __init__(self, config: ESTRNNConfig):
        super().__init__()
        width = config.width
        self.F_B0 = nn.Conv2d(config.channels, width, 5, padding=2)
        self.F_B1 = _Down(width, width)
        self.F_B2 = _Down(2 * width, 3 * width // 2)
        self.F_R = _DenseBlocks(5 * width, 2 * width, config.blocks)
        self.F_h = nn.Sequential(
            nn.Conv2d(5 * width, width, 3, padding=1),
            _DenseBlock(width, width),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y = self.F_R(torch.cat([self.F_B2(self.F_B1(self.F_B0(x))), state], 1))
        return y, self.F_h(y)


class _Attention(nn.Module):
    """Features of past, present and future frames to those that the present one is rebuilt from."""

    def __init__(self, config: ESTRNNConfig):
        super().__init__()
        width, span = 5 * config.width, config.past + 1 + config.future
        self.present = config.past
        self.F_f = nn.Sequential(
            nn.Linear(2 * width, 4 * width), nn.GELU(), nn.Linear(4 * width, 2 * width), nn.Sigmoid()
        )
        self.F_p = nn.Sequential(nn.Conv2d(2 * width, 4 * width, 1), nn.Conv2d(4 * width, 2 * width, 1))
        self.condense = nn.Conv2d(2 * width, width, 1)
        self.fusion = nn.Conv2d(span * width, span * width, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        ours, parts = features[self.present], []
        for i, theirs in enumerate(features):
            if i != self.present:
                both = torch.cat([ours, theirs], 1)
                weight = self.F_f(both.mean((2, 3)))[..., None, None]
                parts.append(self.condense(weight * self.F_p(both)))
        return self.fusion(torch.cat([*parts, ours], 1))


class _Reconstructor(nn.Module):
    """Of one child, for the published names."""

    def __init__(self, config: ESTRNNConfig):
        super().__init__()
        width, span = config.width, config.past + 1 + config.future
        self.model = nn.Sequential(
            nn.ConvTranspose2d(5 * width * span, 2 * width, 3, 2, 1, output_padding=1),
            nn.ConvTranspose2d(2 * width, width, 3, 2, 1, output_padding=1),
            nn.Conv2d(width, config.channels, 5, padding=2),
        )
