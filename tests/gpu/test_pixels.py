"""Shuffles, tiles, norms and gates of the GPU, emulated, against torch."""

import math

import pytest
import torch
import torch.nn.functional as F

from gpu.emulated import Gpu, padded, padding_of, poisoned

NAMES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}
TYPES = list(NAMES)
# Of a value of 1: one rounding to the type; float32 rounds several times on the way.
STEP = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-20}


def sample(shape, dtype, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("channels", "r"), [(3, 2), (8, 2), (2, 3), (5, 1)])
def test_pixel_shuffle(machine, channels, r, dtype):
    packed = sample((2, 3, 5, channels * r * r), dtype)
    flat = F.pixel_shuffle(packed.permute(0, 3, 1, 2), r).permute(0, 2, 3, 1)
    for function, x, wanted in (("pixel_shuffle", packed, flat), ("pixel_unshuffle", flat, packed)):
        x, y = padded(x), poisoned(tuple(wanted.shape), dtype)
        machine.call(function, NAMES[dtype], machine.images(x), r, machine.images(y), reads=[x], writes=[y])
        assert torch.equal(y, wanted)
        assert not padding_of(y).any()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("channels", [6, 48, 300])
def test_layer_norm(machine, channels, subtract, dtype):
    x, y = padded(sample((2, 3, 5, channels), dtype) + 2), poisoned((2, 3, 5, channels), dtype)
    scale, shift = sample((channels,), torch.float32, 1), sample((channels,), torch.float32, 2)
    machine.call(
        "layer_norm", NAMES[dtype], machine.images(x), scale.data_ptr(), shift.data_ptr() if subtract else 0, 1e-5,
        subtract, machine.images(y), reads=[x, scale, shift], writes=[y])  # fmt: skip
    if subtract:
        exact = F.layer_norm(x.double(), (channels,), scale.double(), shift.double(), 1e-5)
    else:
        exact = x.double() / (x.double().var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * scale
    torch.testing.assert_close(y.double(), exact, rtol=2 * STEP[dtype], atol=2 * STEP[dtype])
    assert not padding_of(y).any()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("channels", [5, 24])
def test_gate(machine, channels, gelu, dtype):
    x, y = padded(sample((1, 4, 5, 2 * channels), dtype)), poisoned((1, 4, 5, channels), dtype)
    machine.call("gate", NAMES[dtype], gelu, machine.images(x), machine.images(y), reads=[x], writes=[y])
    left, right = x.double().chunk(2, -1)
    exact = (F.gelu(left) if gelu else left) * right
    torch.testing.assert_close(y.double(), exact, rtol=2 * STEP[dtype], atol=STEP[dtype] / 8)
    assert not padding_of(y).any()


PIXELS = {"uint8": torch.uint8, "uint16": torch.uint16, "float16": torch.float16, "float32": torch.float32}
EDGES = {"zero": "constant", "reflect": "reflect", "clamp": "replicate"}


def picture(kind, channels):
    values = torch.rand((7, 9, channels), generator=torch.Generator().manual_seed(channels))
    top = {"uint8": 255, "uint16": 65535}.get(kind)
    return (values * top).round().to(PIXELS[kind]) if top else values.to(PIXELS[kind])


def as_float(image):
    top = {torch.uint8: 255, torch.uint16: 65535}.get(image.dtype)
    return image.float() / top if top else image.float()


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("kind", PIXELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_gathering_a_tile(machine, channels, kind, edge):
    """Rows -3 to 9 and columns -2 to 10 of a picture of 7 x 9, a grey one repeated in three channels."""
    image, y = picture(kind, channels), poisoned((1, 13, 13, 3), torch.float32)
    rows = machine.kernels.Picture(kind, list(image.shape), image.shape[1] * channels * image.element_size())
    machine.call(
        "gather_tile", rows, image.data_ptr(), -3, -2, edge, "float32", machine.images(y), reads=[image], writes=[y]
    )
    wanted = as_float(image).permute(2, 0, 1)[None].expand(1, 3, 7, 9)
    wanted = F.pad(wanted, (2, 2, 3, 3), mode=EDGES[edge]).permute(0, 2, 3, 1)
    assert torch.equal(y, wanted)
    assert not padding_of(y).any()


@pytest.mark.parametrize("kind", PIXELS)
@pytest.mark.parametrize(("channels", "strength", "clip"), [(3, 1.0, True), (3, 0.5, False), (1, 0.75, True)])
def test_storing_a_tile(machine, channels, strength, clip, kind):
    """A tile of 4 x 5 at (2, 3), converted as the CPU's kernels do, the rest of the picture untouched."""
    image, x = picture(kind, channels), padded(sample((1, 4, 5, 3), torch.float32) * 0.4 + 0.5)
    x[0, 1, 1, 0] = float("nan")
    out, count = image.clone(), torch.zeros(1, dtype=torch.int64)
    rows = machine.kernels.Picture(kind, list(image.shape), image.shape[1] * channels * image.element_size())
    machine.call(
        "store_tile", "float32", machine.images(x), rows, image.data_ptr(), out.data_ptr(), 2, 3, strength, clip,
        count.data_ptr(), reads=[x, image], writes=[out, count])  # fmt: skip
    assert count.item() == 1
    restored = x[0] if channels == 3 else (x[0, ..., 0] + x[0, ..., 1] + x[0, ..., 2])[..., None] / 3
    part = as_float(image)[2:6, 3:8]
    wanted = part + strength * (restored - part) if strength != 1 else restored
    if clip:
        wanted = wanted.clamp(0, 1)
    if kind.startswith("uint"):
        top = 255 if kind == "uint8" else 65535
        wanted = (wanted * top).nan_to_num(0).clamp(0, top).round()
    wanted = wanted.to(image.dtype)
    torch.testing.assert_close(out[2:6, 3:8], wanted, rtol=0, atol=0, equal_nan=True)
    rest = torch.ones(7, 9, dtype=torch.bool)
    rest[2:6, 3:8] = False
    assert torch.equal(out[rest], image[rest])


def test_blending_tiles(machine):
    """Two tiles that overlap by 4 pixels add up to the image that both were cut from; a constant stays constant."""
    image = sample((1, 6, 20, 3), torch.float32)
    sums = torch.zeros(6, 20, 3)
    for left, width, ramps in ((0, 12, [0, 0, 0, 4]), (8, 12, [0, 0, 4, 0])):
        tile = padded(image[:, :, left : left + width])
        machine.call(
            "blend_tile", "float32", machine.images(tile), ramps, sums.data_ptr(), 20, 0, left,
            reads=[tile], writes=[sums])  # fmt: skip
    torch.testing.assert_close(sums, image[0], rtol=0, atol=1e-6)
    first = 0.5 - 0.5 * math.cos(math.pi * 0.5 / 4)
    alone, tile = torch.zeros(1, 8, 1), padded(torch.ones(1, 1, 8, 1))
    machine.call("blend_tile", "float32", machine.images(tile), [0, 0, 4, 0], alone.data_ptr(), 8, 0, 0,
                 reads=[tile], writes=[alone])  # fmt: skip
    assert alone[0, 0, 0] == pytest.approx(first, abs=1e-6)


def test_refuses(machine):
    x = torch.zeros(1, 4, 4, 8)
    with pytest.raises(ValueError, match="multiples of 8"):
        bad = machine.kernels.Images(x.data_ptr(), [1, 4, 4, 8], [128, 32, 9])
        machine.call("gate", "float32", False, bad, bad, reads=[x], writes=[])
    with pytest.raises(ValueError, match="16 bytes"):
        bad = machine.kernels.Images(x.data_ptr() + 4, [1, 4, 4, 8], [128, 32, 8])
        machine.call("gate", "float32", False, bad, bad, reads=[x], writes=[])
    with pytest.raises(ValueError, match="square"):
        machine.call("pixel_shuffle", "float32", machine.images(x), 3, machine.images(x), reads=[x], writes=[])
    with pytest.raises(ValueError, match="'int8'"):
        machine.call("gate", "int8", False, machine.images(x), machine.images(x), reads=[x], writes=[])


def test_calls_on_a_gpu_copy_there_and_back(machine):
    """The harness of --device cuda, on copies that stay on the host."""
    if isinstance(machine, Gpu):
        pytest.skip("the emulation stands for the GPU here")
    machine.module.announce([(0, 2**63, True)])
    gpu = Gpu(machine.kernels, copy=torch.Tensor.clone)
    x, y = padded(sample((1, 4, 5, 6), torch.float32)), poisoned((1, 4, 5, 3), torch.float32)
    before = x.clone()
    gpu.call("gate", "float32", False, gpu.images(x), gpu.images(y), reads=[x], writes=[y])
    assert torch.equal(y, before[..., :3] * before[..., 3:]) and torch.equal(x, before)


def test_the_emulation_sees_memory_that_was_not_announced(machine):
    if isinstance(machine, Gpu):
        pytest.skip("only the emulation checks bounds")
    x, y = torch.zeros(1, 4, 4, 16), torch.zeros(1, 4, 4, 8)
    with pytest.raises(RuntimeError, match="global read out of bounds"):
        machine.call("gate", "float32", False, machine.images(x), machine.images(y), reads=[], writes=[y])
    with pytest.raises(RuntimeError, match="global write out of bounds"):
        machine.call("gate", "float32", False, machine.images(x), machine.images(y), reads=[x, y], writes=[])
