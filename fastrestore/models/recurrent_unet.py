"""Recurrent U-Net for video and bursts, our own: the UNet with a convolutional GRU (Ballas et al., 2016) beside it.

Of the frames before, a state remembers the last result and hidden features at half resolution.  Both enter the head;
the last features update the hidden ones.  The state knows no motion: whoever calls carries it from frame to frame
with layers.carried.  Without a state a frame is restored as by a UNet, whose weights fit (their names are
the same).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore.layers import ConvGRU, State, conv2d, pad_to_multiple
from fastrestore.models.unet import UNet, UNetConfig


@dataclass(frozen=True)
class RecurrentUNetConfig(UNetConfig):
    hidden: int = 32  # channels of the hidden features; a multiple of 16


class RecurrentUNet(UNet):
    """forward(x, sigma) -> restored x, alone; step(x, sigma, state) -> (restored x, the next state).

    x: [N, C, H, W] in [0, 1]; sigma as the UNet's.  Causal: a result depends on this frame and those before.
    `halo` is forward's; a step's result and state look `step_halo` pixels far into frame and state.
    State.frame is the last result.
    """

    Config = RecurrentUNetConfig

    def __init__(self, config: RecurrentUNetConfig):
        super().__init__(config)
        width, hidden = config.widths[0], config.hidden
        self.frame_channels = config.channels
        self.recall = nn.Conv2d(4 * config.channels + hidden, width, 3, padding=1, bias=False)
        self.gru = ConvGRU(width, hidden)
        nn.init.normal_(self.recall.weight, std=1e-3)
        self.step_halo = self.halo + 2  # the GRU is two convolutions deep where the tail is one

    def step(self, x: Tensor, sigma: float | Tensor | None = None, state: State | None = None) -> tuple[Tensor, State]:
        """Restores the next frame of a stream.  state: of the frame before, carried to this one; None: there is none.

        Raises ValueError for a state of another size.
        """
        if (sigma is None) == self.takes_sigma:
            raise ValueError(f"this RecurrentUNet takes {'a' if self.takes_sigma else 'no'} sigma")
        height, width = x.shape[-2:]
        image = pad_to_multiple(x, self.multiple_of)
        y = self._head(image, sigma)
        if state is None:
            hidden = y.new_zeros(y.shape[0], self.config.hidden, *y.shape[2:])
        else:
            hidden = state.hidden
            if state.frame.shape != x.shape or hidden.shape[2:] != y.shape[2:]:
                raise ValueError(f"a state of {list(state.frame.shape)} for a frame of {list(x.shape)}")
            last = F.pixel_unshuffle(pad_to_multiple(state.frame, self.multiple_of), 2)
            y = y + conv2d(self.recall, torch.cat([last.to(hidden.dtype), hidden], 1))
        y = self._body(y)
        restored = self._restored(image, y)[..., :height, :width]
        return restored, State(restored, self.gru(y, hidden))
