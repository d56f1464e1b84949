"""Training of recurrent models on clips: truncated back-propagation through time."""

import numpy as np
import torch
from torch import Tensor, nn

from fastrestore.data.clips import Clips
from fastrestore.layers import State, carried
from fastrestore.train.losses import Loss

ClipBatch = tuple[Tensor, Tensor, Tensor, Tensor]  # clean, degraded, flow: [T, N, C, H, W]; sigma [N] or empty


def as_batch(clips: Clips) -> ClipBatch:
    """The arrays as tensors, each frame channels-last in memory."""
    frames = (torch.from_numpy(np.ascontiguousarray(part)).permute(0, 1, 4, 2, 3) for part in clips[:3])
    return *frames, torch.from_numpy(clips.sigma)


def learn(model: nn.Module, batch: ClipBatch, loss: Loss, truncate: int, judged: int, bfloat16: bool) -> Tensor:
    """Adds the gradients of a batch of clips to the model's, and returns the mean loss, detached.

    The state goes through the whole clip; gradients go back through `truncate` frames at most, so that memory does
    not grow with the clip.  The first frame and each `judged`-th after it are restored; the model watches the others.
    """
    clean, degraded, flow, sigma = batch
    frames = clean.shape[0]
    total = clean.new_zeros(())
    state: State | None = None
    for start in range(0, frames, truncate):
        part = clean.new_zeros((), requires_grad=True)
        for t in range(start, min(start + truncate, frames)):
            with torch.autocast(clean.device.type, torch.bfloat16, enabled=bfloat16):
                before = None if state is None else carried(state, flow[t])
                given = degraded[t], sigma if model.takes_sigma else None, before
                if t % judged:
                    state = model.watch(*given)
                    continue
                restored, state = model.step(*given)
            part = part + loss(restored.float(), clean[t]) / len(range(0, frames, judged))
        part.backward()
        total += part.detach()
        state = State(*(item.detach() for item in state))
    return total
