"""How long one frame takes: the median and the slowest percent of many runs, beside the peers, and from C.

The peers take turns in blocks of calls, because a thread pool that has just been idle, or another library's that still
spins, is not what a camera's pipeline meets.
"""

import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from fastrestore import engine
from fastrestore.bench.ceilings import fma_peak
from fastrestore.bench.contest import line_up
from fastrestore.bench.embedded import FROM_C, Embedded, program
from fastrestore.bench.machine import Watch, machine
from fastrestore.bench.networks import NETWORKS, SIGMA, picture, sides
from fastrestore.bench.peers import Peer, chosen
from fastrestore.bench.timing import OURS

AXES = {
    "network": ["ffdnet", "dncnn20", "denoise-cnn"],
    "size": ["64x64", "256x256", "512x512"],
    "precision": ["float32", "bfloat16"],
    "threads": [1, 2],
}
SHORT = [{"network": "ffdnet", "size": "64x64", "runs": 500, "seconds": 5.0}]
QUICK = {"network": ["ffdnet"], "size": ["64x64"], "threads": [1], "precision": ["float32"], "runs": 20, "seconds": 1.0}
BLOCK_SECONDS = 0.5
UNMEASURED = 3  # calls at the head of a block
QUANTILES = 101  # of the distribution, kept for the plot


def name(network: str, size: str, precision: str = "float32", threads: int = 1, **_: Any) -> str:
    words = ["latency", network, size, *([] if precision == "float32" else [precision])]
    return "-".join([*words, f"{threads}t"])


def run(
    network: str,
    size: str,
    precision: str = "float32",
    threads: int = 1,
    peers: str = "all",
    runs: int = 1000,
    seconds: float = 120.0,
    rounds: int | None = None,
) -> dict[str, Any]:
    """seconds: of each contestant, which gets fewer runs if they take longer, 20 at least.  rounds: not used."""
    line = line_up(network, size, threads, precision, chosen(peers))
    watch = Watch()
    taken, peaks = _latencies(line.peers, runs, seconds)
    rows = {}
    for who, values in taken.items():
        after = line.check(who, line.peers[who].run())
        rows[who] = _quantiles(values) | line.about[who] | {"error_after": after}
    if precision == "float32" and (from_c := _from_c(network, size, threads, len(taken[OURS]))):
        rows[FROM_C] = from_c
    what = {"suite": "latency", "network": network, "size": size, "precision": precision, "threads": threads}
    peak = round(float(np.median(peaks)) * threads, 1)
    about = {"fma_peak_gflops": peak, "rows": rows, "left_out": line.left_out, "conditions": watch.report(peaks)}
    return {"machine": machine(), **what, **about}


def _latencies(peers: dict[str, Peer], runs: int, seconds: float) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of up to `runs` calls of each, fewer if a peer would take longer than `seconds`, at least 20; and the
    FMA peak before each turn of all."""
    taken: dict[str, list[float]] = {name: [] for name in peers}
    peaks, block, left = [], {}, {}
    for who, peer in peers.items():
        start = time.perf_counter()
        peer.run()
        once = time.perf_counter() - start
        block[who] = max(1, round(BLOCK_SECONDS / once))
        left[who] = min(runs, max(20, round(seconds / once)))
    while any(left.values()):
        peaks.append(fma_peak())
        for who, peer in peers.items():
            count = min(block[who], left[who])
            left[who] -= count
            time.sleep(0.02)
            for _ in range(UNMEASURED if count > UNMEASURED else 0):
                peer.run()
            for _ in range(count):
                start = time.perf_counter()
                peer.run()
                taken[who].append(time.perf_counter() - start)
    return taken, peaks


def _quantiles(seconds: list[float]) -> dict[str, Any]:
    p50, p99 = np.percentile(seconds, (50, 99)) * 1e3
    curve = np.percentile(seconds, np.linspace(0, 100, QUANTILES)) * 1e3
    return {
        "runs": len(seconds),
        "p50_ms": round(p50, 3),
        "p99_ms": round(p99, 3),
        "worst_ms": round(max(seconds) * 1e3, 3),
        "percentiles_ms": [round(value, 4) for value in curve],
    }


def _from_c(network: str, size: str, threads: int, runs: int) -> dict[str, Any] | None:
    """What examples/embed_c's program says of the same plan and frame; None if it is not built."""
    restore = program()
    if restore is None:
        return None
    model, (height, width) = NETWORKS[network].model(), sides(size)
    sigma = SIGMA if model.takes_sigma else None
    with tempfile.TemporaryDirectory() as folder:
        embedded = Embedded(restore, Path(folder), engine.compile(model), picture(height, width), sigma, threads)
        said = embedded.run("--runs", runs)
        error = embedded.check(embedded.read())
    figures = re.findall(r"(p50|p99|worst) ([0-9.]+) ms", said)
    return {"runs": runs, "error_after": error} | {f"{what}_ms": float(value) for what, value in figures}


def text(result: dict[str, Any]) -> str:
    about = [NETWORKS[result["network"]].title, result["size"], result["precision"], f"{result['threads']} thread(s)"]
    lines = [", ".join(about)]
    for who, row in result["rows"].items():
        line = f"  {who:28} p50 {row['p50_ms']:9.3f} ms  p99 {row['p99_ms']:9.3f} ms  worst {row['worst_ms']:9.3f} ms"
        line += f"  {row['runs']} runs"
        lines.append(line + (f"  first call {row['first_call_s'] * 1e3:.1f} ms" if "first_call_s" in row else ""))
    return "\n".join(lines + [f"  careful: {warning}" for warning in result["conditions"]["warnings"]])
