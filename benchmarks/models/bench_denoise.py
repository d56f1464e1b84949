"""Whole denoising networks against the strongest peers, interleaved in one run.

Run by `make bench` (which sets glibc's allocator as torch needs it); results go to benchmarks/results/ with
--record.  Every case proves its answer against float64 on a crop before it is timed.
"""

import copy
import json
import statistics
import subprocess
import sys

import numpy as np
import pytest
import torch
from harness import ROOT, interleave, machine, summary, table
from peers import PlainDnCNN, ncnn_dncnn, torch_eager, torch_frozen

from fastrestore import engine, models

MACS_PER_PIXEL = 9 * (3 * 64 + 18 * 64 * 64 + 64 * 3)  # of DnCNN-20 colour
SIZES = {"512x512": (512, 512), "1920x1080": (1080, 1920)}


def dncnn20() -> torch.nn.Module:
    torch.manual_seed(0)
    return models.create("dncnn", channels=3, width=64, depth=20).eval()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_dncnn20(benchmark, record, size, threads):
    height, width = SIZES[size]
    model = dncnn20()
    image = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
    torch.set_num_threads(threads)
    session = engine.compile(model).session(threads=threads)
    out = np.empty_like(image)
    cases = {
        "fastrestore": lambda: session.run(image, clip=False, out=out),
        "ncnn": ncnn_dncnn(model, image, threads),
        "torch compiled, frozen": torch_frozen(PlainDnCNN(copy.deepcopy(model)), image),
        "torch eager, channels last": torch_eager(PlainDnCNN(copy.deepcopy(model)), image),
    }
    prove(model, image, cases)
    rounds = 5 if size == "512x512" else 3
    seconds = interleave(cases, rounds)
    result = summary(seconds, 2e-9 * MACS_PER_PIXEL * height * width, threads)
    result["working_mib"] = round(session.report.working_bytes / 2**20, 1)
    own = result["rows"]["fastrestore"]["ms"]
    result["ratios"] = {name: round(row["ms"] / own, 2) for name, row in result["rows"].items()}
    record(f"dncnn20-{size}-{threads}t", {"machine": machine(), **result})
    print("\n" + table(f"DnCNN-20 colour, {size}, float32", result))
    benchmark.extra_info.update(result["ratios"])
    benchmark.pedantic(cases["fastrestore"], rounds=1)


def prove(model, image, cases):
    """Every backend's inner crop equals float64's, computed on the crop with its halo."""
    halo, side = model.halo, 48
    crop = image[: side + halo, : side + halo]
    with torch.enable_grad():
        exact = copy.deepcopy(model).double()(torch.from_numpy(crop).permute(2, 0, 1)[None].double())
    exact = exact.detach()[0].permute(1, 2, 0).numpy()[:side, :side]
    for name, case in cases.items():
        error = np.abs(case()[:side, :side] - exact).max()
        assert error < 1e-4, f"{name} is off by {error}"


PEAK = """
import numpy as np, resource, sys, torch
sys.path[:0] = [{folder!r}]
from peers import PlainDnCNN, torch_eager
from fastrestore import engine, models
torch.set_num_threads(1)
model = models.create("dncnn", channels=3, width=64, depth=20).eval()
image = np.zeros(({height}, {width}, 3), np.float32)
out = np.zeros_like(image)
if {ours}:
    session = engine.compile(model).session(threads=1)
    run = lambda: session.run(image, out=out)
else:
    run = torch_eager(PlainDnCNN(model), image)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_dncnn20_memory(record):
    """Growth of the peak resident size over what a loaded model with its image takes, each in a fresh process."""
    grown = {}
    for name, ours in (("fastrestore", True), ("torch eager, channels last", False)):
        script = PEAK.format(folder=str(ROOT / "benchmarks"), height=1080, width=1920, ours=ours)
        grown[name] = [
            float(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)
            for _ in range(3)
        ]
    result = {name: round(statistics.median(values), 1) for name, values in grown.items()}
    record("dncnn20-1920x1080-memory", {"machine": machine(), "peak_growth_mib": result})
    print("\nDnCNN-20 colour, 1920x1080, peak memory beyond the loaded model:", json.dumps(result))
