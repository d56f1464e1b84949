"""The operators' GPU entries on the host: the table, and each way's result against the reference.

The entries are called as they are, with tensors of the CPU: the CUDA way on emulated kernels, the Triton way in the
interpreter.
"""

import os
from contextlib import contextmanager

import pytest
import torch

from fastrestore.ops import (
    _C,
    channel_attention,
    conv2d,
    dispatch,
    layer_norm,
    local_mean,
    pixel_shuffle,
    window_attention,
)
from fastrestore.triton import available
from gpu import emulated


def module_of(function):
    import sys

    return sys.modules[function.__module__]


CONV2D, NORM, SHUFFLE, ATTENTION, CHANNELS, MEANS = map(
    module_of, (conv2d, layer_norm, pixel_shuffle, window_attention, channel_attention, local_mean)
)


@pytest.fixture
def on_host(monkeypatch):
    """GPU entries take tensors of the CPU."""

    @contextmanager
    def launching(x):
        yield 0

    monkeypatch.setattr(dispatch, "launching", launching)
    monkeypatch.setattr(dispatch, "capability_of", lambda x: 90)
    monkeypatch.setattr(dispatch, "check_dtype", lambda name, x: None)
    monkeypatch.setattr(dispatch, "built", lambda: True)
    dispatch.counts.clear()


@pytest.fixture(params=["cuda", "triton", "torch"])
def path(request, on_host, monkeypatch):
    monkeypatch.setenv("FASTRESTORE_GPU", request.param)
    if request.param == "cuda":
        if reason := emulated.missing():
            pytest.skip(reason)
        machine = emulated.Emulation(request.getfixturevalue("module"), emulated.H100)
        machine.module.announce([(0, 2**63, True)])  # bounds are other tests' business
        monkeypatch.setattr(dispatch, "kernels", lambda: machine.kernels)
    elif request.param == "triton":
        if not available():
            pytest.skip("Triton is not installed")
        if torch.cuda.is_available():
            pytest.skip("Triton compiles where there is a GPU")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    return request.param


def sample(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).half()


