"""Losses: how far a restored batch is from the clean one.  Both [N, C, H, W] float32; each gives a mean, a scalar."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def l1(restored: Tensor, clean: Tensor) -> Tensor:
    return (restored - clean).abs().mean()


def l2(restored: Tensor, clean: Tensor) -> Tensor:
    return (restored - clean).square().mean()


def charbonnier(restored: Tensor, clean: Tensor) -> Tensor:
    """The smooth L1 of Charbonnier et al. (1994), rounded off below a quarter of a grey level."""
    return ((restored - clean).square() + 1e-6).sqrt().mean()


def fft(restored: Tensor, clean: Tensor) -> Tensor:
    """L1 over the coefficients of the two-dimensional Fourier transform, real and imaginary part (MIMO-UNet, Cho et
    al., 2021), of orthonormal scale, so that its size is that of l1."""
    return torch.view_as_real(torch.fft.rfft2(restored - clean, norm="ortho")).abs().mean()


def ssim(restored: Tensor, clean: Tensor) -> Tensor:
    """1 - SSIM, with the window and constants of metrics.ssim."""
    distance = torch.arange(11, device=clean.device, dtype=clean.dtype) - 5
    row = torch.exp(-(distance**2) / (2 * 1.5**2))
    row = row / row.sum()
    channels = clean.shape[1]
    window = (row[:, None] * row).expand(channels, 1, 11, 11)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=channels)

    mean_a, mean_b = blur(restored), blur(clean)
    variance_a = blur(restored * restored) - mean_a**2
    variance_b = blur(clean * clean) - mean_b**2
    covariance = blur(restored * clean) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return 1 - (luminance * (2 * covariance + c2) / (variance_a + variance_b + c2)).mean()


def edge(restored: Tensor, clean: Tensor) -> Tensor:
    """L1 between the differences of neighbouring pixels, across and down."""
    error = restored - clean
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


LOSSES: dict[str, Loss] = {"l1": l1, "l2": l2, "charbonnier": charbonnier, "fft": fft, "ssim": ssim, "edge": edge}


def weighted(weights: Mapping[str, float]) -> Loss:
    """The sum of losses by name, each times its weight."""

    def total(restored: Tensor, clean: Tensor) -> Tensor:
        return sum(weight * LOSSES[name](restored, clean) for name, weight in weights.items())

    return total
