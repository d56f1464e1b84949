"""Window attention of the GPU, emulated, against the operator's reference in float64."""

import pytest
import torch

from fastrestore.ops.window_attention import reference
from gpu.emulated import assert_on_tensor_cores, padded, padding_of, poisoned

NAMES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}
TOLERANCE = {torch.float16: 1.5e-3, torch.bfloat16: 1.2e-2, torch.float32: 1e-6}


def run(machine, dtype, size, heads, depth, side, shift, bias=True):
    """Returns our result, the exact one and the machine's counts."""
    g = torch.Generator().manual_seed(heads * depth + shift)
    channels = heads * depth
    qkv = padded(torch.randn((*size, 3 * channels), generator=g).to(dtype))
    table = torch.randn((heads, (2 * side - 1) ** 2), generator=g) if bias else None
    y = poisoned((*size, channels), dtype)
    _, counts = machine.call(
        "window_attention", NAMES[dtype], machine.images(qkv), heads, side, shift, depth**-0.5,
        0 if table is None else table.data_ptr(), machine.images(y), reads=[qkv, table], writes=[y])  # fmt: skip
    plain = torch.zeros(heads, (2 * side - 1) ** 2) if table is None else table
    return y, reference(qkv.double(), plain.double(), side, shift), counts


@pytest.mark.parametrize("dtype", NAMES, ids=str)
@pytest.mark.parametrize(
    ("heads", "depth", "side", "shift"), [(2, 16, 8, 0), (2, 10, 8, 4), (3, 32, 7, 3), (1, 30, 4, 1), (2, 2, 1, 0)]
)
def test_is_the_reference(machine, heads, depth, side, shift, dtype):
    y, exact, counts = run(machine, dtype, (1, 2 * side + 1, side), heads, depth, side, shift)
    error = (y.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < TOLERANCE[dtype], f"{error:.2g}"
    assert not padding_of(y).any()
    if dtype != torch.float32:
        assert_on_tensor_cores(counts)


def test_without_bias(machine):
    y, exact, _ = run(machine, torch.float16, (2, 8, 8), 1, 16, 8, 0, bias=False)
    assert (y.double() - exact).abs().max() < 5e-3


def test_large_scores_do_not_overflow(machine):
    qkv = torch.full((1, 8, 8, 48), 60.0, dtype=torch.float16)
    y = poisoned((1, 8, 8, 16), torch.float16)
    machine.call("window_attention", "float16", machine.images(qkv), 1, 8, 0, 1.0, 0, machine.images(y),
                 reads=[qkv], writes=[y])  # fmt: skip
    assert torch.equal(y, torch.full_like(y, 60.0))


def test_refuses(machine):
    x = torch.zeros(1, 8, 8, 144, dtype=torch.float16)
    y = torch.zeros(1, 8, 8, 48, dtype=torch.float16)
    for heads, side, shift, says in (
        (1, 8, 0, "2 to 32"),
        (2, 9, 0, "1 to 8"),
        (2, 8, 8, "shifted"),
        (16, 8, 0, "even"),
    ):
        with pytest.raises(ValueError, match=says):
            machine.call("window_attention", "float16", machine.images(x), heads, side, shift, 1.0, 0,
                         machine.images(y), reads=[x], writes=[y])  # fmt: skip
