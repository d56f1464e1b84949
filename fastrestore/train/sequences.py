"""Training of recurrent models on clips, by truncated back-propagation through time, and of fusion on bursts."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastrestore.data.clips import Clips
from fastrestore.data.sequences import BurstPart, ClipPart
from fastrestore.layers import State, carried
from fastrestore.train.losses import Loss


class ClipBatch(NamedTuple):
    """Clips, each frame channels-last in memory."""

    clean: Tensor  # [T, N, C, H, W]
    degraded: Tensor  # likewise
    flow: Tensor  # [T, N, 2, H, W], from each frame to the one before
    sigma: Tensor | None = None  # [N]
    alone: Tensor | None = None  # each frame restored by itself, where that was made ahead: likewise

    def to(self, device: str) -> "ClipBatch":
        return ClipBatch(*(part if part is None else part.to(device) for part in self))


class BurstBatch(NamedTuple):
    """Bursts aligned with their references; see models.burst_unet.BurstFusion."""

    clean: Tensor  # [N, C, H, W]
    shots: Tensor  # [N, K, C, H, W]
    alone: Tensor  # likewise
    known: Tensor  # [N, K, 1, H, W]

    def to(self, device: str) -> "BurstBatch":
        return BurstBatch(*(part.to(device) for part in self))


def as_batch(clips: Clips | ClipPart | BurstPart) -> ClipBatch | BurstBatch:
    """The arrays as tensors."""
    if isinstance(clips, BurstPart):
        return BurstBatch(*map(_tensor, (clips.clean, clips.shots, clips.alone, clips.known)))
    parts = map(_tensor, (clips.clean, clips.degraded, clips.flow))
    if isinstance(clips, Clips):
        return ClipBatch(*parts, sigma=torch.from_numpy(clips.sigma))
    return ClipBatch(*parts, alone=_tensor(clips.alone))


def _tensor(part: np.ndarray) -> Tensor:
    """[..., H, W, C] as [..., C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(part)).movedim(-1, -3)


def learn_fusion(model: nn.Module, batch: BurstBatch, loss: Loss, bfloat16: bool) -> Tensor:
    """Adds the gradients of a batch of bursts to the model's fusion, and returns the loss, detached."""
    clean, *given = batch
    with torch.autocast(clean.device.type, torch.bfloat16, enabled=bfloat16):
        restored = model.fusion(*given)
    total = loss(restored.float(), clean)
    total.backward()
    return total.detach()


def learn(model: nn.Module, batch: ClipBatch, loss: Loss, truncate: int, judged: int, bfloat16: bool) -> Tensor:
    """Adds the gradients of a batch of clips to the model's, and returns the mean loss, detached.

    The state goes through the whole clip; gradients go back through `truncate` frames at most (0: all), so that
    memory need not grow with the clip.  The first frame and each `judged`-th after it are restored; the model watches
    the others.
    """
    clean, degraded, flow, sigma, alone = batch
    frames = clean.shape[0]
    truncate = truncate or frames
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
                restored, state = model.step(*given) if alone is None else model.step(*given, alone=alone[t])
            part = part + loss(restored.float(), clean[t]) / len(range(0, frames, judged))
        part.backward()
        total += part.detach()
        state = State(*(item.detach() for item in state))
    return total
