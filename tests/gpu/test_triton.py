"""Triton kernels in the interpreter, against float64; compiled ahead of time for four generations, without a GPU."""

import importlib
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastrestore.ops.channel_attention import reference as plain_channel_attention
from fastrestore.ops.local_mean import reference as plain_means
from fastrestore.ops.window_attention import reference as plain_attention
from fastrestore.triton import available

pytestmark = pytest.mark.skipif(not available(), reason="Triton is not installed")
NAMES = ("channel_attention", "conv2d", "depthwise", "gated_block", "layer_norm", "local_mean", "pixel_shuffle",
         "statistics", "tiles", "window_attention")  # fmt: skip
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
        yield SimpleNamespace(**{name: importlib.import_module(f"fastrestore.triton.{name}") for name in NAMES})
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
    "stride 2, gelu": dict(stride=(2, 2), act="gelu"),
    "1x1": dict(kernel_size=(1, 1), padding=(0, 0)),
    "dilated oblong": dict(kernel_size=(3, 1), padding=(2, 0), dilation=(2, 1)),
}
SLOPES = {"none": 1.0, "relu": 0.0, "leaky_relu": 0.2, "gelu": 0.3}  # the last is of no account
FORMS = {"none": lambda y: y, "relu": F.relu, "leaky_relu": lambda y: F.leaky_relu(y, 0.2), "gelu": F.gelu}


def convolved(kernels, run, plain, inputs, shape, dtype, act="none", residual=None, scale=1.0, bias=True, **geometry):
    """What a launcher makes of an epilogue, and the exact result.

    inputs: x and the packed weight; plain(bias): the exact convolution in float64, of this shape.
    """
    b = sample((shape[-1],), seed=2) if bias else None
    exact = plain(None if b is None else b.double()).permute(0, 2, 3, 1)
    assert exact.shape == shape
    r = None if residual is None else sample(shape, dtype, 3)
    if residual == "first":
        exact = exact + r.double()
    exact = FORMS[act](exact) * scale
    if residual == "last":
        exact = exact + r.double()
    y = poisoned(shape, dtype)
    run(*inputs, b, r, y, kernels.conv2d.Epilogue(SLOPES[act], scale, residual == "first", act == "gelu"), **geometry)
    return y, exact


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv2d(kernels, name, dtype):
    given = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)} | CONVOLUTIONS[name]
    x, inside, out = sample((2, 7, 9, 36), dtype), 36, 70
    weight = sample((out, inside, *given["kernel_size"]), seed=1).to(dtype) / (inside * 9) ** 0.5
    geometry = (given["stride"], given["padding"], given["dilation"])

    def plain(bias):
        return F.conv2d(x.double().permute(0, 3, 1, 2), weight.double(), bias, *geometry)

    n, _, height, width = plain(None).shape
    packed = weight.flatten(2).permute(2, 0, 1).contiguous()
    y, exact = convolved(kernels, kernels.conv2d.conv2d, plain, (x, packed), (n, height, width, out), dtype, **given)
    assert_close(y, exact, dtype)


@pytest.mark.parametrize("edge", ["reflect", "clamp"])
@pytest.mark.parametrize("separate", [False, True], ids=["dense", "depthwise"])
def test_what_lies_beyond_the_edge(kernels, separate, edge):
    dtype, (height, width), channels = torch.float16, (4, 6), 20
    x = sample((2, height, width, channels), dtype)
    weight = (sample((channels, 1 if separate else channels, 5, 5), seed=1) / 20).to(dtype)
    flat = F.pad(x.double().permute(0, 3, 1, 2), (2, 2, 2, 2), "reflect" if edge == "reflect" else "replicate")
    packed = weight.flatten(1).T if separate else weight.flatten(2).permute(2, 0, 1)
    y, exact = convolved(
        kernels, kernels.depthwise.depthwise if separate else kernels.conv2d.conv2d,
        lambda bias: F.conv2d(flat, weight.double(), bias, groups=channels if separate else 1),
        (x, packed.contiguous()), tuple(x.shape), dtype,
        kernel_size=(5, 5), stride=(1, 1), padding=(2, 2), dilation=(1, 1), edge=edge)  # fmt: skip
    assert_close(y, exact, dtype)


