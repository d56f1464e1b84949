"""Inputs that the tests of several operators share."""

import torch
from torch import Tensor

LAYOUTS = ("contiguous", "channels_last", "sliced", "expanded")


def sample(shape: tuple[int, ...], layout: str = "contiguous", seed: int = 0) -> Tensor:
    """A float32 tensor [N, C, H, W] of normal values."""
    n, c, h, w = shape
    generator = torch.Generator().manual_seed(seed)
    if layout == "sliced":  # a window of a larger channels_last tensor: pitches, and addresses off a vector's grid
        large = torch.randn((n, h + 3, w + 2, c + 5), generator=generator).permute(0, 3, 1, 2)
        return large[:, 1 : c + 1, 2 : h + 2, 1 : w + 1]
    if layout == "expanded":  # one image, seen n times
        return torch.randn((1, c, h, w), generator=generator).expand(shape)
    x = torch.randn(shape, generator=generator)
    return x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x
