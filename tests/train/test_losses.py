"""Losses: each against its definition, zero where nothing is wrong, with finite slopes there."""

import numpy as np
import pytest
import torch

from fastrestore import metrics
from fastrestore.train.losses import LOSSES, weighted


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 3, 20, 25, generator=generator)
    return (clean + 0.1 * torch.randn(clean.shape, generator=generator)), clean


@pytest.mark.parametrize("name", LOSSES)
def test_no_error_is_no_loss_and_has_a_finite_slope(name, pair):
    clean = pair[1]
    restored = clean.clone().requires_grad_()
    loss = LOSSES[name](restored, clean)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=2e-3)
    assert restored.grad.isfinite().all()
    assert LOSSES[name](*pair) > 0.01 * (name != "l2")


def test_definitions(pair):
    a, b = (x.double().numpy() for x in pair)
    error = a - b
    wanted = {
        "l1": np.abs(error).mean(),
        "l2": (error**2).mean(),
        "charbonnier": np.sqrt(error**2 + 1e-6).mean(),
        "ssim": 1 - metrics.ssim(*pair),
        "edge": np.abs(np.diff(error, axis=3)).mean() + np.abs(np.diff(error, axis=2)).mean(),
    }
    spectrum = np.fft.rfft2(error, norm="ortho")
    wanted["fft"] = (np.abs(spectrum.real).mean() + np.abs(spectrum.imag).mean()) / 2
    assert wanted.keys() == LOSSES.keys()
    for name, value in wanted.items():
        assert LOSSES[name](*pair).item() == pytest.approx(value, rel=2e-4), name


def test_a_sum_by_weights(pair):
    total = weighted({"l1": 2.0, "ssim": 0.5})(*pair)
    assert total.item() == pytest.approx((2 * LOSSES["l1"](*pair) + 0.5 * LOSSES["ssim"](*pair)).item())