DEPTHWISE = {
    "3x3": dict(act="relu"),
    "5x3, stride 2": dict(kernel_size=(5, 3), stride=(2, 1), padding=(2, 1), act="gelu", residual="first"),
    "dilated": dict(padding=(2, 2), dilation=(2, 2), act="leaky_relu", residual="last", scale=0.5, bias=False),
}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise(kernels, name, dtype):
    given = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)} | DEPTHWISE[name]
    x, channels = sample((2, 7, 9, 36), dtype), 36
    weight = (sample((channels, 1, *given["kernel_size"]), seed=1) / 3).to(dtype)
    geometry = (given["stride"], given["padding"], given["dilation"])

    def plain(bias):
        return F.conv2d(x.double().permute(0, 3, 1, 2), weight.double(), bias, *geometry, channels)

    n, _, height, width = plain(None).shape
    y, exact = convolved(
        kernels, kernels.depthwise.depthwise, plain, (x, weight.flatten(1).T.contiguous()),
        (n, height, width, channels), dtype, **given)  # fmt: skip
    assert_close(y, exact, dtype)


TRANSPOSED = {
    "2x2": dict(),
    "3x3, with output padding": dict(kernel_size=(3, 3), padding=(1, 1), added=(1, 1), act="gelu", residual="last"),
    "4x3, strides apart": dict(kernel_size=(4, 3), stride=(3, 1), padding=(2, 0), act="leaky_relu", residual="first"),
    "1x1 with gaps": dict(kernel_size=(1, 1), bias=False),
}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose2d(kernels, name, dtype):
    given = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "added": (0, 0)} | TRANSPOSED[name]
    added = given.pop("added")
    x, inside, out = sample((2, 5, 7, 20), dtype), 20, 36
    weight = (sample((inside, out, *given["kernel_size"]), seed=1) / inside**0.5).to(dtype)

    def plain(bias):
        return F.conv_transpose2d(
            x.double().permute(0, 3, 1, 2), weight.double(), bias, given["stride"], given["padding"], added
        )

    n, _, height, width = plain(None).shape
    packed = weight.flatten(2).permute(2, 1, 0).contiguous()
    y, exact = convolved(
        kernels, kernels.conv2d.conv_transpose2d, plain, (x, packed), (n, height, width, out), dtype, **given
    )
    assert_close(y, exact, dtype)


def test_relu_keeps_nan_and_drops_minus_infinity(kernels):
    x = torch.tensor([float("nan"), float("-inf"), -1.0, 2.0]).reshape(1, 1, 4, 1).half()
    y = poisoned((1, 1, 4, 1), torch.float16)
    kernels.conv2d.conv2d(
        x, torch.ones(1, 1, 1).half(), None, None, y, kernels.conv2d.Epilogue(slope=0.0), kernel_size=(1, 1),
        stride=(1, 1), padding=(0, 0), dilation=(1, 1))  # fmt: skip
    assert y.flatten().isnan().tolist() == [True, False, False, False]
    assert y.flatten()[1:].tolist() == [0.0, 0.0, 2.0]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("heads", "depth", "side", "shift"), [(2, 10, 8, 4), (3, 32, 7, 0), (1, 30, 4, 1)])
def test_window_attention(kernels, heads, depth, side, shift, dtype):
    qkv, bias = sample((1, 2 * side - 1, side, 3 * heads * depth), dtype), sample((heads, (2 * side - 1) ** 2), seed=1)
    y = poisoned((1, 2 * side - 1, side, heads * depth), dtype)
    kernels.window_attention.window_attention(qkv, bias, y, heads, side, shift, depth**-0.5)
    assert_close(y, plain_attention(qkv.double(), bias.double(), side, shift), dtype, 2)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("subtract", [True, False])
