"""Padding to the sizes that strided networks and window grids need."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, multiple: int, mode: str = "replicate") -> Tensor:
    """Adds rows at the bottom and columns at the right until both sides are multiples.  x: [N, C, H, W].

    mode: "replicate" (the last row and column again), "zero", or "reflect" (mirrored without the edge itself, and
    back again where the picture is smaller than what is added).
    """
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom == 0 and right == 0:
        return x
    if mode == "zero":
        return F.pad(x, (0, right, 0, bottom))
    if mode == "reflect" and (bottom >= height or right >= width):
        rows, columns = _mirrored(height, height + bottom), _mirrored(width, width + right)
        return x[..., rows.to(x.device), :][..., columns.to(x.device)]
    return F.pad(x, (0, right, 0, bottom), mode=mode)


def _mirrored(side: int, padded: int) -> Tensor:
    """Which of `side` pixels each of `padded` ones is: 0 1 2 1 0 1 ... for 3."""
    position = torch.arange(padded) % max(2 * side - 2, 1)
    return side - 1 - (side - 1 - position).abs()
