import pytest
import torch

from fastrestore.ops import channel_attention, layer_norm, warp, window_attention
from fastrestore.ops.channel_attention import reference as channel_reference
from fastrestore.ops.layer_norm import reference as norm_reference
from fastrestore.ops.window_attention import reference as window_reference

WINDOWS = [  # sizes, heads, channels of a head, side, shift
    ((1, 1, 1), 1, 1, 1, 0),
    ((2, 16, 24), 3, 10, 8, 0),
    ((2, 16, 24), 3, 10, 8, 4),
    ((1, 13, 9), 2, 30, 7, 3),
    ((1, 1, 30), 4, 8, 8, 7),
    ((0, 8, 8), 1, 4, 8, 0),
]


def window_case(sizes, heads, each, side, dtype=torch.float32):
    torch.manual_seed(0)
    qkv = torch.randn(*sizes, 3 * heads * each, dtype=dtype)
    return qkv, torch.randn(heads, (2 * side - 1) ** 2, dtype=dtype)


@pytest.mark.parametrize(("sizes", "heads", "each", "side", "shift"), WINDOWS, ids=str)
def test_window_attention(sizes, heads, each, side, shift):
    qkv, bias = window_case(sizes, heads, each, side)
    exact = window_reference(qkv.double(), bias.double(), side, shift)
    torch.testing.assert_close(window_attention(qkv, bias, side, shift), exact.float(), rtol=0, atol=3e-6)
    sliced = torch.randn(*sizes[:2], sizes[2], 3 * heads * each + 1)[..., :-1].copy_(qkv)
    assert torch.equal(window_attention(sliced, bias, side, shift), window_attention(qkv, bias, side, shift))


def test_window_attention_is_the_published_one():
    """Rolled windows with a mask between opposite edges, as Swin transformers are written."""
    qkv, bias = window_case((1, 16, 24), 2, 5, 8, torch.float64)
    side, shift = 8, 4
    region = torch.zeros(16, 24)
    for i, rows in enumerate((slice(0, -side), slice(-side, -shift), slice(-shift, None))):
        for j, columns in enumerate((slice(0, -side), slice(-side, -shift), slice(-shift, None))):
            region[rows, columns] = 3 * i + j

    def windows(x):
        return x.reshape(2, side, 3, side, -1).transpose(1, 2).reshape(6, side * side, -1)

    q, k, v = windows(qkv.roll((-shift, -shift), (1, 2))[0]).reshape(6, 64, 3, 2, 5).permute(2, 0, 3, 1, 4)
    place = torch.arange(64)
    y, x = place // side, place % side
    distance = (y[:, None] - y + side - 1) * (2 * side - 1) + x[:, None] - x + side - 1
    of = windows(region[..., None])[..., 0]
    mask = torch.where(of[:, None, :] == of[:, :, None], 0.0, -100.0)
    scores = q @ k.transpose(-2, -1) * 5**-0.5 + bias[:, distance] + mask[:, None]
    out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 3, side, side, 10).transpose(1, 2).reshape(1, 16, 24, 10)
    wanted = out.roll((shift, shift), (1, 2))
    torch.testing.assert_close(window_attention(qkv, bias, side, shift), wanted, rtol=0, atol=1e-12)


def test_window_attention_of_extreme_scores():
    """Scores of thousands leave one weight of 1; a NaN stays in its window and its channels."""
    qkv, bias = window_case((1, 8, 16), 2, 4, 8)
    qkv[..., :16] *= 100
    exact = window_reference(qkv.double(), bias.double(), 8, 0).float()
    torch.testing.assert_close(window_attention(qkv, bias, 8), exact, rtol=0, atol=2e-2)
    qkv[0, 3, 2, 1] = torch.nan
    nan = window_attention(qkv, bias, 8).isnan()
    assert nan[0, 3, 2, :4].all()
    assert nan.sum() == 4


@pytest.mark.parametrize("centred", [True, False])
def test_layer_norm(centred):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 20, 5, 7) + 3, torch.randn(20), torch.randn(20)
    exact = norm_reference(x.double(), weight.double(), bias.double(), 1e-5, centred).float()
    y = layer_norm(x, weight, bias, 1e-5, centred)
    torch.testing.assert_close(y, exact, rtol=0, atol=2e-5)
    assert y.is_contiguous(memory_format=torch.channels_last)
    if centred:
        wanted = torch.nn.functional.group_norm(x[:1, :, :1, :1], 1, weight, bias, 1e-5)
        torch.testing.assert_close(y[:1, :, :1, :1], wanted, rtol=0, atol=2e-5)