def close(actual, exact, path):
    """As rounding to float16 and, on torch's way, between its operators allows."""
    assert actual.shape == exact.shape and actual.dtype == torch.float16
    error = (actual.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < (2e-3 if path == "torch" else 1e-3), f"{error:.2g}"


@pytest.mark.parametrize("channels", [(3, 20), (16, 16)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_conv2d(path, channels, layout):
    inside, out = channels
    x, weight = sample(2, inside, 7, 9).contiguous(memory_format=layout), sample(out, inside, 3, 3, seed=1) / 9
    bias, residual = sample(out, seed=2), sample(2, out, 7, 9, seed=3).contiguous(memory_format=layout)
    options = [[1, 1], [1, 1], [1, 1], 1, "leaky_relu", 0.2, 0.5, True]
    y = CONV2D._cuda(x, weight, bias, residual, *options, "auto")
    close(y, CONV2D.reference(x.double(), weight.double(), bias.double(), residual.double(), *options), path)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert dispatch.counts == {f"conv2d {path}": 1}


def test_changed_weights_are_packed_anew(path):
    x, weight = sample(1, 8, 4, 4), sample(8, 8, 1, 1, seed=1)
    options = [[1, 1], [0, 0], [1, 1], 1, "none", 0.0, 1.0, False]
    for _ in range(2):
        y = CONV2D._cuda(x, weight, None, None, *options, "auto")
        close(y, CONV2D.reference(x.double(), weight.double(), None, None, *options), path)
        weight.mul_(-2)


def test_depthwise(path):
    x, weight = sample(1, 12, 7, 9), sample(12, 1, 3, 3, seed=1) / 3
    options = [[1, 1], [1, 1], [1, 1], 12, "relu", 0.0, 1.0, False]
    y = CONV2D._cuda(x, weight, None, None, *options, "auto")
    close(y, CONV2D.reference(x.double(), weight.double(), None, None, *options), path)
    assert dispatch.counts == {f"depthwise {path}": 1}


def test_pixel_shuffle(path):
    x = sample(1, 12, 4, 5)
    y = SHUFFLE._cuda_shuffle(x, 2)
    assert torch.equal(y, torch.pixel_shuffle(x, 2))
    assert torch.equal(SHUFFLE._cuda_unshuffle(y, 2), x)
    assert dispatch.counts == {f"pixel_shuffle {path}": 2}


@pytest.mark.parametrize("centred", [True, False])
def test_layer_norm(path, centred):
    x, weight, bias = sample(2, 20, 4, 5) + 1, sample(20, seed=1), sample(20, seed=2)
    y = NORM._cuda(x, weight, bias, 1e-5, centred)
    close(y, NORM.reference(x.double(), weight.double(), bias.double(), 1e-5, centred), path)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("side", [4, 30])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_local_mean(path, side, layout):
    x = sample(2, 20, 9, 70).contiguous(memory_format=layout)
    y = MEANS._cuda(x, side)
    close(y, MEANS.reference(x.double(), side), path)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert dispatch.counts == {f"local_mean {path}": 1}


def test_window_attention(path):
    qkv, bias = sample(1, 9, 12, 60), sample(2, 225, seed=1)
    y = ATTENTION._cuda(qkv, bias, 8, 4)
    close(y, ATTENTION.reference(qkv.double(), bias.double(), 8, 4), path)
    assert y.is_contiguous()


@pytest.mark.parametrize(("heads", "depth"), [(2, 8), (1, 5)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_channel_attention(path, heads, depth, layout):
    qkv = sample(2, 3 * heads * depth, 9, 7).contiguous(memory_format=layout)
    temperature = sample(heads, seed=1) + 2
    y = CHANNELS._cuda(qkv, temperature)
    close(y, CHANNELS.reference(qkv.double(), temperature.double()), path)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert dispatch.counts == {f"channel_attention {path}": 1}


def test_empty(path):
    options = [[1, 1], [1, 1], [1, 1], 1, "relu", 0.0, 1.0, False]
    assert CONV2D._cuda(sample(0, 3, 4, 4), sample(5, 3, 3, 3), None, None, *options, "auto").shape == (0, 5, 4, 4)
    assert NORM._cuda(sample(0, 3, 4, 4), sample(3), None, 1e-5, True).shape == (0, 3, 4, 4)
    assert CHANNELS._cuda(sample(0, 12, 4, 4), sample(2)).shape == (0, 4, 4, 4)
    assert MEANS._cuda(sample(0, 3, 4, 4), 3).shape == (0, 3, 4, 4)


def test_the_table(on_host, monkeypatch):
    """CUDA first, Triton where it does not serve, torch for the rest; the environment takes away, never adds."""
    monkeypatch.delenv("FASTRESTORE_GPU", raising=False)
    monkeypatch.setattr(dispatch.triton, "available", lambda: True)
    half, full = torch.float16, torch.float32
    assert dispatch.path_for("conv2d", 90, half, 64) == "cuda"
    assert dispatch.path_for("conv2d", 75, half, 64) == "triton"
    assert dispatch.path_for("conv2d", 75, torch.bfloat16, 64) == "torch"
    assert dispatch.path_for("channel_attention", 90, half, 48) == "cuda"
    assert dispatch.path_for("channel_attention", 90, half, 96) == "triton"
    assert dispatch.path_for("conv2d", 90, half, 128) == "torch"
    assert dispatch.path_for("conv2d", 90, full, 64) == "torch"
    assert dispatch.path_for("window_attention", 120, torch.bfloat16, 64) == "triton"
    assert dispatch.path_for("window_attention", 75, half, 16) == "torch"
    monkeypatch.setattr(dispatch, "built", lambda: False)
    assert dispatch.path_for("layer_norm", 90, half, 64) == "triton"
    assert all(way.capability >= 80 for way in dispatch.WAYS if way.path == "cuda")  # what they are compiled for
    monkeypatch.setenv("FASTRESTORE_GPU", "cuda")
    assert dispatch.path_for("layer_norm", 90, half, 64) == "torch"
    monkeypatch.setenv("FASTRESTORE_GPU", "metal")
    with pytest.raises(ValueError, match="'metal'"):
        dispatch.path_for("layer_norm", 90, half, 64)


def test_half_precision_stays_refused_on_the_cpu():
    with pytest.raises(TypeError, match="on a GPU also float16"):
        conv2d(sample(1, 3, 4, 4), sample(3, 3, 1, 1))


def test_report():
    about = dispatch.report()
    assert about["cuda kernels"] == hasattr(_C, "cuda")
    assert about["triton"] == available()
    if not torch.cuda.is_available():
        assert "no usable CUDA device" in about["device"] or "without nvcc" in about["device"]


def test_triton_is_not_imported_before_it_is_used():
    import subprocess
    import sys

    code = "import sys, fastrestore.ops; assert 'triton' not in sys.modules or 'torch._inductor' in sys.modules"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
