"""Triton kernels in the interpreter, against float64; compiled ahead of time for four generations, without a GPU."""

import os
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from fastrestore.ops.window_attention import reference as plain_attention
from fastrestore.triton import available

pytestmark = pytest.mark.skipif(not available(), reason="Triton is not installed")
HALVES = [torch.float16, torch.bfloat16]
TYPES = [torch.float32, *HALVES]
# The interpreter cuts float32 to bfloat16 instead of rounding it: twice the error of one rounding.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.fixture(scope="module")
def kernels():
    """The kernels, interpreted: the environment says so before they are defined."""
    if torch.cuda.is_available():
        pytest.skip("Triton compiles where there is a GPU")
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        from fastrestore.triton import conv2d, layer_norm, pixel_shuffle, tiles, window_attention

        yield {
            "conv2d": conv2d, "layer_norm": layer_norm, "pixel_shuffle": pixel_shuffle, "tiles": tiles,
            "window_attention": window_attention}  # fmt: skip
    finally:
        os.environ.pop("TRITON_INTERPRET") if before is None else os.environ.update(TRITON_INTERPRET=before)


def sample(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def poisoned(shape, dtype):
    return torch.full(shape, float("nan"), dtype=dtype)


def assert_close(actual, exact, dtype, factor=1):
    error = (actual.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < factor * TOLERANCE[dtype], f"{error:.2g}"


CONVOLUTIONS = {
    "3x3 relu": dict(act="relu"),
    "3x3 residual first": dict(act="leaky_relu", residual="first", scale=0.5),
    "3x3 residual last": dict(act="relu", residual="last", bias=False),
    "stride 2": dict(stride=(2, 2)),
    "1x1": dict(kernel_size=(1, 1), padding=(0, 0)),
    "dilated oblong": dict(kernel_size=(3, 1), padding=(2, 0), dilation=(2, 1)),
}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv2d(kernels, name, dtype):
    given = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "act": "none"}
    given |= {"residual": None, "scale": 1.0, "bias": True} | CONVOLUTIONS[name]
    act, residual, scale, bias = (given.pop(key) for key in ("act", "residual", "scale", "bias"))
    x, inside, out = sample((2, 7, 9, 36), dtype), 36, 70
    weight = sample((out, inside, *given["kernel_size"]), seed=1).to(dtype) / (inside * 9) ** 0.5
    b = sample((out,), seed=2) if bias else None
    geometry = (given["stride"], given["padding"], given["dilation"])
    exact = F.conv2d(x.double().permute(0, 3, 1, 2), weight.double(), None if b is None else b.double(), *geometry)
    exact = exact.permute(0, 2, 3, 1)
    r = None if residual is None else sample(exact.shape, dtype, 3)
    if residual == "first":
        exact = exact + r.double()
    slope = {"none": 1.0, "relu": 0.0, "leaky_relu": 0.2}[act]
    exact = F.leaky_relu(exact, slope) * scale
    if residual == "last":
        exact = exact + r.double()
    y = poisoned(exact.shape, dtype)
    packed = weight.flatten(2).permute(2, 0, 1).contiguous()
    kernels["conv2d"].conv2d(x, packed, b, r, y, slope=slope, scale=scale, residual_first=residual == "first", **given)
    assert_close(y, exact, dtype)


def test_relu_keeps_nan_and_drops_minus_infinity(kernels):
    x = torch.tensor([float("nan"), float("-inf"), -1.0, 2.0]).reshape(1, 1, 4, 1).half()
    y = poisoned((1, 1, 4, 1), torch.float16)
    kernels["conv2d"].conv2d(
        x, torch.ones(1, 1, 1).half(), None, None, y, kernel_size=(1, 1), stride=(1, 1), padding=(0, 0),
        dilation=(1, 1), slope=0.0, scale=1.0, residual_first=False)  # fmt: skip
    assert y.flatten().isnan().tolist() == [True, False, False, False]
    assert y.flatten()[1:].tolist() == [0.0, 0.0, 2.0]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("heads", "depth", "side", "shift"), [(2, 10, 8, 4), (3, 32, 7, 0), (1, 30, 4, 1)])
def test_window_attention(kernels, heads, depth, side, shift, dtype):
    qkv, bias = sample((1, 2 * side - 1, side, 3 * heads * depth), dtype), sample((heads, (2 * side - 1) ** 2), seed=1)
    y = poisoned((1, 2 * side - 1, side, heads * depth), dtype)
    kernels["window_attention"].window_attention(qkv, bias, y, heads, side, shift, depth**-0.5)
    assert_close(y, plain_attention(qkv.double(), bias.double(), side, shift), dtype, 2)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("subtract", [True, False])
