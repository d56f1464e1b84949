"""What one kernel computes of several operators, emulated, against torch in float64: NAFNet's block in two kernels,
Restormer's products of channels in one pass and its mixture as part of a projection."""

import pytest
import torch
import torch.nn.functional as F

from gpu.emulated import A100, H100, RTX, Gpu, assert_on_tensor_cores, padded, poisoned
from gpu.test_convolution import NAMES, TOLERANCE, pack

EPSILON = 1e-6
HALVES = [torch.float16, torch.bfloat16]


def weights_of(generator, dtype, *shape):
    fan = shape[1] * (9 if shape[-1] == 3 else 1)
    return (torch.randn(shape, generator=generator) * fan**-0.5).to(dtype).float()


def addresses(*tensors):
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def conv(x, weight, bias, **options):
    """x: [1, H, W, C] in float64."""
    bias = None if bias is None else bias.double()
    return F.conv2d(x.permute(0, 3, 1, 2), weight.double(), bias, **options).permute(0, 2, 3, 1)


def gate(x):
    a, b = x.chunk(2, -1)
    return a * b


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON)


def relative(actual, exact):
    return float((actual.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def front(machine, dtype, height, width, channels, bias=True):
    """Our product and sums, the exact ones, and the machine's counts."""
    g = torch.Generator().manual_seed(height * width)
    x = padded(torch.randn((1, height, width, channels), generator=g).to(dtype))
    expand = weights_of(g, dtype, 2 * channels, channels, 1, 1)
    depthwise = weights_of(g, dtype, 2 * channels, 1, 3, 3) + 0.25
    biases = [torch.randn(2 * channels, generator=g) if bias else None for _ in range(2)]
    packed = [pack(expand, dtype, False, False), pack(depthwise, dtype, False, True)]
    depthwise = packed[1].float().T.reshape(2 * channels, 1, 3, 3)
    y = poisoned((1, height, width, channels), dtype)
    columns = 16 if channels <= 256 else 8  # of a tile
    sums = torch.full((-(-height // 8) * -(-width // columns), channels), float("nan"))
    _, counts = machine.call(
        "gated_front", NAMES[dtype], EPSILON, addresses(*packed, *biases), machine.images(x), machine.images(y),
        sums.data_ptr(), reads=[x, *packed, *biases], writes=[y, sums])  # fmt: skip
    wide = conv(norm(x.double()), expand, biases[0])
    exact = gate(conv(wide, depthwise, biases[1], padding=1, groups=2 * channels))
    return y, sums, exact, counts


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    ("height", "width", "channels", "bias"),
    [(9, 17, 32, True), (8, 16, 64, False), (1, 1, 32, True), (3, 5, 128, True), (2, 3, 256, True), (3, 9, 512, True)],
)
def test_the_front_of_a_gated_block(machine, height, width, channels, bias, dtype):
    y, sums, exact, counts = front(machine, dtype, height, width, channels, bias)
    # Rounded on the way: the norm's result, and what the depthwise convolution reads.
    assert relative(y, exact) < 2.5 * TOLERANCE[dtype]
    assert_on_tensor_cores(counts)
    ours = sums.double().sum(0)
    assert relative(ours, exact.sum((0, 1, 2))) < 4 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    ("height", "width", "channels", "bias", "local"),
    [(11, 13, 32, True, False), (5, 9, 64, False, True), (1, 1, 32, True, False), (2, 20, 128, True, True),
     (5, 13, 256, True, False), (2, 3, 512, True, False)],
)  # fmt: skip
def test_the_back_of_a_gated_block(machine, height, width, channels, bias, local, dtype):
    """local: a scale for each pixel, not one for all."""
    g = torch.Generator().manual_seed(channels)
    x, gated = (padded(torch.randn((1, height, width, channels), generator=g).to(dtype)) for _ in range(2))
    scale = padded(torch.randn((1, height, width, channels) if local else (1, 1, 1, channels), generator=g).to(dtype))
    weights = [weights_of(g, dtype, out, channels, 1, 1) for out in (channels, 2 * channels, channels)]
    biases = [torch.randn(len(weight), generator=g) if bias else None for weight in weights]
    packed = [pack(weight, dtype, False, False) for weight in weights]
    y = poisoned((1, height, width, channels), dtype)
    _, counts = machine.call(
        "gated_back", NAMES[dtype], EPSILON, addresses(*packed, *biases), machine.images(gated), machine.images(scale),
        machine.images(x), machine.images(y), reads=[x, gated, scale, *packed, *biases], writes=[y])  # fmt: skip
    middle = x.double() + conv(gated.double() * scale.double(), weights[0], biases[0])
    exact = middle + conv(gate(conv(norm(middle), weights[1], biases[1])), weights[2], biases[2])
    assert relative(y, exact) < 2.5 * TOLERANCE[dtype]
    assert_on_tensor_cores(counts)


def test_the_harness_of_a_gpu_finds_addresses_in_lists(machine):
    """As test_pixels has it for the rest."""
    if isinstance(machine, Gpu):
        pytest.skip("the emulation stands for the GPU here")
    machine.module.announce([(0, 2**63, True)])
    y, _, exact, _ = front(Gpu(machine.kernels, copy=torch.Tensor.clone), torch.float16, 3, 5, 32)
    assert relative(y, exact) < 2.5 * TOLERANCE[torch.float16]


def test_a_front_without_sums(machine):
    """As a mean over windows takes it: the product's bits are the same."""
    g = torch.Generator().manual_seed(1)
    x = padded(torch.randn((1, 9, 17, 32), generator=g).half())
    packed = [pack(weights_of(g, torch.float16, 64, 32, 1, 1), torch.float16, False, False),
              pack(weights_of(g, torch.float16, 64, 1, 3, 3), torch.float16, False, True)]  # fmt: skip
    results = []
    for sums in (torch.full((4, 32), float("nan")), None):
        y = poisoned((1, 9, 17, 32), torch.float16)
        machine.call(
            "gated_front", "float16", EPSILON, addresses(*packed, None, None), machine.images(x), machine.images(y),
            *addresses(sums), reads=[x, *packed], writes=[y] if sums is None else [y, sums])  # fmt: skip
        results.append(y)
    assert torch.equal(*results) and results[0].isfinite().all()


def test_the_mean_of_a_front(machine):
    """The sums over tiles become the mean over pixels that the next 1x1 convolution reads."""
    _, sums, exact, _ = front(machine, torch.float16, 20, 33, 32)
    mean = poisoned((1, 1, 1, 32), torch.float16)
    machine.call("mean_of_sums", "float16", sums.data_ptr(), [1, 20, 33, 32], len(sums), machine.images(mean),
                 reads=[sums], writes=[mean])  # fmt: skip
    assert relative(mean.flatten(), exact.mean((0, 1, 2))) < 4 * TOLERANCE[torch.float16]


def grams(x, heads, fold):
    """[groups][heads][n * (n + 2)] in float64."""
    channels = x.shape[3] // 3
    rows = []
    for part in x[0].double().split(fold):
        q, k = (part[..., i * channels : (i + 1) * channels].reshape(-1, heads, channels // heads) for i in range(2))
        rows.append(torch.cat([torch.einsum("phi,phj->hij", q, k).flatten(1), (q * q).sum(0), (k * k).sum(0)], 1))
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    ("heads", "n", "height", "width"), [(1, 48, 6, 19), (2, 24, 5, 7), (3, 8, 4, 17), (1, 16, 1, 1)]
)
def test_products_of_channels(machine, heads, n, height, width, dtype):
    g = torch.Generator().manual_seed(n)
    x = padded(torch.randn((1, height, width, 3 * heads * n), generator=g).to(dtype))
    ours = torch.full((-(-height // 4), heads, n * (n + 2)), float("nan"))
    _, counts = machine.call("row_grams", NAMES[dtype], machine.images(x), heads, 4, ours.data_ptr(), reads=[x],
                             writes=[ours])  # fmt: skip
    torch.testing.assert_close(ours.double(), grams(x, heads, 4), rtol=1e-5, atol=1e-4)
    assert counts is None or counts["mma"] > 0


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
@pytest.mark.parametrize(("heads", "n", "out"), [(2, 24, 48), (3, 8, 20)])
def test_a_mixture_becomes_part_of_a_projection(machine, heads, n, out, dtype):
    g = torch.Generator().manual_seed(out)
    weights = torch.rand((heads, n, n), generator=g) / n  # [head][of the value][of the result]
    project = torch.randn((out, heads * n), generator=g)
    folded = torch.full((-(-out // 16) * 16, -(-heads * n // 16) * 16), float("nan"), dtype=dtype)
    machine.call("fold_mixture", NAMES[dtype], weights.data_ptr(), heads * n, heads, project.data_ptr(), out,
                 folded.data_ptr(), reads=[weights, project], writes=[folded])  # fmt: skip
    exact = torch.einsum("ohi,hji->ohj", project.double().reshape(out, heads, n), weights.double()).flatten(1)
    assert relative(folded[:out, : heads * n], exact) < TOLERANCE[dtype]
    assert not folded[out:].any() and not folded[:, heads * n :].any()


def test_what_a_device_has_no_room_for(module):
    """The fused block of 128 channels and more takes more shared memory than a small card's blocks have, that of 512
    more than Ampere's."""
    for device, channels, fits in (
        (H100, 256, True), (A100, 256, True), (H100, 128, True), (RTX, 128, False), (RTX, 64, True), (H100, 512, True),
        (A100, 512, False), (H100, 1024, False), (H100, 48, False)):  # fmt: skip
        module.set_device(**device, seed=1)
        assert module.cuda.gated_block_supports("float16", channels) is fits
    assert not module.cuda.gated_block_supports("float32", 64)
