"""Attention within square windows of an image, on a fixed or a shifted grid (Swin transformer, Liu et al., 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def window_attention(qkv: Tensor, bias: Tensor, heads: int, side: int, shift: int) -> Tensor:
    """Attention of each pixel to those of its window.

    qkv: [N, H, W, 3 C], sides that are multiples of `side`; queries, keys and values one after the other, each by head.
    bias: [heads, (2 side - 1)^2], added to the scores by the pixels' distance.  shift: where the grid of windows
    begins; the smaller windows that it leaves at the image's edges keep to themselves.  Returns [N, H, W, C].
    """
    count, height, width, channels = qkv.shape
    if shift:  # rolled, the smaller windows of opposite edges share a full one
        qkv = qkv.roll((-shift, -shift), (1, 2))
    rows, columns, pixels = height // side, width // side, side * side
    parts = qkv.reshape(count, rows, side, columns, side, channels).transpose(2, 3)
    parts = parts.reshape(count, rows * columns, pixels, 3, heads, channels // (3 * heads))
    q, k, v = parts.permute(3, 0, 1, 4, 2, 5)  # each [N, windows, heads, pixels, channels of a head]
    scores = bias[:, _distances(side, bias.device)]
    if shift:
        apart = _apart(height, width, side, shift, bias.device)
        scores = torch.where(apart[:, None], -torch.inf, scores)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=scores)
    y = y.transpose(2, 3).reshape(count, rows, columns, side, side, channels // 3)
    y = y.transpose(2, 3).reshape(count, height, width, channels // 3)
    return y.roll((shift, shift), (1, 2)) if shift else y


def _distances(side: int, device: torch.device) -> Tensor:
    """[pixels, pixels] of a window: which of the (2 side - 1)^2 distances each pair has."""
    pixel = torch.arange(side * side, device=device)
    y, x = pixel // side, pixel % side
    return (y[:, None] - y + side - 1) * (2 * side - 1) + (x[:, None] - x + side - 1)


def _apart(height: int, width: int, side: int, shift: int, device: torch.device) -> Tensor:
    """[windows, pixels, pixels]: which pairs come from opposite edges of the image before it was rolled."""
    top = torch.arange(height, device=device) >= height - shift
    left = torch.arange(width, device=device) >= width - shift
    piece = 2 * top[:, None] + left.int()
    piece = piece.reshape(height // side, side, width // side, side).transpose(1, 2).reshape(-1, side * side)
    return piece[:, :, None] != piece[:, None, :]
