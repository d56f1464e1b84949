"""What a result says of the machine it was taken on, and of what else the machine did meanwhile."""

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastrestore import engine

ROOT = Path(__file__).parent.parent.parent  # of a checkout; an installed package has no commit
SMALLEST_CACHE = 32 << 20  # what a machine that does not tell its caches is taken to have
CLOCK_MOVES = 0.1  # a spread of the FMA peak beyond this share is said
STOLEN = 0.02  # of the CPU time, likewise


def machine() -> dict[str, Any]:
    """CPU, cores, versions, allocator and commit, to be kept with every result."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.processor())
    clocks = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    return {
        "cpu": cpu,
        "caches": _caches(),
        "cpu_mhz": clocks,  # as the system tells; in a virtual machine often a constant
        "threads_available": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "isa": engine.build_info()["isa"],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "allocator": os.environ.get("GLIBC_TUNABLES", "default"),
        "pinned_to": sorted(os.sched_getaffinity(0)),
        "commit": _commit(),
    }


def _caches() -> dict[str, str]:
    """Sizes of the first CPU's caches, e.g. {"L1 data": "48K", "L2 unified": "2048K"}."""
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        sizes[f"L{level} {kind.lower()}"] = size
    return sizes


def last_level_cache() -> int:
    """Bytes of the largest cache."""
    sizes = [int(size[:-1]) << {"K": 10, "M": 20}[size[-1]] for size in _caches().values()]
    return max([SMALLEST_CACHE, *sizes])


def _commit() -> str:
    """The checkout's commit, with a word if a source file that takes part differs from it; "" outside one."""
    if not (ROOT / ".git").exists():
        return ""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    sources = ["csrc", "fastrestore", "CMakeLists.txt"]
    changed = subprocess.run([*git, "status", "--porcelain", "-uno", "--", *sources], capture_output=True)
    return commit + (" with changes" if changed.stdout.strip() else "")


class Watch:
    """What else the machine did from here to report(): time stolen by the hypervisor, and by other processes."""

    def __init__(self) -> None:
        self.start, self.cpu, self.jiffies = time.perf_counter(), _own_seconds(), _jiffies()

    def report(self, peaks: list[float], daemons: bool = False) -> dict[str, Any]:
        """peaks: GFLOP/s of the same multiply-adds, measured now and then meanwhile: the clock's calibration.
        daemons: processes of ours are no children of this one, so that others' time cannot be told from theirs.

        Shares are of the time of all CPUs; "warnings" has a sentence for whatever makes the figures doubtful.
        """
        elapsed = (time.perf_counter() - self.start) * os.cpu_count()
        stolen, busy = (after - before for after, before in zip(_jiffies(), self.jiffies, strict=True))
        others = busy - (_own_seconds() - self.cpu)
        spread = (max(peaks) - min(peaks)) / float(np.median(peaks)) if peaks else 0.0
        warnings = []
        if stolen > STOLEN * elapsed:
            warnings.append(f"{stolen / elapsed:.0%} of the CPU time was stolen by the hypervisor")
        if not daemons and others > STOLEN * elapsed:
            warnings.append(f"other processes took {others / elapsed:.0%} of the CPU time")
        if spread > CLOCK_MOVES:
            warnings.append(f"the clock moved: the FMA peak was {min(peaks):.0f} to {max(peaks):.0f} GFLOP/s")
        return {
            "stolen_share": round(stolen / elapsed, 4),
            "others_share": None if daemons else round(max(others, 0.0) / elapsed, 4),
            "fma_peak_gflops_all": [round(peak, 1) for peak in peaks],
            "warnings": warnings,
        }


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _jiffies() -> tuple[float, float]:
    """Seconds stolen and seconds busy, of all CPUs since the start of the system."""
    user, nice, system, _, _, irq, softirq, stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    return stolen / tick, (user + nice + system + irq + softirq) / tick


def resident(key: str) -> float:
    """VmRSS or VmHWM of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def forget_peak() -> None:
    """VmHWM starts again from VmRSS."""
    Path("/proc/self/clear_refs").write_text("5")