def test_channel_attention():
    torch.manual_seed(0)
    qkv, temperature = torch.randn(2, 36, 6, 5), torch.randn(3)
    exact = channel_reference(qkv.double(), temperature.double()).float()
    torch.testing.assert_close(channel_attention(qkv, temperature), exact, rtol=0, atol=1e-6)
    q, k, v = qkv[1].double().reshape(3, 3, 4, 30)  # the second picture, its last head
    scores = temperature[2].double() * (q[2] @ k[2].T) / q[2].norm(dim=1)[:, None] / k[2].norm(dim=1)
    wanted = (scores.softmax(1) @ v[2]).reshape(4, 6, 5).float()
    torch.testing.assert_close(channel_attention(qkv, temperature)[1, 8:], wanted, rtol=0, atol=1e-6)


def test_warp():
    torch.manual_seed(0)
    x, flow = torch.randn(2, 5, 7, 9), torch.randn(2, 2, 7, 9) * 4
    y = warp(x, flow)
    row, column = 3, 6
    for n in range(2):
        across = float((column + flow[n, 0, row, column]).clamp(0, 8))
        down = float((row + flow[n, 1, row, column]).clamp(0, 6))
        i, j = min(int(down), 5), min(int(across), 7)
        a, b = x[n, :, i, j : j + 2].T, x[n, :, i + 1, j : j + 2].T
        above, below = (p[0] + (across - j) * (p[1] - p[0]) for p in (a, b))
        torch.testing.assert_close(y[n, :, row, column], above + (down - i) * (below - above), rtol=0, atol=1e-5)
    assert torch.equal(warp(x[..., :1, :1], flow[..., :1, :1]), x[..., :1, :1])


def test_gradients():
    x, flow = torch.randn(1, 2, 3, 4, dtype=torch.float64), torch.rand(1, 2, 3, 4, dtype=torch.float64) * 0.5 + 0.2
    assert torch.autograd.gradcheck(warp, (x.requires_grad_(), flow.requires_grad_()))
    qkv, bias = window_case((1, 5, 4), 2, 2, 3, torch.float64)
    for tensor in (qkv, bias):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda q, b: window_attention(q, b, 3, 1), (qkv, bias))
    x, weight = torch.randn(1, 4, 2, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, weight, weight.detach().clone())]
    for centred in (True, False):
        assert torch.autograd.gradcheck(lambda *t, c=centred: layer_norm(*t, 1e-5, c), leaves)
    assert torch.autograd.gradcheck(lambda *t: layer_norm(*t, None, 1e-5, False), leaves[:2])
    qkv, temperature = torch.randn(1, 12, 3, 2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    assert torch.autograd.gradcheck(channel_attention, (qkv.requires_grad_(), temperature.requires_grad_()))


QKV = torch.zeros(1, 4, 4, 12)


@pytest.mark.parametrize(
    ("error", "says", "call"),
    [
        (TypeError, "float32", lambda: window_attention(QKV.half(), torch.zeros(2, 9).half(), 2)),
        (ValueError, r"bias must be \[heads, 9\]", lambda: window_attention(QKV, torch.zeros(2, 8), 2)),
        (ValueError, "multiple of 5 heads", lambda: window_attention(QKV, torch.zeros(5, 9), 2)),
        (ValueError, "shift less", lambda: window_attention(QKV, torch.zeros(2, 9), 2, 2)),
        (ValueError, "side must be 1 to 64", lambda: window_attention(QKV, torch.zeros(2, 1), 0)),
        (ValueError, "weight and bias", lambda: layer_norm(torch.zeros(1, 3, 2, 2), torch.ones(4), None, 1e-5)),
        (TypeError, "one floating type", lambda: layer_norm(QKV, torch.ones(4).double(), None, 1e-5)),
        (ValueError, r"flow \[N, 2, H, W\]", lambda: warp(QKV, torch.zeros(1, 2, 4, 5))),
        (ValueError, "multiple of 5 heads", lambda: channel_attention(QKV, torch.ones(5))),
        (ValueError, r"\[heads\]", lambda: channel_attention(QKV, torch.ones(2, 1))),
    ],
)
def test_says_what_does_not_fit(error, says, call):
    with pytest.raises(error, match=says):
        call()
