"""How much memory one backend's run takes beyond the loaded model and its picture.

    python benchmarks/memory.py dncnn20 --size 1920x1080 [--of torch-eager] [--memory 64MiB] [--threads 1]

The backend has the process to itself, with glibc's own allocator, which gives back what is freed.  Prints the result
as JSON on the last line: "peak_growth_mib" is the peak resident size of the first run over the resident size before
it, and holds the result ("result_mib") for every backend; "prepared_mib" is what importing and preparing it took.
"""

import json
import sys
from pathlib import Path

import numpy as np
from compare import arguments, fastrestore_peer, sides
from harness import machine, settle
from networks import NETWORKS
from peers import PEERS, missing, short_name, version


def resident(key: str) -> float:
    """VmRSS or VmHWM of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--of", default="fastrestore", choices=["fastrestore", *map(short_name, PEERS)])
    parser.add_argument("--memory", help="our plan's budget, e.g. 64MiB")
    options = parser.parse_args()
    settle(options.threads, allocator=None)
    network, (height, width) = NETWORKS[options.network], sides(options.size)
    image = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
    result = {"machine": machine(), "network": options.network, "size": options.size, "threads": options.threads}
    result |= {"precision": options.precision, "of": options.of, "memory": options.memory}
    start = resident("VmRSS")
    if options.of == "fastrestore":
        peer = fastrestore_peer(network, image, options.threads, options.precision, options.memory)
        result["working_mib"] = peer.settings["working_mib"]
    else:
        name = next(peer for peer in PEERS if short_name(peer) == options.of)
        if reason := missing(name, options.precision):
            sys.exit(f"{name} {reason}")
        plain = network.make_plain(network.model(), height, width)
        peer = PEERS[name][0](plain, image, options.threads, options.precision)
        result["version"] = version(PEERS[name][1])
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS
    out = peer.run()
    result |= {
        "prepared_mib": round(before - start, 1),
        "peak_growth_mib": round(resident("VmHWM") - before, 1),
        "result_mib": round(out.nbytes / 2**20, 1),
        "settings": peer.settings,
    }
    assert np.isfinite(out).all()
    budget = f" within {options.memory}" if options.memory else ""
    print(
        f"{network.title}, {options.size}, {options.of}{budget}: {result['peak_growth_mib']} MiB, "
        f"{result['result_mib']} of them the result; {result['prepared_mib']} MiB before the run"
    )
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
