"""What every benchmark shares: interleaved rounds, the machine's description, the measured FMA peak."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastrestore import engine
from fastrestore.ops import _C

ROOT = Path(__file__).parent.parent

# torch keeps freed memory only when glibc's allocator is told so; without it torch looks slower than it is.
ALLOCATOR = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.hugetlb=1"


def settle(threads: int, allocator: str | None = ALLOCATOR) -> None:
    """Makes this process what a fair comparison needs: the allocator's settings (None: glibc's own), which take a new
    start of the same command, and no more CPUs than threads.  Call it first, before any library starts threads."""
    wanted = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    wanted |= {"OMP_NUM_THREADS": str(threads)} | ({"GLIBC_TUNABLES": allocator} if allocator else {})
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)
    cpus = sorted(os.sched_getaffinity(0))
    if threads > len(cpus):
        raise SystemExit(f"{threads} threads asked for, {len(cpus)} CPUs to be had")
    os.sched_setaffinity(0, cpus[:threads])
    torch.set_num_threads(threads)


def in_fresh_process(script: str, *arguments: object) -> dict[str, Any]:
    """Runs benchmarks/SCRIPT, which prints its result as JSON on the last line, in a process of its own: no case sees
    another's threads, settings or memory."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{script} {' '.join(command[2:])} failed with code {done.returncode}")
    *lines, last = done.stdout.splitlines()
    print("\n" + "\n".join(lines))
    return json.loads(last)


def interleave(cases: dict[str, Callable[[], object]], rounds: int, warm: bool = True) -> dict[str, list[float]]:
    """Seconds of each case in each round, A B A B, after one warm-up of each.  The FMA peak runs in every round too
    ("peak": GFLOP/s of one thread), because a shared machine's clock changes from second to second."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    seconds["peak"] = []
    for case in cases.values():
        if warm:
            case()
    for _ in range(rounds):
        seconds["peak"].append(fma_peak())
        for name, case in cases.items():
            time.sleep(0.02)  # threads of the case before may still spin, waiting for more work
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
            "ms_p10": round(float(np.percentile(values, 10)) * 1e3, 2),
            "ms_p90": round(float(np.percentile(values, 90)) * 1e3, 2),
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
        "caches": _caches(),
        "threads_available": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "isa": engine.build_info()["isa"],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "allocator": os.environ.get("GLIBC_TUNABLES", "default"),
        "pinned_to": sorted(os.sched_getaffinity(0)),
        "commit": commit.stdout.strip() + ("" if not _changed() else " with changes"),
    }


def _caches() -> dict[str, str]:
    """Sizes of the first CPU's caches, e.g. {"L1 data": "48K", "L2 unified": "2048K"}."""
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        sizes[f"L{level} {kind.lower()}"] = size
    return sizes


def _changed() -> bool:
    """Whether a source file that takes part differs from the commit."""
    sources = ["csrc", "fastrestore", "benchmarks/*.py", "CMakeLists.txt"]
    diff = subprocess.run(["git", "status", "--porcelain", "-uno", "--", *sources], cwd=ROOT, capture_output=True)
    return bool(diff.stdout.strip())


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