def test_layer_norm(kernels, subtract, dtype):
    x, scale, shift = sample((2, 3, 5, 48), dtype) + 2, sample((48,), seed=1), sample((48,), seed=2)
    y = poisoned(x.shape, dtype)
    kernels.layer_norm.layer_norm(x, scale, shift if subtract else None, y, 1e-5, subtract)
    if subtract:
        exact = F.layer_norm(x.double(), (48,), scale.double(), shift.double(), 1e-5)
    else:
        exact = x.double() / (x.double().var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * scale
    assert_close(y, exact, dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("gelu", [False, True])
def test_gate(kernels, gelu, dtype):
    x, y = sample((1, 4, 5, 26), dtype), poisoned((1, 4, 5, 13), dtype)
    kernels.layer_norm.gate(x, y, gelu)
    left, right = x.double().chunk(2, -1)
    assert_close(y, (F.gelu(left) if gelu else left) * right, dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("images", "heads", "depth", "height", "width"), [(1, 2, 5, 26, 41), (1, 1, 40, 5, 7), (2, 2, 4, 1, 1)]
)
def test_channel_attention(kernels, images, heads, depth, height, width, dtype):
    qkv = sample((images, height, width, 3 * heads * depth), dtype) + 0.5
    temperature, y = sample((heads,), seed=1) + 2, poisoned((images, height, width, heads * depth), dtype)
    kernels.channel_attention.channel_attention(qkv, temperature, y)
    exact = plain_channel_attention(qkv.double().permute(0, 3, 1, 2), temperature.double()).permute(0, 2, 3, 1)
    # The interpreter cuts the mixture's weights to bfloat16, all to the same side.
    assert_close(y, exact, dtype, 1 if dtype == torch.float32 else 2)


def test_queries_without_length_attend_to_all_alike(kernels):
    """Of a picture that is black: what divides by a length has a least one."""
    y = poisoned((1, 3, 4, 4), torch.float16)
    kernels.channel_attention.channel_attention(torch.zeros(1, 3, 4, 12).half(), torch.ones(2), y)
    assert torch.equal(y, torch.zeros_like(y))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("height", "width"), [(33, 40), (1, 1)])
def test_means_over_the_picture(kernels, height, width, dtype):
    x, y = sample((2, height, width, 70), dtype) + 1, poisoned((2, 70), dtype)
    kernels.statistics.mean(x, y)
    assert_close(y, x.double().mean((1, 2)), dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("height", "width", "side"), [(9, 70, 4), (9, 70, 30), (1, 1, 3)])
def test_means_over_windows(kernels, height, width, side, dtype):
    x, y = sample((2, height, width, 35), dtype), poisoned((2, height, width, 35), dtype)
    kernels.local_mean.local_mean(x, y, side)
    exact = plain_means(x.double().permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
    assert_close(y, exact, dtype)


def weights_of(dtype, *shapes):
    """Weights [outputs, inputs] or [9, channels], and a bias for each."""
    of = [(sample(s, seed=n) / (9 if s[0] == 9 else s[1]) ** 0.5).to(dtype) for n, s in enumerate(shapes, 10)]
    return of, [sample((s[1] if s[0] == 9 else s[0],), seed=n) for n, s in enumerate(shapes, 20)]


def plain_norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def plain_gate(x):
    a, b = x.chunk(2, -1)
    return a * b


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("images", "height", "width", "channels", "bias"),
    [(1, 18, 67, 12, True), (1, 2, 3, 40, False), (2, 1, 1, 32, True)],
)
def test_the_front_of_a_gated_block(kernels, images, height, width, channels, bias, dtype):
    block, x = kernels.gated_block, sample((images, height, width, channels), dtype)
    (expand, depthwise), biases = weights_of(dtype, (2 * channels, channels), (9, 2 * channels))
    biases = biases if bias else [None, None]
    y, sums = poisoned(x.shape, dtype), poisoned((images, block.front_tiles(x), channels), torch.float32)
    block.front(x, block.Front(expand, depthwise, *biases), 1e-6, y, sums)
    mean = poisoned((images, channels), dtype)
    kernels.statistics.mean_of_sums(sums, mean, height * width)
    shifts = [b.double() if bias else torch.zeros(2 * channels).double() for b in biases]
    wide = plain_norm(x.double()) @ expand.double().T + shifts[0]
    taps = depthwise.double().T.reshape(2 * channels, 1, 3, 3)
    deep = F.conv2d(wide.permute(0, 3, 1, 2), taps, shifts[1], padding=1, groups=2 * channels).permute(0, 2, 3, 1)
    exact = plain_gate(deep)
    # Rounded on the way: the norm's result, and what the depthwise convolution reads.
    assert_close(y, exact, dtype, 3)
    assert_close(mean, exact.mean((1, 2)), dtype, 4)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("height", "width", "channels", "bias"), [(9, 15, 32, True), (3, 5, 128, False), (1, 1, 20, True)]
)
def test_the_back_of_a_gated_block(kernels, height, width, channels, bias, dtype):
    block, c = kernels.gated_block, channels
    gated, x = (sample((2, height, width, c), dtype, seed) for seed in (0, 1))
    scale = sample((2, c), dtype, 2)
    weights, biases = weights_of(dtype, (c, c), (2 * c, c), (c, c))
    biases = biases if bias else [None] * 3
    y = poisoned(x.shape, dtype)
    block.back(gated, scale, x, block.Back(*weights, *biases), 1e-6, y)
    shifts = [b.double() if bias else 0.0 for b in biases]
    project, expand, contract = (w.double().T for w in weights)
    middle = x.double() + (gated.double() * scale.double()[:, None, None]) @ project + shifts[0]
    exact = middle + plain_gate(plain_norm(middle) @ expand + shifts[1]) @ contract + shifts[2]
    assert_close(y, exact, dtype, 3)


