"""The emulation itself: bugs planted in the kernels' source, one at a time, are noticed, and by what they break."""

import re
from pathlib import Path

import pytest
import torch

from gpu import emulated
from gpu.test_convolution import check
from gpu.test_fused import front, relative
from gpu.test_values import check_traces
from gpu.test_window_attention import run

CONV3X3, TMA, ATTENTION, GATED = "conv3x3.cu", "conv3x3_tma.cu", "window_attention.cu", "gated_block.cu"
MEANS = "local_mean.cu"
WRONG = r"\d"  # what is written of the error of a result
NO_SWIZZLE = """template <int kChunks>
struct Plain {
  static constexpr int kRowBytes = kChunks * 16;
  static uint32_t offset(int row, int chunk) { return uint32_t(row * kRowBytes + chunk * 16); }
  static uint32_t advance(uint32_t address, int step) { return address + uint32_t(step * 16); }
};

// kDepth: channels"""
# File, text, what stands there instead, what is noticed.
BUGS = {
    "no wait for the tile": (CONV3X3, "    cp_async_wait<0>();\n    __sync", "    __sync", "before its wait"),
    "no barrier before the results": (CONV3X3, "__syncthreads();  // all have read", "// all have read", "race"),
    "no meeting before reading results": (CONV3X3, "    __syncwarp();\n", "", "race"),
    "no edge check on stores": (CONV3X3, "if (y >= p.height || x >= p.width ||", "if (", "write out of bounds"),
    "rows of a fragment mixed up": (CONV3X3, "(lane >> 2) + h * 8", "(lane >> 2) * 2 + h", WRONG),
    "no fence before the next tile": (TMA, "    tma_fence();\n", "", "without a fence"),
    "no wait for an empty buffer": (TMA, "        barrier_wait(empty + 8 * buffer, (turn >> 1 & 1) ^ 1);\n", "", WRONG),
    "too few bytes expected": (TMA, "full + 8 * buffer, kTileBytes)", "full + 8 * buffer, kTileBytes - 128)", WRONG),
    "no barrier before the scores": (ATTENTION, "  __syncthreads();\n", "", "race|nothing wrote"),
    "distances the wrong way round": (ATTENTION, "distance(side, known, other)", "distance(side, other, known)", WRONG),
    "no wait for the next weights": (
        GATED,
        "    cp_async_wait<0>();\n    __syncthreads();  // the rows",
        "    __syncthreads();  //",
        "before its wait",
    ),
    "no zeros around the picture": (
        GATED,
        "inside(pixel) ? pack2",
        "true ? pack2",
        WRONG,
    ),
    "windows that leave the picture": (MEANS, "begin > most ? most : begin", "begin", "read out of bounds"),
    "no compensation": (MEANS, "(sums.sum.v[i] + sums.rest.v[i])", "sums.sum.v[i]", WRONG),
    "no swizzle": (ATTENTION, "// kDepth: channels", NO_SWIZZLE, "bank conflicts"),
}


def noticed_by(module: Path, name: str) -> str:
    """What the emulation of this module says of the kernel in the file `name`: an error, or nothing."""
    machine = emulated.Emulation(emulated.load(module), emulated.H100)
    try:
        if name == ATTENTION:
            y, exact, counts = run(machine, torch.float16, (1, 16, 8), 2, 16, 8, 4)
            assert (error := relative(y, exact)) < 1e-3, f"{error:.2g}"
        elif name == MEANS:
            counts = check_traces(machine)
        elif name == GATED:
            y, _, exact, counts = front(machine, torch.float16, 9, 17, 32)
            assert (error := relative(y, exact)) < 2.5e-3, f"{error:.2g}"
        else:
            # More tiles than blocks, so that buffers are used again.
            size = (2, 19, 150, 64) if name == TMA else (1, 40, 37, 64)
            counts = check(machine, name.removesuffix(".cu"), size, 64, torch.float16)
        assert counts["bank_conflicts"] == 0, f"{counts['bank_conflicts']} bank conflicts"
    except (AssertionError, RuntimeError) as error:
        return str(error) or "an error without a text"
    return ""


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_noticed(bug, apart, tmp_path):
    if reason := emulated.missing():
        pytest.skip(reason)
    name, text, instead, noticed = BUGS[bug]
    source = (emulated.ROOT / "csrc" / "cuda" / name).read_text()
    assert source.count(text) == 1, "the text that the bug replaces is no longer there once"
    source = source.replace(text, instead)
    if bug == "no swizzle":
        source = source.replace("using Rows = Swizzle<", "using Rows = Plain<")
    if name == CONV3X3:  # one shape is enough, and compiles faster
        before, rest = source.split("constexpr Shape kShapes[] = {")
        source = before + "constexpr Shape kShapes[] = {make_shape<64, 64, 4>()" + rest[rest.index("};") :]
    if name == GATED:
        source = re.sub(r"  if \(channels == (64|128|256|512)\) return f.*\n", "", source)
    changed = tmp_path / name
    changed.write_text(source)
    assert re.search(noticed, apart(noticed_by, emulated.build(changed), name))


@pytest.mark.parametrize("name", [CONV3X3, TMA, ATTENTION, GATED, MEANS])
def test_the_kernels_themselves_pass_the_same_checks(name, apart):
    if reason := emulated.missing():
        pytest.skip(reason)
    assert apart(noticed_by, emulated.build(), name) == ""
