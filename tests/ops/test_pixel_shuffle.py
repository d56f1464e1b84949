import pytest
import torch
import torch.nn.functional as F

from fastrestore.ops import pixel_shuffle, pixel_unshuffle
from ops.cases import LAYOUTS, sample


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("r", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 3, 5, 7), (0, 2, 3, 3), (1, 17, 2, 33), (2, 0, 3, 2), (1, 2, 0, 3)], ids=str
)
def test_equals_torch(shape, r, layout):
    n, c, h, w = shape
    packed = sample((n, c * r * r, h, w), layout)
    shuffled = pixel_shuffle(packed, r)
    assert shuffled.shape == (n, c, h * r, w * r)
    assert shuffled.is_contiguous(memory_format=torch.channels_last)
    unshuffled = pixel_unshuffle(sample((n, c, h * r, w * r), layout, seed=1), r)
    assert unshuffled.shape == (n, c * r * r, h, w)
    assert unshuffled.is_contiguous(memory_format=torch.channels_last)
    if packed.numel() > 0:  # torch refuses some of the empty shapes
        assert torch.equal(shuffled, F.pixel_shuffle(packed, r))
        assert torch.equal(unshuffled, F.pixel_unshuffle(sample((n, c, h * r, w * r), layout, seed=1), r))


def test_keeps_every_bit():
    """NaN payloads, -0 and subnormals are moved, not computed with."""
    bits = torch.randint(-(2**31), 2**31 - 1, (1, 12, 9, 10), dtype=torch.int32)
    assert torch.equal(pixel_unshuffle(pixel_shuffle(bits.view(torch.float32), 2), 2).view(torch.int32), bits)


def test_more_values_than_one_task():
    x = sample((2, 8, 150, 130))
    assert torch.equal(pixel_shuffle(x, 2), F.pixel_shuffle(x, 2))
    y = sample((2, 3, 260, 300), "channels_last")
    assert torch.equal(pixel_unshuffle(y, 2), F.pixel_unshuffle(y, 2))


def test_gradients():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 2, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: pixel_shuffle(t, 2), x)
    assert torch.autograd.gradcheck(lambda t: pixel_unshuffle(t, 2), y)
    assert torch.autograd.gradgradcheck(lambda t: pixel_shuffle(t, 2), x)


@pytest.mark.parametrize(
    ("error", "says", "call"),
    [
        (TypeError, "float32", lambda: pixel_shuffle(torch.zeros(1, 4, 2, 2, dtype=torch.int32), 2)),
        (ValueError, r"\[4, 2, 2\]", lambda: pixel_shuffle(torch.zeros(4, 2, 2), 2)),
        (ValueError, "multiple of 9 channels, got 4", lambda: pixel_shuffle(torch.zeros(1, 4, 2, 2), 3)),
        (ValueError, "at least 1", lambda: pixel_shuffle(torch.zeros(1, 4, 2, 2), 0)),
        (ValueError, "multiples of 2, got 3 and 4", lambda: pixel_unshuffle(torch.zeros(1, 4, 3, 4), 2)),
    ],
    ids=["dtype", "rank", "channels", "zero", "size"],
)
def test_refuses(error, says, call):
    with pytest.raises(error, match=says):
        call()