def test_layer_norm(kernels, subtract, dtype):
    x, scale, shift = sample((2, 3, 5, 48), dtype) + 2, sample((48,), seed=1), sample((48,), seed=2)
    y = poisoned(x.shape, dtype)
    kernels["layer_norm"].layer_norm(x, scale, shift if subtract else None, y, 1e-5, subtract)
    if subtract:
        exact = F.layer_norm(x.double(), (48,), scale.double(), shift.double(), 1e-5)
    else:
        exact = x.double() / (x.double().var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * scale
    assert_close(y, exact, dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("gelu", [False, True])
def test_gate(kernels, gelu, dtype):
    x, y = sample((1, 4, 5, 26), dtype), poisoned((1, 4, 5, 13), dtype)
    kernels["layer_norm"].gate(x, y, gelu)
    left, right = x.double().chunk(2, -1)
    assert_close(y, (F.gelu(left) if gelu else left) * right, dtype)


@pytest.mark.parametrize(("channels", "r"), [(3, 2), (2, 3)])
def test_pixel_shuffle(kernels, channels, r):
    packed = sample((2, 3, 5, channels * r * r), torch.float16)
    flat = F.pixel_shuffle(packed.permute(0, 3, 1, 2), r).permute(0, 2, 3, 1).contiguous()
    y = poisoned(flat.shape, torch.float16)
    kernels["pixel_shuffle"].pixel_shuffle(packed, y, r)
    assert torch.equal(y, flat)
    y = poisoned(packed.shape, torch.float16)
    kernels["pixel_shuffle"].pixel_unshuffle(flat, y, r)
    assert torch.equal(y, packed)


@pytest.mark.parametrize("edge", ["zero", "reflect", "clamp"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float16, torch.float32], ids=str)
def test_gathering_a_tile(kernels, dtype, edge):
    top = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    image = torch.rand((7, 9, 1), generator=torch.Generator().manual_seed(0)) * top
    image = image.round().to(dtype) if top > 1 else image.to(dtype)
    y = poisoned((1, 13, 13, 3), torch.float32)
    kernels["tiles"].gather_tile(image, y, -3, -2, edge)
    wanted = (image.float() / top).permute(2, 0, 1)[None].expand(1, 3, 7, 9)
    mode = {"zero": "constant", "reflect": "reflect", "clamp": "replicate"}[edge]
    torch.testing.assert_close(y, F.pad(wanted, (2, 2, 3, 3), mode=mode).permute(0, 2, 3, 1), rtol=0, atol=1e-7)


def test_blending_tiles(kernels):
    image, sums = sample((1, 6, 20, 3)), torch.zeros(6, 20, 3)
    for left, ramps in ((0, (0, 0, 0, 4)), (8, (0, 0, 4, 0))):
        kernels["tiles"].blend_tile(image[:, :, left : left + 12].contiguous(), sums, 0, left, ramps)
    torch.testing.assert_close(sums, image[0], rtol=0, atol=1e-6)


AHEAD = """
import re, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fastrestore.triton import conv2d, layer_norm, pixel_shuffle, tiles, window_attention

def compiled(kernel, capability, pointers, constants, floats=(), warps=4):
    names = kernel.arg_names
    kinds = {n: "i32" for n in names} | dict.fromkeys(floats, "fp32") | dict.fromkeys(constants, "constexpr") | pointers
    signature = {n: kinds[n] for n in names}
    places = {(names.index(n),): v for n, v in constants.items()}
    aligned = {(names.index(n),): [["tt.divisibility", 16]] for n in pointers}
    source = ASTSource(kernel, signature=signature, constexprs=places, attrs=aligned)
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    print(capability, kernel.__name__, len(binary.asm["cubin"]), len(re.findall("mma", binary.asm["ptx"])))

half = lambda *names: {n: "*fp16" for n in names}
for capability in map(int, sys.argv[1:]):
    geometry = dict(KERNEL_H=3, KERNEL_W=3, STRIDE_H=1, STRIDE_W=1, PAD_TOP=1, PAD_LEFT=1, DILATION_H=1, DILATION_W=1)
    compiled(conv2d.kernel, capability, half("x", "weight", "residual", "y") | {"bias": "*fp32"},
             geometry | dict(HAS_BIAS=True, RESIDUAL=2, WIDEN=False, BLOCK_PIXELS=128, BLOCK_OUT=64, BLOCK_IN=32),
             ("slope", "scale"))
    compiled(window_attention.kernel, capability, half("qkv", "y") | {"bias": "*fp32"},
             dict(SIDE=8, DEPTH=30, BLOCK_DEPTH=32, TOKENS=64, WIDEN=False), ("factor",))
    compiled(layer_norm.norm_kernel, capability, half("x", "y") | {"scale": "*fp32", "shift": "*fp32"},
             dict(HAS_SHIFT=True, SUBTRACT=True, BLOCK_PIXELS=32, BLOCK_CHANNELS=64), ("epsilon",))
    compiled(layer_norm.gate_kernel, capability, half("x", "y"), dict(GELU=True, BLOCK=1024))
    compiled(pixel_shuffle.kernel, capability, half("x", "y"), dict(R=2, PACK=False, BLOCK=1024))
    compiled(tiles.gather_kernel, capability, {"picture": "*u8", "y": "*fp16"}, dict(EDGE=1, TOP=255.0, BLOCK=1024))
    compiled(tiles.blend_kernel, capability, {"x": "*fp16", "sums": "*fp32"}, dict(BLOCK=1024))
"""


def test_compiles_ahead_of_time(tmp_path):
    """Machine code for Ampere, Hopper and both Blackwells; the products are on tensor cores."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", AHEAD, "80", "90", "100", "120"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = re.findall(r"(\d+) (\w+) (\d+) (\d+)", done.stdout)
    assert len(rows) == 4 * 7
    for capability, name, size, products in rows:
        assert int(size) > 0
        if name == "kernel" and rows.index((capability, name, size, products)) % 7 < 2:
            assert int(products) > 0, (capability, name)
