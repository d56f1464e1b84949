"""Every way to compute a convolution on a GPU, emulated, against float64."""

import pytest
import torch
import torch.nn.functional as F

from gpu.emulated import A100, H100, RTX, assert_on_tensor_cores, padded, padding_of, poisoned

# Relative to the root mean square: what rounding a result to the type costs at most, with room for the sum's order.
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 6e-3, torch.float32: 1e-6}
NAMES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}
EDGES = {"zero": "constant", "reflect": "reflect", "clamp": "replicate"}


def pack(weight, dtype, transposed, depthwise):
    """As kernels.h says: [taps][out][in], padded to multiples of 16; depthwise [taps][channels], of 8."""
    if depthwise:
        channels = weight.shape[0]
        packed = torch.zeros(weight.shape[2] * weight.shape[3], -(-channels // 8) * 8)
        packed[:, :channels] = weight.flatten(2).permute(2, 0, 1)[..., 0]
        return packed.to(dtype)
    if transposed:
        weight = weight.transpose(0, 1)
    out, inside = weight.shape[:2]
    packed = torch.zeros(weight.shape[2] * weight.shape[3], -(-out // 16) * 16, -(-inside // 16) * 16)
    packed[:, :out, :inside] = weight.flatten(2).permute(2, 0, 1)
    return packed.to(dtype).contiguous()


def truth(x, weight, bias, residual, *, stride, padding, dilation, groups, transposed, edge, act, slope, scale, first):
    x = x.double().permute(0, 3, 1, 2)
    if transposed:
        y = F.conv_transpose2d(x, weight.double(), bias, stride, padding, groups=groups)
    else:
        if edge != "zero":
            x = F.pad(x, (padding[1],) * 2 + (padding[0],) * 2, mode=EDGES[edge])
            padding = (0, 0)
        y = F.conv2d(x, weight.double(), bias, stride, padding, dilation, groups)
    y = y.permute(0, 2, 3, 1)
    if residual is not None and first:
        y = y + residual.double()
    y = {"none": y, "relu": y.relu(), "leaky_relu": F.leaky_relu(y, slope), "gelu": F.gelu(y)}[act] * scale
    return y if residual is None or first else y + residual.double()


def check(machine, path, shape, out, dtype, *, kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1,
          transposed=False, edge="zero", act="relu", slope=0.2, scale=1.0, residual=None, bias=True):  # fmt: skip
    """residual: None, "first" or "last".  Returns the machine's counts."""
    g = torch.Generator().manual_seed(sum(shape) + out)
    x = padded(torch.randn(shape, generator=g).to(dtype))
    inside = shape[3]
    sizes = (inside, out // groups, *kernel) if transposed else (out, inside // groups, *kernel)
    fan = (inside // groups) * kernel[0] * kernel[1] / (stride[0] * stride[1] if transposed else 1)
    weight = (torch.randn(sizes, generator=g) * fan**-0.5).to(dtype).float()
    b = torch.randn(out, generator=g) if bias else None
    options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups, transposed=transposed, edge=edge)
    epilogue = dict(act=act, slope=slope, scale=scale, first=residual == "first")
    plain = truth(x, weight, None if b is None else b.double(), None, **options, **epilogue)
    r = None if residual is None else padded(torch.randn(plain.shape, generator=g).to(dtype))
    exact = truth(x, weight, None if b is None else b.double(), r, **options, **epilogue)
    y = poisoned(tuple(plain.shape), dtype)
    packed = pack(weight, dtype, transposed, path == "depthwise")
    way, counts = machine.call(
        "convolve",
        NAMES[dtype],
        machine.images(x),
        packed.data_ptr(),
        0 if b is None else b.data_ptr(),
        None if r is None else machine.images(r),
        machine.images(y),
        kernel,
        stride,
        padding,
        dilation,
        groups,
        transposed,
        edge,
        act,
        0.0 if act == "relu" else slope,
        scale,
        residual == "first",
        path,
        reads=[x, packed, b, r],
        writes=[y],
    )
    assert way == path or path == "auto"
    assert not padding_of(y).any()
    error = (y.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < TOLERANCE[dtype] * (2 if residual else 1), f"{error:.2g}"
    return counts


HALVES = [torch.float16, torch.bfloat16]
CHANNELS = [
    (3, 16), (16, 32), (12, 48), (16, 64), (16, 96), (32, 32), (32, 3), (32, 48), (48, 48), (48, 12), (64, 64), (64, 3),
    (60, 32), (96, 96), (96, 12), (80, 64)]  # fmt: skip


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_3x3_channels(machine, channels):
    counts = check(machine, "conv3x3", (1, 18, 21, channels[0]), channels[1], torch.float16)
    assert_on_tensor_cores(counts)


@pytest.mark.parametrize("device", [A100, RTX], ids=["A100", "RTX"])
@pytest.mark.parametrize("channels", [(48, 48), (64, 64), (96, 96), (3, 64)], ids=str)
def test_3x3_in_less_shared_memory(machine, device, channels):
    machine.use(device, seed=3)
    counts = check(machine, "auto", (1, 9, 17, channels[0]), channels[1], torch.bfloat16)
    assert_on_tensor_cores(counts)


EPILOGUES = [
    dict(act="none", bias=False),
    dict(act="leaky_relu", scale=-0.5, residual="last"),
    dict(act="relu", residual="first", scale=2.0),
    dict(act="gelu", residual="last"),
]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
@pytest.mark.parametrize("path", ["conv3x3", "implicit", "conv3x3_tma"])
def test_epilogues(machine, path, epilogue, dtype):
    counts = check(machine, path, (1, 7, 19, 60), 60, dtype, **epilogue)
    assert_on_tensor_cores(counts, "wgmma" if path == "conv3x3_tma" else "mma")


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 16, 16), (2, 17, 33), (1, 3, 70)], ids=str)
@pytest.mark.parametrize("path", ["conv3x3", "conv3x3_tma", "implicit"])
def test_sizes(machine, path, size):
    check(machine, path, (*size, 64), 64, torch.float16)


@pytest.mark.parametrize("edge", ["reflect", "clamp"])
@pytest.mark.parametrize("path", ["conv3x3", "implicit"])
def test_edges(machine, path, edge):
    check(machine, path, (1, 6, 20, 16), 16, torch.float16, edge=edge)


GEOMETRIES = {
    "1x1": dict(kernel=(1, 1), padding=(0, 0)),
    "5x5": dict(kernel=(5, 5), padding=(2, 2)),
    "stride 2": dict(kernel=(3, 3), stride=(2, 2)),
    "patch 2": dict(kernel=(2, 2), stride=(2, 2), padding=(0, 0)),
    "oblong": dict(kernel=(1, 3), stride=(2, 1), padding=(0, 1)),
    "dilated": dict(dilation=(2, 3), padding=(2, 3)),
    "groups as dense": dict(kernel=(1, 1), padding=(0, 0)),
    "transposed 2": dict(kernel=(2, 2), stride=(2, 2), padding=(0, 0), transposed=True),
    "transposed 4": dict(kernel=(4, 4), stride=(2, 2), padding=(1, 1), transposed=True),
    "transposed 3": dict(kernel=(3, 3), stride=(2, 2), padding=(1, 1), transposed=True),
}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("path", ["implicit", "plain"])
def test_geometries(machine, path, name):
    dtype = torch.float32 if path == "plain" else torch.float16
    counts = check(machine, path, (2, 10, 8, 40), 72, dtype, residual="last", **GEOMETRIES[name])
    if path == "implicit":
        assert_on_tensor_cores(counts)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("name", ["3x3", "stride 2", "5x5", "transposed 2"])
def test_depthwise(machine, name, dtype):
    check(machine, "depthwise", (1, 8, 9, 20), 20, dtype, groups=20, residual="first", **GEOMETRIES.get(name, {}))


def test_wide_channels(machine):
    check(machine, "implicit", (1, 9, 9, 256), 200, torch.bfloat16)


def test_not_finite_and_minus_infinity(machine):
    """relu keeps NaN and turns -inf into 0, as torch's does."""
    for path in ("conv3x3", "implicit"):
        x = torch.zeros(1, 4, 4, 16, dtype=torch.float16)
        x[0, 0, 0, 0], x[0, 3, 3, 0] = float("nan"), float("inf")
        weight = torch.zeros(16, 16, 3, 3)
        weight[0, 0, 1, 1] = -1.0
        y = poisoned((1, 4, 4, 16), torch.float16)
        packed = pack(weight, torch.float16, False, False)
        images = [machine.images(t) for t in (x, y)]
        machine.call(
            "convolve", "float16", images[0], packed.data_ptr(), 0, None, images[1], (3, 3), (1, 1), (1, 1), (1, 1), 1,
            False, "zero", "relu", 0.0, 1.0, False, path, reads=[x, packed], writes=[y])  # fmt: skip
        assert y[0, 0, 0, 0].isnan() and y[0, 3, 3, 0] == 0


def test_the_fastest_way_is_chosen(machine):
    """wgmma on a Hopper, mma.sync before it, an implicit product for the rest, and none below sm_80."""
    small = dict(shape=(1, 4, 4, 64), out=64, dtype=torch.float16)

    def chosen(device, **change):
        machine.use(device)
        options = small | change
        x = torch.zeros(options["shape"], dtype=options["dtype"])
        y = torch.zeros(*options["shape"][:3], options["out"], dtype=options["dtype"])
        groups = options.get("groups", 1)
        weight = torch.zeros(9 * 128 * 128, dtype=options["dtype"])
        return machine.call(
            "convolve", NAMES[options["dtype"]], machine.images(x), weight.data_ptr(), 0, None, machine.images(y),
            (3, 3), (1, 1), (1, 1), (1, 1), groups, False, "zero", "none", 0.0, 1.0, False, "auto",
            reads=[x, weight], writes=[y])[0]  # fmt: skip

    assert chosen(H100) == "conv3x3_tma"
    assert chosen(A100) == "conv3x3"
    assert chosen(RTX) == "conv3x3"
    assert chosen(H100, shape=(1, 4, 4, 128)) == "implicit"
    assert chosen(H100, groups=64) == "depthwise"
    assert chosen(H100, dtype=torch.float32) == "plain"
    with pytest.raises(ValueError, match=r"8\.0, this device has 7\.5"):
        chosen({**RTX, "capability": 75})
