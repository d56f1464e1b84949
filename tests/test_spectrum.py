"""The radially averaged power spectrum, and the distance of textures that it gives."""

import numpy as np
import pytest

from fastrestore import metrics


def test_white_noise_is_flat_and_keeps_its_power():
    noise = np.random.default_rng(0).normal(0, 0.1, (256, 192, 3))
    power = metrics.power_spectrum(noise)
    assert power.shape == (96,)
    np.testing.assert_allclose(power[2:], 0.01, rtol=0.35)
    assert power[2:].mean() == pytest.approx(0.01, rel=0.03)


def test_a_wave_stands_in_its_bin():
    x = np.arange(128) * 0.2031  # cycles: bin 0.2031 * 2 * 64 = 26.0
    power = metrics.power_spectrum(np.sin(2 * np.pi * x)[None, :] + np.zeros((128, 1)))
    assert abs(int(power.argmax()) - 26) <= 1
    assert power[40:].max() < 1e-6 * power.max()


def test_texture_distance_sees_strength_not_place():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 0.1, (2, 96, 96))
    assert metrics.texture_distance(a, a) == 0
    assert metrics.texture_distance(a, b) < 0.1
    assert metrics.texture_distance(a, 0.5 + (a - 0.5) / 10) == pytest.approx(2, abs=1e-6)  # a hundredth of the power


def test_what_is_refused():
    with pytest.raises(ValueError, match="at least 8"):
        metrics.power_spectrum(np.zeros((7, 9)))
    with pytest.raises(ValueError, match="one size"):
        metrics.texture_distance(np.zeros((9, 9)), np.zeros((20, 20)))
