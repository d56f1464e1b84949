"""What recurrent models know of a stream, and how it goes from frame to frame."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from fastrestore.layers.follow import follow


class State(NamedTuple):
    """The state of a stream after a frame.  Zeros mean that nothing is known: of what has just come into view, say."""

    frame: Tensor  # [N, frame_channels, H, W]
    hidden: Tensor  # [N, hidden, H', W'], half the sides of the padded frame


def carried(state: State, flow: Tensor) -> State:
    """The state at the places where the next frame shows the same.

    flow: [N, 2, H, W], for each pixel of the next frame, how far along x and y its content lay in this one.
    """
    hidden = state.hidden
    bottom, right = 2 * hidden.shape[2] - flow.shape[2], 2 * hidden.shape[3] - flow.shape[3]
    padded = F.pad(flow, (0, right, 0, bottom), mode="replicate")
    return State(follow(state.frame, flow, "bicubic"), follow(hidden, F.avg_pool2d(padded, 2) / 2))