def test_blocks_suit_what_they_are_for(kernels):
    """Configurations are left out by size; where none is left the first is taken."""
    conv, back = kernels.conv2d.tuned_kernel, kernels.gated_block.tuned_back
    for fits, blocks, given, wanted in (
        (conv.fits, conv.blocks, {"in_channels": 3, "out_channels": 64}, {(16, 16)}),
        (conv.fits, conv.blocks, {"in_channels": 64, "out_channels": 3}, {(16, 16)}),
        (back.fits, back.blocks, {"BLOCK_CHANNELS": 256}, {(32, 32), (64, 32), (64, 16)}),
        (back.fits, back.blocks, {"BLOCK_CHANNELS": 16}, {(64, 16)}),
    ):
        names = ("BLOCK_OUT", "BLOCK_IN") if "BLOCK_OUT" in blocks[0] else ("BLOCK_PIXELS", "BLOCK")
        assert {tuple(b[n] for n in names) for b in blocks if fits(b, given)} == wanted


@pytest.mark.parametrize(("channels", "r"), [(3, 2), (2, 3)])
def test_pixel_shuffle(kernels, channels, r):
    packed = sample((2, 3, 5, channels * r * r), torch.float16)
    flat = F.pixel_shuffle(packed.permute(0, 3, 1, 2), r).permute(0, 2, 3, 1).contiguous()
    y = poisoned(flat.shape, torch.float16)
    kernels.pixel_shuffle.pixel_shuffle(packed, y, r)
    assert torch.equal(y, flat)
    y = poisoned(packed.shape, torch.float16)
    kernels.pixel_shuffle.pixel_unshuffle(flat, y, r)
    assert torch.equal(y, packed)


@pytest.mark.parametrize("edge", ["zero", "reflect", "clamp"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float16, torch.float32], ids=str)
def test_gathering_a_tile(kernels, dtype, edge):
    top = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    image = torch.rand((7, 9, 1), generator=torch.Generator().manual_seed(0)) * top
    image = image.round().to(dtype) if top > 1 else image.to(dtype)
    y = poisoned((1, 13, 13, 3), torch.float32)
    kernels.tiles.gather_tile(image, y, -3, -2, edge)
    wanted = (image.float() / top).permute(2, 0, 1)[None].expand(1, 3, 7, 9)
    mode = {"zero": "constant", "reflect": "reflect", "clamp": "replicate"}[edge]
    torch.testing.assert_close(y, F.pad(wanted, (2, 2, 3, 3), mode=mode).permute(0, 2, 3, 1), rtol=0, atol=1e-7)


def test_blending_tiles(kernels):
    image, sums = sample((1, 6, 20, 3)), torch.zeros(6, 20, 3)
    for left, ramps in ((0, (0, 0, 0, 4)), (8, (0, 0, 4, 0))):
        kernels.tiles.blend_tile(image[:, :, left : left + 12].contiguous(), sums, 0, left, ramps)
    torch.testing.assert_close(sums, image[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float16, torch.float32], ids=str)
