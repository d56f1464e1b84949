"""How long one frame takes: the median and the slowest percent of many runs, beside the peers.

    python benchmarks/latency.py ffdnet --size 64x64 [--runs 1000] [--seconds 120] [--threads 1]

The peers take turns in blocks of calls, because a thread pool that has just been idle, or another library's that still
spins, is not what a camera's pipeline meets.  Prints a table and the result as JSON on the last line.
"""

import json
import time

import numpy as np
from compare import arguments, line_up, parsed
from harness import fma_peak, machine
from networks import NETWORKS

BLOCK_SECONDS = 0.5
UNMEASURED = 3  # calls at the head of a block


def latencies(peers: dict, runs: int, seconds: float) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of up to `runs` calls of each, fewer if a peer would take longer than `seconds`, at least 20; and the
    FMA peak before each turn of all."""
    taken: dict[str, list[float]] = {name: [] for name in peers}
    peaks, block, left = [], {}, {}
    for name, peer in peers.items():
        start = time.perf_counter()
        peer.run()
        once = time.perf_counter() - start
        block[name] = max(1, round(BLOCK_SECONDS / once))
        left[name] = max(20, min(runs, round(seconds / once)))
    while any(left.values()):
        peaks.append(fma_peak())
        for name, peer in peers.items():
            count = min(block[name], left[name])
            left[name] -= count
            time.sleep(0.02)
            for _ in range(UNMEASURED if count > UNMEASURED else 0):
                peer.run()
            for _ in range(count):
                start = time.perf_counter()
                peer.run()
                taken[name].append(time.perf_counter() - start)
    return taken, peaks


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=120.0, help="of each peer: fewer runs if they take longer")
    options = parsed(parser)
    case = options.network, options.size, options.threads, options.precision
    line = line_up(*case, options.wanted)
    taken, peaks = latencies(line.peers, options.runs, options.seconds)
    rows = {}
    for name, values in taken.items():
        after = line.truth.check(name, line.peers[name].run(), options.precision)
        p50, p99 = np.percentile(values, (50, 99)) * 1e3
        rows[name] = {"runs": len(values), "p50_ms": round(p50, 3), "p99_ms": round(p99, 3)}
        rows[name] |= {"worst_ms": round(max(values) * 1e3, 3)} | line.about[name] | {"error_after": after}
    print(f"{NETWORKS[options.network].title}, {options.size}, {options.precision}, {options.threads} thread(s)")
    for name, row in rows.items():
        print(
            f"  {name:28} p50 {row['p50_ms']:9.3f} ms  p99 {row['p99_ms']:9.3f} ms  worst {row['worst_ms']:9.3f} ms"
            f"  first call {row['first_call_s'] * 1e3:8.1f} ms  {row['runs']} runs"
        )
    result = {"machine": machine(), "network": options.network, "size": options.size, "precision": options.precision}
    result |= {"threads": options.threads, "fma_peak_gflops": round(float(np.median(peaks)) * options.threads, 1)}
    print(json.dumps(result | {"rows": rows, "left_out": line.left_out}, ensure_ascii=False))


if __name__ == "__main__":
    main()
