import pytest
import torch

from fastrestore.ops import from_pixels, to_pixels
from fastrestore.ops.convert import reference, to_reference
from ops.cases import LAYOUTS, sample

DTYPES = (torch.uint8, torch.uint16, torch.float16, torch.float32)
TOPS = ((torch.uint8, 255), (torch.uint16, 65535))


def picture(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    torch.manual_seed(0)
    top = dict(TOPS).get(dtype)
    return torch.randint(0, top + 1, shape).to(dtype) if top else torch.randn(shape).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 5, 7, 3), (0, 4, 4, 3), (1, 0, 3, 1), (1, 3, 11, 4), (2, 200, 211, 3)], ids=str
)
def test_in_equals_reference(shape, dtype):
    image = picture(shape, dtype)
    x = from_pixels(image)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, reference(image))
    assert torch.equal(from_pixels(image.transpose(1, 2)), reference(image.transpose(1, 2)))


@pytest.mark.parametrize(("dtype", "top"), TOPS, ids=str)
def test_integers_are_correctly_rounded_and_come_back(dtype, top):
    image = torch.arange(top + 1).to(dtype).reshape(1, 1, -1, 1)
    x = from_pixels(image)
    assert torch.equal(x.flatten(), (torch.arange(top + 1, dtype=torch.float64) / top).float())
    assert torch.equal(to_pixels(x, dtype).to(torch.int32), image.to(torch.int32))


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_out_equals_reference(layout, dtype, clip):
    x = sample((2, 3, 13, 9), layout)
    out = to_pixels(x, dtype, clip)
    assert out.dtype == dtype and out.is_contiguous()
    assert torch.equal(out.view(torch.uint8), to_reference(x, dtype, clip).contiguous().view(torch.uint8))


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("dtype", "top"), TOPS, ids=str)
def test_integers_round_to_even_and_saturate(dtype, top, clip):
    x = torch.tensor([0.5, 1.5, 2.5, -9.0, 2.0 * top]).div(top).tolist()
    x = torch.tensor([*x, float("nan"), float("inf"), -float("inf"), -0.0]).reshape(1, 1, 1, -1)
    assert to_pixels(x, dtype, clip).flatten().tolist() == [0, 2, 2, 0, top, 0, top, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_floats_keep_nan_and_clip_the_rest(dtype):
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.25]).reshape(1, 1, 1, -1)
    for clip, wanted in ((True, [1.0, 0.0, 0.25]), (False, [float("inf"), -float("inf"), 0.25])):
        out = to_pixels(x, dtype, clip).flatten()
        assert out[0].isnan()
        assert out[1:].tolist() == wanted


def test_gradients():
    image = torch.rand(1, 3, 4, 2, requires_grad=True)
    grad = sample((1, 2, 3, 4))
    assert torch.equal(torch.autograd.grad(from_pixels(image), image, grad)[0], grad.permute(0, 2, 3, 1))
    x = torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5]).reshape(1, 1, 1, -1).requires_grad_()
    for clip, wanted in ((True, [0.0, 1.0, 1.0, 1.0, 0.0]), (False, [1.0] * 5)):
        out = to_pixels(x, torch.float32, clip)
        assert torch.autograd.grad(out.sum(), x)[0].flatten().tolist() == wanted
    assert not to_pixels(x, torch.uint8).requires_grad


@pytest.mark.parametrize(
    ("error", "says", "call"),
    [
        (TypeError, "int32", lambda: from_pixels(torch.zeros(1, 2, 2, 3, dtype=torch.int32))),
        (ValueError, r"\[2, 2, 3\]", lambda: from_pixels(torch.zeros(2, 2, 3))),
        (TypeError, "float64", lambda: to_pixels(torch.zeros(1, 3, 2, 2, dtype=torch.float64), torch.uint8)),
        (TypeError, "int16", lambda: to_pixels(torch.zeros(1, 3, 2, 2), torch.int16)),
        (ValueError, r"\[3, 2, 2\]", lambda: to_pixels(torch.zeros(3, 2, 2), torch.uint8)),
    ],
    ids=["in dtype", "in rank", "out from", "out dtype", "out rank"],
)
def test_refuses(error, says, call):
    with pytest.raises(error, match=says):
        call()