def test_storing_a_tile(kernels, dtype, grey):
    top = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    picture = torch.rand((9, 12, 1 if grey else 3), generator=torch.Generator().manual_seed(0))
    picture = (picture * top).round().to(dtype) if top > 1 else picture.to(dtype)
    x = torch.rand((1, 5, 7, 3), generator=torch.Generator().manual_seed(1)) * 1.5 - 0.25
    x[0, 0, 0, 0], x[0, 1, 1, 2] = float("nan"), float("-inf")
    for strength, clip in ((1.0, True), (0.4, False)):
        out, lost = picture.clone(), torch.tensor([5])
        kernels.tiles.store_tile(x, picture, out, 3, 2, strength=strength, clip=clip, non_finite=lost)
        assert lost.tolist() == [7]
        restored = x[0].mean(2, keepdim=True) if grey else x[0]
        before = picture[3:8, 2:9].float() / top
        wanted = before + strength * (restored - before) if strength < 1 else restored
        wanted = wanted.clamp(0, 1) if clip or top > 1 else wanted
        if top > 1:
            wanted = (wanted * top).nan_to_num(0).round()
        np.testing.assert_allclose(out[3:8, 2:9].float(), wanted, atol=1 if top > 1 else 1e-3 if dtype.itemsize == 2
                                   else 1e-6)  # fmt: skip
        rest = torch.ones(9, 12, dtype=torch.bool)
        rest[3:8, 2:9] = False
        assert np.array_equal(out.numpy()[rest], picture.numpy()[rest])


def test_samples_are_rounded_half_to_even(kernels):
    x = ((torch.arange(255) + 0.5) / 255).reshape(1, 1, 255, 1)
    out, lost = torch.zeros(1, 255, 1, dtype=torch.uint8), torch.tensor([0])
    kernels.tiles.store_tile(x, out, out, 0, 0, strength=1.0, clip=True, non_finite=lost)
    assert torch.equal(out.flatten(), (x.flatten() * 255).round().byte())


