"""Features of one frame carried to where their content lies in the next; ops.warp repeats the edges instead."""

import torch
import torch.nn.functional as F
from torch import Tensor


def follow(x: Tensor, flow: Tensor, mode: str = "bilinear") -> Tensor:
    """x at each pixel's position plus its flow; zero for what lies outside.

    x: [N, C, H, W].  flow: [N, 2, H, W], along x and y in pixels.  mode: bilinear, or bicubic, which keeps detail over
    many frames.  Returns x's shape and dtype.
    """
    height, width = x.shape[-2:]
    column = (torch.arange(width, device=x.device) + flow[:, 0] + 0.5) * (2 / width) - 1
    row = (torch.arange(height, device=x.device)[:, None] + flow[:, 1] + 0.5) * (2 / height) - 1
    grid = torch.stack([column, row], 3)
    y = F.grid_sample(x.to(grid.dtype), grid, mode=mode, padding_mode="zeros", align_corners=False)
    return y.to(x.dtype)
