"""What every benchmark shares: interleaved rounds, the machine's description, the measured FMA peak."""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastrestore import engine
from fastrestore.ops import _C

ROOT = Path(__file__).parent.parent


def interleave(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each case in each round, A B A B, after one warm-up of each.  The FMA peak runs in every round too
    ("peak": GFLOP/s of one thread), because a shared machine's clock changes from second to second."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    seconds["peak"] = []
    for case in cases.values():
        case()
    for _ in range(rounds):
        seconds["peak"].append(fma_peak())
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def fma_peak(isa: str = "") -> float:
    """GFLOP/s of one thread that does nothing but multiply-add, with the vectors of the instruction set in use."""
    _C.fma_chains(isa, 20_000)
    start = time.perf_counter()
    operations = _C.fma_chains(isa, 2_000_000)
    return operations / (time.perf_counter() - start) / 1e9


def summary(seconds: dict[str, list[float]], gflop: float, threads: int) -> dict[str, Any]:
    """Medians of interleave(): milliseconds, GFLOP/s (counted as direct convolution), share of the FMA peak."""
    peak = statistics.median(seconds["peak"]) * threads
    rows = {}
    for name, values in seconds.items():
        if name == "peak":
            continue
        middle = statistics.median(values)
        rows[name] = {
            "ms": round(middle * 1e3, 2),
            "ms_all": [round(v * 1e3, 2) for v in values],
            "gflops": round(gflop / middle, 1),
            "percent_of_peak": round(100 * gflop / middle / peak, 1),
        }
    return {"fma_peak_gflops": round(peak, 1), "threads": threads, "rows": rows}


def machine() -> dict[str, Any]:
    """CPU, cores, versions, allocator and commit, to be kept with every result."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.processor())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "cpu": cpu,
        "threads_available": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "isa": engine.build_info()["isa"],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "allocator": os.environ.get("GLIBC_TUNABLES", "default"),
        "commit": commit.stdout.strip(),
    }


def table(title: str, result: dict[str, Any], ours: str = "fastrestore") -> str:
    """The summary as text, each peer with how many times longer it takes than ours."""
    own = result["rows"][ours]["ms"]
    lines = [f"{title}  (FMA peak {result['fma_peak_gflops']} GFLOP/s, {result['threads']} thread(s))"]
    for name, row in result["rows"].items():
        lines.append(
            f"  {name:28} {row['ms']:10.2f} ms {row['gflops']:8.1f} GFLOP/s {row['percent_of_peak']:6.1f} % of peak"
            f"   x{row['ms'] / own:.2f}"
        )
    return "\n".join(lines)
