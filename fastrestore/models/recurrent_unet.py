"""Recurrent U-Net for video and bursts, our own: the U-Net restores each frame by itself, then a small recurrent
network fuses the result with the one before.

What blurs or covers one frame has left the next, so their restored versions differ where one of them is wrong.  The
fusion sees the frame, its result alone, the fused result before it, and hidden features that a convolutional GRU
(Ballas et al., 2016) keeps at half resolution.  It says at each pixel how much of the past counts, how much of the
frame as it came, and what to change besides.  A frame without a state passes as through the U-Net.
The state knows no motion: whoever calls carries it from frame to frame with layers.carried, by the flow between
results, in which there is less blur and moiré than in the frames to be misled by.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore.layers import ConvGRU, ResidualBlock, State, conv2d, pad_to_multiple
from fastrestore.models.unet import UNet, UNetConfig

GAIN = 8.0  # of the differences between pictures, which are small against what they differ in
SLOPE = 0.1  # of the activation below zero: a plain one died in training, all of it


@dataclass(frozen=True)
class RecurrentUNetConfig(UNetConfig):
    width: int = 48  # channels of the fusion; a multiple of 16
    depth: int = 2  # residual blocks of the fusion
    hidden: int = 32  # channels of the hidden features; a multiple of 16


class RecurrentUNet(UNet):
    """forward(x, sigma) -> restored x, alone; step(x, sigma, state) -> (restored x, the next state).

    x: [N, C, H, W] in [0, 1]; sigma as the UNet's.  Causal: a result depends on this frame and those before.
    `halo` is forward's; a step's result and state look `step_halo` pixels far into frame and state.
    """

    Config = RecurrentUNetConfig

    def __init__(self, config: RecurrentUNetConfig):
        super().__init__(config)
        self.fusion = RecurrentFusion(config)
        self.step_halo = self.halo + self.fusion.halo

    def step(
        self, x: Tensor, sigma: float | Tensor | None = None, state: State | None = None, alone: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Restores the next frame of a stream.

        state: of the frame before, carried to this one; None: there is none.  alone: what forward gave for x, where
        that is known.  Raises ValueError for a state of another size.
        """
        alone = self(x, sigma) if alone is None else alone
        height, width = x.shape[-2:]
        image, alone = (pad_to_multiple(part, RecurrentFusion.multiple_of) for part in (x, alone))
        if state is None:
            count, (_, channels, *sides) = x.shape[0], image.shape
            frame = x.new_zeros(count, channels + 1, height, width)
            state = State(frame, x.new_zeros(count, self.config.hidden, *(side // 2 for side in sides)))
        if state.frame.shape[2:] != x.shape[2:] or 2 * state.hidden.shape[2] != image.shape[2]:
            raise ValueError(f"a state of {list(state.frame.shape)} for a frame of {list(x.shape)}")
        frame = pad_to_multiple(state.frame, RecurrentFusion.multiple_of)
        restored, frame, hidden, _ = self.fusion(image, frame, state.hidden, alone)
        return restored[..., :height, :width], State(frame[..., :height, :width], hidden)


class RecurrentFusion(nn.Module):
    """forward(x, frame, hidden, alone) -> (restored, the next frame, the next hidden, alone), as a plan with states.

    x, alone: a frame and its result alone, [N, C, H, W].  frame: the fused result before, and in one more channel how
    much of it is known: 0 for nothing, then 1 - 2^-n after n frames.  hidden: [N, hidden, H / 2, W / 2].
    """

    multiple_of = 2
    takes_sigma = False

    def __init__(self, config: RecurrentUNetConfig):
        super().__init__()
        self.config = config
        pixels, width = 4 * config.channels, config.width
        self.states = ((config.channels + 1, 1), (config.hidden, 2), (config.channels, 1))
        self.look = nn.Conv2d(3 * pixels + 4 + config.hidden, width, 3, padding=1)
        self.blocks = nn.Sequential(*[ResidualBlock(width) for _ in range(config.depth)])
        self.gru = ConvGRU(width, config.hidden)
        self.mix = nn.Conv2d(width, 3 * pixels, 3, padding=1)
        nn.init.normal_(self.mix.weight, std=1e-3)
        with torch.no_grad():
            # At first most of what is known of the past counts, and little of the frame as it came.
            self.mix.bias.copy_(torch.tensor([1.0] * pixels + [-3.0] * pixels + [0.0] * pixels))
        self.halo = 2 * (2 + 2 * config.depth + 2) + 1  # at half resolution two convolutions, blocks, GRU; and the grid

    def forward(self, x: Tensor, frame: Tensor, hidden: Tensor, alone: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        last, known = frame.split([x.shape[1], 1], 1)
        known = known.clamp(0, 1)
        past, raw = known * (last - alone), x - alone
        pixels = F.pixel_unshuffle(torch.cat([alone - 0.5, GAIN * raw, GAIN * past, known], 1), 2)
        y = conv2d(self.look, torch.cat([pixels, hidden], 1), activation="leaky_relu", slope=SLOPE)
        y = self.blocks(y)
        of_past, of_raw, change = F.pixel_shuffle(conv2d(self.mix, y), 2).chunk(3, 1)
        restored = alone + of_past.sigmoid() * past + known * (of_raw.sigmoid() * raw + change)
        return restored, torch.cat([restored, 0.5 * known + 0.5], 1), self.gru(y, hidden), alone