AHEAD = """
import re, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fastrestore.triton import (
    channel_attention, conv2d, depthwise, gated_block, layer_norm, local_mean, pixel_shuffle, statistics, tiles,
    window_attention)

def compiled(kernel, capability, pointers, constants, floats=(), warps=4):
    names = kernel.arg_names
    kinds = {n: "i32" for n in names} | dict.fromkeys(floats, "fp32") | dict.fromkeys(constants, "constexpr") | pointers
    signature = {n: kinds[n] for n in names}
    places = {(names.index(n),): v for n, v in constants.items()}
    counts = [n for n in names if n.endswith("channels")]  # of most layers; a launch looks at them, as at addresses
    aligned = {(names.index(n),): [["tt.divisibility", 16]] for n in [*pointers, *counts]}
    source = ASTSource(kernel, signature=signature, constexprs=places, attrs=aligned)
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    name = kernel.__module__.rpartition(".")[2] + "." + kernel.__name__
    print(capability, name, len(binary.asm["cubin"]), len(re.findall("mma", binary.asm["ptx"])))

half = lambda *names: {n: "*fp16" for n in names}
full = lambda *names: {n: "*fp32" for n in names}
geometry = dict(KERNEL_H=3, KERNEL_W=3, STRIDE_H=1, STRIDE_W=1, PAD_TOP=1, PAD_LEFT=1)
epilogue = dict(HAS_BIAS=True, RESIDUAL=2)
dense = dict(GELU=False, WIDEN=False, BLOCK_PIXELS=64, BLOCK_OUT=64, BLOCK_IN=32)
dilated = dict(DILATION_H=1, DILATION_W=1, EDGE=1)
images = half("x", "weight", "residual", "y") | full("bias")
head = dict(DEPTH=48, BLOCK_DEPTH=64)
gated = dict(HAS_BIAS=True, WIDEN=False, BLOCK_CHANNELS=64, BLOCK=32)
tuned = conv2d.tuned_kernel
left = tuned.early_config_prune(tuned.configs, {"in_channels": 64, "out_channels": 3}, grid=None)
print("left:", [config.kwargs for config in left])
for capability in map(int, sys.argv[1:]):
    compiled(conv2d.kernel, capability, images, geometry | dilated | epilogue | dense, ("slope", "scale"))
    compiled(conv2d.transposed_kernel, capability, images, geometry | epilogue | dense, ("slope", "scale"))
    compiled(window_attention.kernel, capability, half("qkv", "y") | full("bias"),
             dict(SIDE=8, DEPTH=30, BLOCK_DEPTH=32, TOKENS=64, WIDEN=False), ("factor",))
    compiled(channel_attention.gram_kernel, capability, half("qkv") | full("grams"),
             head | dict(WIDEN=False, BLOCK_PIXELS=128))
    compiled(channel_attention.mix_kernel, capability, half("qkv", "y") | full("weights"),
             head | dict(WIDEN=False, BLOCK_PIXELS=128))
    compiled(gated_block.front_kernel, capability,
             half("x", "expand", "depthwise", "y") | full("expand_bias", "depthwise_bias", "sums"),
             gated | dict(TILE_HEIGHT=16, TILE_WIDTH=64), ("epsilon",))
    compiled(gated_block.back_kernel, capability,
             half("gated", "scale", "x", "project", "expand", "contract", "y")
             | full("project_bias", "expand_bias", "contract_bias"), gated | dict(BLOCK_PIXELS=64), ("epsilon",))
    compiled(channel_attention.softmax_kernel, capability, full("grams", "temperature", "weights"),
             head | dict(BLOCK_PARTS=32))
    compiled(depthwise.kernel, capability, images,
             geometry | dilated | epilogue | dict(GELU=True, BLOCK_PIXELS=64, BLOCK_CHANNELS=32), ("slope", "scale"))
    compiled(layer_norm.norm_kernel, capability, half("x", "y") | full("scale", "shift"),
             dict(HAS_SHIFT=True, SUBTRACT=True, BLOCK_PIXELS=32, BLOCK_CHANNELS=64), ("epsilon",))
    compiled(layer_norm.gate_kernel, capability, half("x", "y"), dict(GELU=True, BLOCK=1024))
    compiled(statistics.sums_kernel, capability, half("x") | full("sums"), dict(BLOCK_PIXELS=64, BLOCK_CHANNELS=64))
    compiled(statistics.mean_kernel, capability, half("y") | full("sums"), dict(BLOCK_PARTS=32, BLOCK_CHANNELS=64))
    compiled(local_mean.window_means_kernel, capability, half("x") | full("y"),
             dict(RUN=64, BLOCK_LINES=8, BLOCK_CHANNELS=32))
    compiled(pixel_shuffle.kernel, capability, half("x", "y"), dict(R=2, PACK=False, BLOCK=1024))
    compiled(tiles.gather_kernel, capability, {"picture": "*u8", "y": "*fp16"}, dict(EDGE=1, TOP=255.0, BLOCK=1024))
    compiled(tiles.blend_kernel, capability, {"x": "*fp16", "sums": "*fp32"}, dict(BLOCK=1024))
    compiled(tiles.store_kernel, capability, {"x": "*fp16", "picture": "*u8", "out": "*u8", "non_finite": "*i64"},
             dict(TOP=255.0, MIXED=True, CLIP=True, GREY=False, BLOCK=256), ("strength",))
"""


def test_compiles_ahead_of_time(tmp_path):
    """Machine code for Ampere, Hopper and both Blackwells; the products are on tensor cores."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", AHEAD, "80", "90", "100", "120"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "left: [{'BLOCK_PIXELS': 128, 'BLOCK_OUT': 16, 'BLOCK_IN': 16}]" in done.stdout
    rows = re.findall(r"^(\d+) ([\w.]+) (\d+) (\d+)$", done.stdout, re.MULTILINE)
    assert len(rows) == 4 * 18
    multiplying = {"conv2d.kernel", "conv2d.transposed_kernel", "window_attention.kernel",
                   "channel_attention.gram_kernel", "channel_attention.mix_kernel", "gated_block.front_kernel",
                   "gated_block.back_kernel"}  # fmt: skip
    assert multiplying < {name for _, name, *_ in rows}
    for capability, name, size, products in rows:
        assert int(size) > 0
        assert (int(products) > 0) == (name in multiplying), (capability, name)
