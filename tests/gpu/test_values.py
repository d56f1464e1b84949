"""Quotients, comparisons, curves, copies of channels, pooled channels and local means on a GPU, against torch."""

import pytest
import torch
import torch.nn.functional as F

from fastrestore.ops.local_mean import reference as exact_means
from gpu.emulated import padded, padding_of, poisoned
from gpu.test_pixels import NAMES, STEP, TYPES, sample

FORMULAS = {
    "divide": torch.div,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "above": lambda a, b: (a > b).to(a.dtype),
}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize(("channels", "first"), [(3, 0), (11, 3), (16, 8)])
def test_two_values(machine, channels, first, formula, dtype):
    """One operand in float32, one in the result's type; parts of both, at multiples of 8 and elsewhere; NaN."""
    a, b = padded(sample((2, 3, 5, channels + first), torch.float32)), padded(sample((2, 3, 5, channels), dtype, 1))
    b[0, 0, 0, 0] = a[0, 0, 1, first] = float("nan")
    a[0, 0, 2, first] = b[0, 0, 2, 0].float()
    y = poisoned((2, 3, 5, channels), dtype)
    machine.call(
        "combine", NAMES[dtype], formula, ["float32", NAMES[dtype]], machine.images(a), machine.images(b), [first, 0],
        machine.images(y), reads=[a, b], writes=[y])  # fmt: skip
    exact = FORMULAS[formula](a[..., first:].double(), b.double())
    torch.testing.assert_close(y.double(), exact, rtol=STEP[dtype], atol=2.0**-24, equal_nan=True)
    assert not padding_of(y).any()


CURVES = {
    "exp": torch.exp, "log": torch.log, "log1p": torch.log1p, "sqrt": torch.sqrt, "reciprocal": torch.reciprocal,
    "above": lambda x: (x > 0.5).double(),
    "elu": lambda x: torch.where(x > 0, 0.25 * x, 0.5 * torch.expm1(0.25 * x)),
    "hard_swish": F.hardswish, "mish": F.mish, "softplus": lambda x: F.softplus(x, 0.5, 0.25),
}  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("curve", CURVES)
def test_curves(machine, curve, dtype):
    """From float32, where roots and logarithms have no value and where they end too."""
    x, y = padded(4 * sample((1, 4, 5, 6), torch.float32)), poisoned((1, 4, 5, 6), dtype)
    x[0, 0, 0] = torch.tensor([0.0, -1.0, 0.5, float("inf"), float("nan"), 1e-6])
    x[0, 0, 1] = torch.tensor([-0.0, -2.0, 1.0, -float("inf"), 30.0, -30.0])
    numbers = [0.5, 0.25, 0.25]
    machine.call("activate", NAMES[dtype], curve, numbers, "float32", machine.images(x), machine.images(y),
                 reads=[x], writes=[y])  # fmt: skip
    exact = CURVES[curve](x.double())
    if dtype == torch.float16:
        exact = exact.half().double()  # which ends at 65504
    torch.testing.assert_close(y.double(), exact, rtol=2 * STEP[dtype], atol=2.0**-22, equal_nan=True)
    assert not padding_of(y).any()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("start", "to", "count"), [(0, 0, 8), (8, 16, 3), (3, 8, 8), (0, 5, 11), (2, 3, 4)])
def test_copying_channels(machine, start, to, count, dtype):
    """Of a float32 image into one of another type, whose other channels stay; or, at its end, become 0."""
    x = padded(sample((1, 3, 4, 19), torch.float32))
    for ends in (False, True):
        y = poisoned((1, 3, 4, to + count), dtype)
        before = padding_of(y).clone()
        y[..., :to] = 3.0
        machine.call(
            "copy_channels", NAMES[dtype], "float32", machine.images(x), start, to, count, ends, machine.images(y),
            reads=[x], writes=[y])  # fmt: skip
        assert torch.equal(y[..., to:], x[..., start : start + count].to(dtype))
        assert (y[..., :to] == 3.0).all()
        after = torch.zeros_like(before) if ends else before
        torch.testing.assert_close(padding_of(y), after, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("channels", [1, 5, 8, 21])
def test_pooling_channels(machine, channels, kind, dtype):
    x, y = padded(sample((2, 3, 5, channels), dtype), 100.0), poisoned((2, 3, 5, 1), dtype)
    x[0, 1, 2, channels - 1] = float("nan")
    machine.call("channel_pool", NAMES[dtype], kind, machine.images(x), machine.images(y), reads=[x], writes=[y])
    exact = x.double().amax(-1) if kind == "max" else x.double().mean(-1)
    torch.testing.assert_close(y[..., 0].double(), exact, rtol=STEP[dtype], atol=STEP[dtype], equal_nan=True)
    assert not padding_of(y).any()


def means(machine, x, side):
    n, height, width, channels = x.shape
    y = poisoned(tuple(x.shape), x.dtype)
    sums = torch.full((n, height, width, -(-channels // 8) * 8), float("nan"))
    _, counts = machine.call(
        "local_mean", NAMES[x.dtype], side, machine.images(x), sums.data_ptr(), machine.images(y),
        reads=[x], writes=[sums, y])  # fmt: skip
    assert not padding_of(y).any()
    return y, counts


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("side", [1, 4, 7, 96, 1000])
@pytest.mark.parametrize("size", [(2, 9, 13, 5), (1, 150, 133, 3)], ids=str)
def test_local_means(machine, size, side, dtype):
    """Windows that end inside of the picture, that one side of it cuts, and that both do; runs that begin anew."""
    x = padded(sample(size, dtype), 100.0)
    y, _ = means(machine, x, side)
    exact = exact_means(x.double().permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
    rounding = STEP[dtype] if dtype != torch.float32 else 2.0**-23
    torch.testing.assert_close(y.double(), exact, rtol=rounding, atol=2.0**-23)


def check_traces(machine):
    """Windows that a value a million times the others' size enters and leaves again.  Returns the machine's counts."""
    x = padded(sample((1, 40, 60, 1), torch.float32))
    x[0, 20, 30, 0] = 1e6
    y, counts = means(machine, x, 5)
    exact = exact_means(x.double().permute(0, 3, 1, 2), 5).permute(0, 2, 3, 1)
    torch.testing.assert_close(y.double(), exact, rtol=2.0**-22, atol=2.0**-22)
    return counts


def test_what_has_left_a_window_leaves_no_trace(machine):
    check_traces(machine)
