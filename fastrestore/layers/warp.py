"""Features of one frame carried to where their content lies in the next."""

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """x at each pixel's position plus its flow, bilinear; zero for what lies outside.

    x: [N, C, H, W].  flow: [N, 2, H, W], along x and y in pixels.  Returns x's shape and dtype.
    """
    height, width = x.shape[-2:]
    flow = flow.float()
    column = (torch.arange(width, device=x.device) + flow[:, 0] + 0.5) * (2 / width) - 1
    row = (torch.arange(height, device=x.device)[:, None] + flow[:, 1] + 0.5) * (2 / height) - 1
    grid = torch.stack([column, row], 3).to(x.dtype)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
