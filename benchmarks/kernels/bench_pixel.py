"""Pixel shuffle and conversion of a 1920x1080 picture beside torch, interleaved, in GB/s read and written."""

import statistics

import pytest
import torch
import torch.nn.functional as F
from harness import interleave, machine

from fastrestore.ops import from_pixels, pixel_shuffle, pixel_unshuffle, to_pixels
from fastrestore.ops.convert import reference, to_reference

HEIGHT, WIDTH = 1080, 1920


def _cases() -> dict:
    torch.manual_seed(0)
    image = torch.rand(1, HEIGHT, WIDTH, 3)
    x = image.permute(0, 3, 1, 2)
    features = torch.rand(1, HEIGHT // 2, WIDTH // 2, 64).permute(0, 3, 1, 2)
    packed = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
    u8, u16, f16 = (to_reference(x, dtype) for dtype in (torch.uint8, torch.uint16, torch.float16))
    last = {"memory_format": torch.channels_last}
    return {
        "shuffle-3ch": (lambda: pixel_shuffle(packed, 2), lambda: F.pixel_shuffle(packed, 2), packed),
        "unshuffle-3ch": (lambda: pixel_unshuffle(x, 2), lambda: F.pixel_unshuffle(x, 2), x),
        "shuffle-16ch": (lambda: pixel_shuffle(features, 2), lambda: F.pixel_shuffle(features, 2), features),
        "from-u8": (lambda: from_pixels(u8), lambda: reference(u8).contiguous(**last), u8),
        "from-u16": (lambda: from_pixels(u16), lambda: reference(u16).contiguous(**last), u16),
        "from-f16": (lambda: from_pixels(f16), lambda: reference(f16).contiguous(**last), f16),
        "to-u8": (lambda: to_pixels(x, torch.uint8), lambda: to_reference(x, torch.uint8), x),
        "to-u16": (lambda: to_pixels(x, torch.uint16), lambda: to_reference(x, torch.uint16), x),
        "to-f16": (lambda: to_pixels(x, torch.float16), lambda: to_reference(x, torch.float16), x),
    }


@pytest.mark.parametrize("case", _cases())
@torch.inference_mode()
def test_pixels(benchmark, record, case):
    torch.set_num_threads(1)
    ours, plain, source = _cases()[case]
    out = ours()
    assert torch.equal(out.contiguous().view(torch.uint8), plain().contiguous().view(torch.uint8))
    seconds = interleave({"fastrestore": ours, "torch": plain}, 15)
    middle = {name: statistics.median(seconds[name]) for name in ("fastrestore", "torch")}
    moved = source.nbytes + out.nbytes
    result = {name: {"ms": value * 1e3, "GB/s": moved / value / 1e9} for name, value in middle.items()}
    record(f"pixels-{case}", {"machine": machine(), "rows": result})
    line = ", ".join(f"{name} {row['ms']:.2f} ms {row['GB/s']:.1f} GB/s" for name, row in result.items())
    print(f"\n{case}: {line}, x{middle['torch'] / middle['fastrestore']:.2f}")
    benchmark.extra_info.update(result)
    benchmark.pedantic(ours, rounds=1)
