"""Median and 99th percentile of small frames, beside the peers (benchmarks/latency.py), and from C.

    pytest benchmarks/models/bench_latency.py -s [--network ffdnet] [--size 64x64] [--threads 1] [--peers ncnn]

The C case runs examples/embed_c's program if it is built (build/embed_c/restore, or what FASTRESTORE_EMBED_C names).
"""

import os
import re
import subprocess

import numpy as np
import pytest
from harness import ROOT, in_fresh_process, machine
from networks import NETWORKS, SIGMA

from fastrestore import engine

CASES = {
    "network": ["ffdnet", "dncnn20", "denoise-cnn"],
    "size": ["64x64", "256x256", "512x512"],
    "threads": [1, 2],
}
QUICK = {"size": ["64x64"]}


@pytest.fixture
def runs(request) -> list[str]:
    return ["--runs", "20", "--seconds", "1"] if request.config.getoption("--quick") else ["--runs", "1000"]


def test_latency(network, size, threads, options, runs, record):
    peers = options[: options.index("--peers") + 2]
    result = in_fresh_process("latency.py", network, "--size", size, "--threads", threads, *peers, *runs)
    record(f"latency-{network}-{size}-{threads}t", result)


def test_latency_in_c(network, size, threads, runs, record, tmp_path):
    program = os.environ.get("FASTRESTORE_EMBED_C", ROOT / "build" / "embed_c" / "restore")
    if not os.access(program, os.X_OK):
        pytest.skip("examples/embed_c is not built")
    model = NETWORKS[network].model()
    engine.compile(model).save(tmp_path / "model.frp")
    width, height = map(int, size.split("x"))
    np.random.default_rng(0).random((height, width, 3), dtype=np.float32).tofile(tmp_path / "in.raw")
    command = [program, tmp_path / "model.frp", tmp_path / "in.raw", tmp_path / "out.raw", "--raw", f"{size}x3:f32"]
    command += ["--threads", str(threads), "--runs", runs[1], *(["--sigma", str(SIGMA)] if model.takes_sigma else [])]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(f"\n{NETWORKS[network].title}, {size}, float32, {threads} thread(s), from C: {said.strip()}")
    figures = dict(re.findall(r"(p50|p99|worst) ([0-9.]+) ms", said))
    result = {"machine": machine(), "network": network, "size": size, "threads": threads, "runs": int(runs[1])}
    record(f"latency-c-{network}-{size}-{threads}t", result | {f"{name}_ms": float(v) for name, v in figures.items()})
