"""Recurrent denoiser for video and bursts, our own: a recursive filter over time with learned gates before a UNet.

As in EMVD (Maggioni et al., CVPR 2021) each frame is fused with what was fused before, pixel by pixel, as a Kalman
filter would: where the two agree up to noise, their mean; where something has moved, the new frame alone.  How far they
disagree is a local mean of squared differences, corrected by a convolutional GRU (Ballas et al., 2016) at half
resolution, whose hidden features are part of the state.  The UNet then removes the noise that is left, told how much
that is at each pixel.  A frame without a state passes as through a UNet, whose weights fit (their names are the same).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore.layers import ConvGRU, State, conv2d, pad_to_multiple, sigma_map
from fastrestore.models.unet import UNet, UNetConfig

FLOOR = 2 / 255  # noise that is always expected: rounding, and what a flow misses
# Where past and frame agree, the mean square of their difference is what noise makes it, and so is that of its means
# over pixels and colours, in which whatever is not noise stands out.  Of each, how much more passes for chance, and
# what the rest counts; chosen before any training on four frames each of three simulated clips and of the two real ones
# that the card reports.
TOLERANCE = (1.15, 1.6, 1.6, 1.4)
WEIGHT = (20.0, 5.0, 20 / 36, 20 / 50)
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
        self.compare = nn.Conv2d(2 * pixels + 10, hidden, 3, padding=1)
        self.gru = ConvGRU(hidden, hidden)
        self.change = nn.Conv2d(hidden, 8, 3, padding=1)
        self.doubt = nn.Conv2d(pixels + hidden, config.widths[0], 3, padding=1, bias=False)
        nn.init.zeros_(self.change.weight)
        with torch.no_grad():
            self.change.bias.copy_(torch.tensor([0.0] * 4 + [-4.0] * 4))
        nn.init.normal_(self.doubt.weight, std=1e-3)
        self.step_halo = self.halo + 18  # at half resolution four means, four convolutions, and the grid

    def step(self, x: Tensor, sigma: float | Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Restores the next frame of a stream.  state: of the frame before, carried to this one; None: there is none.

        Raises ValueError for a state of another size.
        """
        height, width = x.shape[-2:]
        image, fused, share, left, hidden = self._fuse(x, sigma, state)
        level = sigma_map(sigma, left)
        y = conv2d(self.head, torch.cat([F.pixel_unshuffle(fused, 2), left], 1))
        doubt = conv2d(self.doubt, torch.cat([F.pixel_unshuffle(image - fused, 2).to(hidden.dtype), hidden], 1))
        y = y + doubt * (left < level)  # nothing where there is no past
        restored = self._restored(fused, self._body(y))[..., :height, :width]
        return restored, _state(fused, share, hidden, height, width)

    def watch(self, x: Tensor, sigma: float | Tensor, state: State | None = None) -> State:
        """The state that `step` gives, for a frame whose result nobody needs: a tenth of the work."""
        _, fused, share, _, hidden = self._fuse(x, sigma, state)
        return _state(fused, share, hidden, *x.shape[-2:])

    def _fuse(self, x: Tensor, sigma: float | Tensor, state: State | None) -> tuple[Tensor, ...]:
        """The frame and the fused one, padded; the frame's share in it; the noise left, at half resolution; the next
        hidden features."""
        image = pad_to_multiple(x, self.multiple_of)
        level = sigma_map(sigma, image)
        half = [side // 2 for side in image.shape[2:]]
        if state is None:
            frame = x.new_zeros(x.shape[0], self.frame_channels, *x.shape[2:])
            state = State(frame, x.new_zeros(x.shape[0], self.config.hidden, *half))
        if state.frame.shape[2:] != x.shape[2:] or list(state.hidden.shape[2:]) != half:
            raise ValueError(f"a state of {list(state.frame.shape)} for a frame of {list(x.shape)}")
        past, worth = pad_to_multiple(state.frame, self.multiple_of).split([image.shape[1], 1], 1)
        share, hidden = self._share(image, past, worth.clamp(0, MOST), level, state.hidden)
        left = F.avg_pool2d(level * share.sqrt(), 2)
        return image, past + share * (image - past), share, left, hidden

    def _share(
        self, image: Tensor, past: Tensor, worth: Tensor, level: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The new frame's share in the fused one, which is also the variance of the noise left there against a frame's
        own [N, 1, H, W]; and the next hidden features."""
        difference = (image - past) / (level.square() + FLOOR**2).sqrt()
        seen = _statistics(difference)
        expected = 1 + 1 / F.avg_pool2d(worth, 2).clamp(min=1e-3)
        above = [w * (seen[:, [i]] - t * expected) for i, (t, w) in enumerate(zip(TOLERANCE, WEIGHT, strict=True))]
        excess = torch.cat(above, 1).amax(1, keepdim=True).clamp(0, 1e4)
        pixels = [difference.clamp(-6, 6) * (worth > 0), image, worth.log1p()]
        planes = [seen.clamp(max=1e4).log1p(), excess.log1p(), F.avg_pool2d(level, 2)]
        seen = torch.cat([F.pixel_unshuffle(torch.cat(pixels, 1), 2), *planes], 1)
        hidden = self.gru(conv2d(self.compare, seen, activation="relu"), hidden)
        factor, least = F.pixel_shuffle(conv2d(self.change, hidden).float(), 2).clamp(-8, 8).exp().chunk(2, 1)
        moved = (
            F.interpolate(excess, scale_factor=2) * factor + least
        )  # variance by which the past is wrong, against a frame's noise
        return (1 + moved * worth) / (1 + worth + moved * worth), hidden


class FusionStep(nn.Module):
    """forward(x, sigma, frame, hidden) -> (result, the next frame, the next hidden): a step, as a plan with states.

    result: the restored x, or x itself if `watch`, for frames whose result nobody needs.  frame, hidden: as State has
    them, of a padded frame.
    """

    takes_sigma = True

    def __init__(self, model: FusionUNet, watch: bool = False):
        super().__init__()
        self.model, self.config, self.watch = model, model.config, watch
        self.multiple_of = model.multiple_of
        self.states = ((model.frame_channels, 1), (model.config.hidden, 2))

    def forward(self, x: Tensor, sigma: Tensor, frame: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = State(frame, hidden)
        if self.watch:
            return x, *self.model.watch(x, sigma, state)
        result, state = self.model.step(x, sigma, state)
        return result, *state


def _statistics(difference: Tensor) -> Tensor:
    """Local mean squares of a difference [N, C, H, W]: of itself, of its means over colours and 2 x 2 or 6 x 6 pixels,
    and over 10 x 10 pixels; times the count of what was averaged, so that of white noise each is the variance.

    Returns [N, 4, H/2, W/2].
    """
    colours = F.avg_pool2d(difference, 2)
    grey, count = colours.mean(1, keepdim=True), 4 * difference.shape[1]
    parts = [
        F.avg_pool2d(difference.square().mean(1, keepdim=True), 2),
        count * grey.square(),
        9 * count * _mean(grey, 3).square(),
        100 * _mean(colours, 5).square().mean(1, keepdim=True),
    ]
    return _mean(torch.cat(parts, 1), 5)


def _mean(x: Tensor, side: int) -> Tensor:
    """Over the window around each pixel, as far as it lies in the picture."""
    return F.avg_pool2d(x, side, 1, side // 2, count_include_pad=False)


def _state(fused: Tensor, share: Tensor, hidden: Tensor, height: int, width: int) -> State:
    return State(torch.cat([fused, 1 / share], 1)[..., :height, :width], hidden)
