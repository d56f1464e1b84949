import pytest
import torch
import torch.nn.functional as F
from close import assert_no_worse
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrestore.ops import conv2d
from fastrestore.ops.conv2d import reference
from ops.cases import LAYOUTS, sample

EPILOGUES = (
    {},
    {"activation": "relu"},
    {"activation": "leaky_relu", "slope": 0.2, "scale": -0.5},
    {"activation": "relu", "residual_first": True, "scale": 2.0},
    {"activation": "relu", "scale": 0.1},
)
# Winograd's transforms round before and after the products: on normal values its rms error is 1.8 (64 channels) to
# 2.2 (16 channels) times that of torch's channels_last convolution, its greatest error 1.6 times.
WINOGRAD = {"factor": 2.5, "most": 5.0}
# Of an image of a few pixels torch sums few products, the rest being padding; Winograd rounds as in a whole tile.
WINOGRAD_SMALL = {"factor": 6.0, "most": 12.0}

# hypothesis looks for the sample of a few values on which torch's sum is exact by luck; a wrong tap is an error of 1.
FEW_VALUES = {"factor": 8.0, "most": 16.0}


def weights(out: int, channels: int, kernel: tuple[int, int], seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn((out, channels, *kernel), generator=generator)
    return weight * (channels * kernel[0] * kernel[1]) ** -0.5, 0.1 * torch.randn(out, generator=generator)


def _channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def check(x, weight, bias=None, residual=None, *, bounds=None, algorithm="auto", onednn=True, **options):
    def plain(*tensors):
        given = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, "activation": "none"}
        given |= {"slope": 0.0, "scale": 1.0, "residual_first": False} | options
        if onednn:
            return reference(*tensors, **given)
        with torch.backends.mkldnn.flags(enabled=False):
            return reference(*tensors, **given)

    # torch's own distance in the layout in which we compute; from NCHW it sums in shorter parts, with half the error
    tensors = tuple(None if t is None else _channels_last(t) for t in (x, weight, bias, residual))
    actual = conv2d(x, weight, bias, residual, algorithm=algorithm, **options)
    exact = plain(*(None if t is None else t.double() for t in tensors))
    assert actual.dtype == torch.float32
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert_no_worse(actual, plain(*tensors), exact, **(bounds or {}))


@pytest.mark.parametrize("algorithm", ["auto", "direct", "winograd4", "reference"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
@pytest.mark.parametrize("shape", [(2, 16, 13, 17), (1, 64, 7, 34)], ids=str)
def test_3x3(shape, layout, epilogue, algorithm):
    x = sample(shape, layout)
    weight, bias = weights(32, shape[1], (3, 3))
    residual = sample((shape[0], 32, *shape[2:]), layout, seed=2)
    bounds = WINOGRAD if algorithm in ("auto", "winograd4") else {"factor": 2.0}
    check(x, weight, bias, residual, padding=(1, 1), algorithm=algorithm, bounds=bounds, **epilogue)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8, 12, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 67])
@pytest.mark.parametrize("swap", [False, True])
def test_channels(channels, swap):
    inside, out = (channels, 68 - channels) if swap else (channels, channels)
    weight, bias = weights(out, inside, (3, 3))
    # torch sums a single output channel as a matrix-vector product, in shorter parts with a smaller error than one
    # running sum over the 9 * 67 products has
    bounds = {"factor": 4.0, "most": 10.0} if out == 1 else None
    check(sample((1, inside, 9, 11)), weight, bias, padding=(1, 1), activation="relu", bounds=bounds)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2), (3, 1), (4, 4), (5, 33), (17, 16), (18, 15)], ids=str)
@pytest.mark.parametrize("algorithm", ["direct", "winograd4"])
def test_small_images(size, algorithm):
    weight, bias = weights(16, 16, (3, 3))
    bounds = WINOGRAD_SMALL if algorithm == "winograd4" else {}
    check(sample((3, 16, *size)), weight, bias, padding=(1, 1), algorithm=algorithm, bounds=bounds)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (1, 3, 4, 0), (0, 3, 0, 0)], ids=str)
