"""The noise level as an input plane."""

import torch
from torch import Tensor


def sigma_map(sigma: float | Tensor, like: Tensor) -> Tensor:
    """A plane filled with σ / 255 for each image.

    sigma: a number or a Tensor [N], in 0-255 units.  like: [N, C, H, W].  Returns [N, 1, H, W] of like's dtype.
    Raises ValueError if sigma is a tensor of another length.
    """
    level = torch.as_tensor(sigma, device=like.device).to(like.dtype) / 255
    if level.numel() not in (1, like.shape[0]):
        raise ValueError(f"sigma must be one number or one per image ({like.shape[0]}), got {level.numel()} values")
    return level.reshape(-1, 1, 1, 1).expand(like.shape[0], 1, like.shape[2], like.shape[3])
