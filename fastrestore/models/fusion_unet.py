"""Recurrent denoiser for video and bursts, our own: a recursive filter over time with learned gates before a UNet.

As in EMVD (Maggioni et al., CVPR 2021) each frame is fused with what was fused before, pixel by pixel, as a Kalman
filter would: where the two agree up to noise, their mean; where something has moved, the new frame alone.  How far they
disagree is a local mean of squared differences, corrected by a convolutional GRU (Ballas et al., 2016) at half
resolution, whose hidden features are part of the state.  The UNet then removes what noise is left, told how much that is
at each pixel.  A frame without a state passes as through a UNet, whose weights fit (their names are the same).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore.layers import State, conv2d, pad_to_multiple, sigma_map
from fastrestore.models.unet import UNet, UNetConfig

FLOOR = 2 / 255  # noise that is always expected: rounding, and what a flow misses
WINDOW = 7  # pixels a side of the local mean
TOLERANCE = 1.15  # of that mean against its expectation: by chance it is as much larger
MOST = 16.0  # frames' worth of noise reduction at most, so that slow change is followed


@dataclass(frozen=True)
class FusionUNetConfig(UNetConfig):
    hidden: int = 32  # channels of the hidden features; a multiple of 16

    def __post_init__(self):
        if not self.sigma or self.gain:
            raise ValueError("a fusion UNet removes noise: it needs sigma and has no gain")


class FusionUNet(UNet):
    """forward(x, sigma) -> restored x, alone; step(x, sigma, state) -> (restored x, the next state).

    x: [N, C, H, W] in [0, 1]; sigma as the UNet's.  Causal: a result depends on this frame and those before.
    `halo` is forward's; a step's result and state look `step_halo` pixels far into frame and state.
    State.frame is the fused frame and, in one more channel, how many frames its noise reduction is worth.
    """

    Config = FusionUNetConfig

    def __init__(self, config: FusionUNetConfig):
        super().__init__(config)
        hidden, pixels = config.hidden, 4 * config.channels
        self.frame_channels = config.channels + 1
        self.compare = nn.Conv2d(2 * pixels + 8 + 1, hidden, 3, padding=1)
        self.gates = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1)
        self.candidate = nn.Conv2d(2 * hidden, hidden, 3, padding=1)
        self.change = nn.Conv2d(hidden, 8, 3, padding=1)
        self.doubt = nn.Conv2d(pixels + hidden, config.widths[0], 3, padding=1, bias=False)
        nn.init.zeros_(self.change.weight)
        with torch.no_grad():
            self.change.bias.copy_(torch.tensor([0.0] * 4 + [-4.0] * 4))
        nn.init.normal_(self.doubt.weight, std=1e-3)
        self.step_halo = self.halo + 12  # four more convolutions at half resolution, the window, and its grid

    def step(self, x: Tensor, sigma: float | Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Restores the next frame of a stream.  state: of the frame before, carried to this one; None: there is none.

        Raises ValueError for a state of another size.
        """
        height, width = x.shape[-2:]
        image = pad_to_multiple(x, self.multiple_of)
        level = sigma_map(sigma, image)
        half = [side // 2 for side in image.shape[2:]]
        if state is None:
            state = State(x.new_zeros(x.shape[0], self.frame_channels, height, width), None)
            hidden = x.new_zeros(x.shape[0], self.config.hidden, *half)
        else:
            hidden = state.hidden
            if state.frame.shape[2:] != x.shape[2:] or list(hidden.shape[2:]) != half:
                raise ValueError(f"a state of {list(state.frame.shape)} for a frame of {list(x.shape)}")
        past, worth = pad_to_multiple(state.frame, self.multiple_of).split([image.shape[1], 1], 1)
        share, hidden = self._share(image, past, worth.clamp(0, MOST), level, hidden)
        fused = past + share * (image - past)
        left = F.avg_pool2d(level * share.sqrt(), 2)
        y = conv2d(self.head, torch.cat([F.pixel_unshuffle(fused, 2), left], 1))
        y = y + conv2d(self.doubt, torch.cat([F.pixel_unshuffle(image - fused, 2).to(hidden.dtype), hidden], 1))
        restored = self._restored(fused, self._body(y))[..., :height, :width]
        frame = torch.cat([fused, 1 / share], 1)[..., :height, :width]
        return restored, State(frame, hidden)

    def _share(
        self, image: Tensor, past: Tensor, worth: Tensor, level: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The new frame's share in the fused one, which is also the variance of the noise left there against a frame's
        own [N, 1, H, W]; and the next hidden features."""
        expected = level.square() + FLOOR**2
        difference = (image - past) / expected.sqrt()
        energy = F.avg_pool2d(
            difference.square().mean(1, keepdim=True), WINDOW, 1, WINDOW // 2, count_include_pad=False
        )
        excess = (energy - TOLERANCE * (1 + 1 / worth.clamp(min=1e-3))).clamp(0, 1e4)
        seen = [difference.clamp(-6, 6) * (worth > 0), image, excess.log1p(), worth.log1p()]
        seen = torch.cat([F.pixel_unshuffle(torch.cat(seen, 1), 2), F.avg_pool2d(level, 2)], 1)
        y = conv2d(self.compare, seen, activation="relu")
        update, reset = conv2d(self.gates, torch.cat([y, hidden.to(y.dtype)], 1)).sigmoid().chunk(2, 1)
        candidate = conv2d(self.candidate, torch.cat([y, (reset * hidden).to(y.dtype)], 1)).tanh()
        hidden = hidden + update * (candidate - hidden)
        factor, least = F.pixel_shuffle(conv2d(self.change, hidden).float(), 2).clamp(-8, 8).exp().chunk(2, 1)
        moved = excess * factor + least  # variance by which the past is wrong, against a frame's noise
        return (1 + moved * worth) / (1 + worth + moved * worth), hidden