def test_empty(shape):
    weight, bias = weights(5, 3, (3, 3))
    y = conv2d(torch.zeros(shape), weight, bias, padding=(1, 1))
    assert y.shape == (shape[0], 5, *shape[2:])


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # from switching oneDNN off
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_geometry(data):
    number = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    groups = number(1, 4)
    inside, out = groups * number(1, 9), groups * number(1, 9)
    kernel = (number(1, 5), number(1, 5))
    options = {
        "stride": (number(1, 3), number(1, 3)),
        "padding": (number(0, 3), number(0, 3)),
        "dilation": (number(1, 3), number(1, 3)),
        "groups": groups,
    }
    least = [
        max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, options["padding"], options["dilation"], strict=True)
    ]
    shape = (number(1, 2), inside, least[0] + number(0, 9), least[1] + number(0, 9))
    weight, bias = weights(out, inside // groups, kernel)
    # oneDNN in torch 2.13 now and then crashes where whole windows lie in the padding (brgemm, perform_outwork)
    check(sample(shape), weight, bias, onednn=False, bounds=FEW_VALUES, **options)


@pytest.mark.parametrize("groups", [8, 16])
def test_depthwise(groups):
    weight, bias = weights(16, 16 // groups, (3, 3))
    check(sample((2, 16, 9, 21)), weight, bias, padding=(1, 1), groups=groups, activation="relu")


@pytest.mark.parametrize("algorithm", ["direct", "winograd4"])
def test_not_finite_spreads_no_further_than_the_tile(algorithm):
    """NaN and Inf stay visible; Winograd may spread them over the 4x4 tiles that see the pixel, no further."""
    x = sample((1, 16, 16, 24))
    weight, bias = weights(16, 16, (3, 3))
    clean = conv2d(x, weight, bias, padding=(1, 1), activation="relu", algorithm=algorithm)
    for bad in (float("nan"), float("inf")):
        dirty = x.clone()
        dirty[0, 3, 5, 9] = bad
        y = conv2d(dirty, weight, bias, padding=(1, 1), algorithm=algorithm)
        assert not y[0, :, 4:7, 8:11].isfinite().any()
        relu = conv2d(dirty, weight, bias, padding=(1, 1), activation="relu", algorithm=algorithm)
        if bad != bad:
            assert relu[0, :, 4:7, 8:11].isnan().all()
        far = torch.ones(16, 24, dtype=torch.bool)
        far[4:8, 8:12] = False
        assert torch.equal(relu[0][:, far], clean[0][:, far])


def test_threads_and_batch_do_not_change_a_bit():
    x = sample((3, 16, 37, 29))
    weight, bias = weights(24, 16, (3, 3))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = conv2d(x, weight, bias, padding=(1, 1))
        torch.set_num_threads(3)
        assert torch.equal(conv2d(x, weight, bias, padding=(1, 1)), one)
    finally:
        torch.set_num_threads(threads)
    for i in range(3):
        assert torch.equal(conv2d(x[i : i + 1], weight, bias, padding=(1, 1))[0], one[i])


def test_inputs_are_not_written():
    x, residual = sample((1, 16, 8, 8)), sample((1, 16, 8, 8), seed=3)
    weight, bias = weights(16, 16, (3, 3))
    before = [t.clone() for t in (x, residual, weight, bias)]
    conv2d(x, weight, bias, residual, padding=(1, 1))
    assert all(torch.equal(a, b) for a, b in zip(before, (x, residual, weight, bias), strict=True))


GRADIENTS = (
    {"activation": "none", "scale": 0.5},
    {"activation": "relu", "scale": 2.0},
    {"activation": "relu", "scale": -1.0},
    {"activation": "leaky_relu", "slope": 0.3},
    {"activation": "leaky_relu", "slope": -0.3},
)


@pytest.mark.parametrize("options", GRADIENTS, ids=str)
@pytest.mark.parametrize("residual", ["none", "first", "last"])
def test_gradients(options, residual):
    torch.manual_seed(0)
    tensors = [torch.randn(s, dtype=torch.float64) for s in [(1, 4, 3, 3), (2, 2, 3, 2), (2,), (1, 2, 2, 4)]]
    tensors = [t.requires_grad_() for t in tensors[: 3 if residual == "none" else 4]]

    def function(x, weight, bias, r=None):
        return conv2d(x, weight, bias, r, stride=(2, 1), padding=(1, 1), groups=2,
                      residual_first=residual == "first", **options)  # fmt: skip

    assert torch.autograd.gradcheck(function, tensors)
    if options["activation"] == "leaky_relu":  # the hardest; twice the numerical gradient of every case takes long
        assert torch.autograd.gradgradcheck(function, tensors)


def test_gradients_are_torchs_in_float32():
    x, residual = sample((2, 16, 9, 9)), sample((2, 16, 9, 9), seed=5)
    weight, bias = weights(16, 16, (3, 3))
    grad = sample((2, 16, 9, 9), seed=6)

    def gradients(function, dtype):
        tensors = [t.to(dtype).requires_grad_() for t in (x, weight, bias, residual)]
        return torch.autograd.grad(function(*tensors), tensors, grad.to(dtype))

    def ours(x, w, b, r):
        return conv2d(x, w, b, r, padding=(1, 1), activation="leaky_relu", slope=0.1, scale=0.7, residual_first=True)

    def torchs(x, w, b, r):
        return F.leaky_relu(F.conv2d(x, w, b, padding=1) + r, 0.1) * 0.7

    for actual, plain, exact in zip(
        gradients(ours, torch.float32), gradients(torchs, torch.float32), gradients(torchs, torch.float64), strict=True
    ):
        assert_no_worse(actual, plain, exact)


@pytest.mark.parametrize(
    ("error", "says", "change"),
    [
        (TypeError, "float16", {"x": torch.zeros(1, 4, 8, 8, dtype=torch.float16)}),
        (TypeError, "weight must be torch.float32", {"weight": torch.zeros(4, 4, 3, 3, dtype=torch.float64)}),
        (TypeError, "residual must be", {"residual": torch.zeros(1, 4, 8, 8, dtype=torch.float64)}),
        (ValueError, r"got \[4, 8, 8\]", {"x": torch.zeros(4, 8, 8)}),
        (ValueError, "x has 3 channels", {"x": torch.zeros(1, 3, 8, 8)}),
        (ValueError, r"bias must be \[4\], got \[5\]", {"bias": torch.zeros(5)}),
        (ValueError, r"residual must be \[1, 4, 8, 8\]", {"residual": torch.zeros(1, 4, 8, 7)}),
        (ValueError, "does not fit", {"x": torch.zeros(1, 4, 8, 2), "padding": (0, 0)}),
        (ValueError, "at least 1", {"stride": (0, 1)}),
        (ValueError, "two numbers", {"padding": "same"}),
        (ValueError, "groups", {"groups": 3}),
        (ValueError, "'gelu'", {"activation": "gelu"}),
        (ValueError, "'fft'", {"algorithm": "fft"}),
        (ValueError, "cannot do this", {"algorithm": "winograd4", "stride": (2, 2)}),
        (ValueError, "on cpu", {"weight": torch.zeros(4, 4, 3, 3, device="meta")}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_refuses(error, says, change):
    arguments = {"x": torch.zeros(1, 4, 8, 8), "weight": torch.zeros(4, 4, 3, 3), "padding": (1, 1)} | change
    with pytest.raises(error, match=says):
        conv2d(**arguments)
