"""How much memory a run takes beyond the loaded model and its picture, each contestant in a process of its own.

With glibc's own allocator, which gives back what is freed.  "peak_growth_mib" is the peak resident size of the first
run over the resident size before it, and holds the result ("result_mib") for every contestant; "prepared_mib" is what
importing and preparing it took.
"""

from typing import Any

import numpy as np

from fastrestore.bench.contest import fastrestore_peer
from fastrestore.bench.machine import forget_peak, machine, resident
from fastrestore.bench.networks import NETWORKS, picture, sides
from fastrestore.bench.peers import PEERS, chosen, missing, version
from fastrestore.bench.process import Skipped, in_fresh_process
from fastrestore.bench.timing import OURS

AXES = {"network": ["dncnn20"], "size": ["512x512", "1920x1080", "3840x2160"], "threads": [1]}
SHORT = [{"network": "dncnn20", "size": "1920x1080", "peers": "torch"}]
QUICK = {"size": ["320x240"]}
LARGEST = 1920 * 1080  # pixels for peers other than torch: at four times that ncnn would take 16 GiB
BUDGET = "64MiB"
WITHIN = f"fastrestore {BUDGET}"


def name(network: str, size: str, threads: int = 1, **_: Any) -> str:
    return f"memory-{network}-{size}-{threads}t"


def run(
    network: str,
    size: str,
    threads: int = 1,
    peers: str = "all",
    rounds: int | None = None,
    of: str = "",
    memory: str | None = None,
) -> dict[str, Any]:
    """Ours, ours within 64 MiB, and each of the peers; or with `of`, in this very process, that one alone, ours within
    `memory`.  rounds: not used, a run's peak is its first."""
    if of:
        return _measure(network, size, threads, of, memory)
    height, width = sides(size)
    cases = [(OURS, {}), (WITHIN, {"memory": BUDGET})]
    left_out = {}
    for peer in chosen(peers):
        if reason := missing(peer, "float32"):
            left_out[peer] = reason
        elif height * width > LARGEST and PEERS[peer].option != "torch":
            left_out[peer] = "takes too much memory at this size"
        else:
            cases.append((peer, {}))
    rows = {}
    for who, more in cases:
        asked = {"network": network, "size": size, "threads": threads, "of": OURS if more else who, **more}
        try:
            rows[who] = in_fresh_process("memory", asked)
        except RuntimeError as error:
            if who in (OURS, WITHIN):
                raise
            left_out[who] = f"failed: {error}"
    ours = rows[WITHIN]
    assert ours["working_mib"] <= 64, "more than the budget was planned"
    if width * height >= 10**6:  # below, the resident size's own grain decides
        assert ours["peak_growth_mib"] - ours["result_mib"] < 64 + 8, "more than the budget was taken"
    what = {"suite": "memory", "network": network, "size": size, "threads": threads}
    return {"machine": machine(), **what, "rows": rows, "left_out": left_out}


def _measure(network: str, size: str, threads: int, of: str, memory: str | None) -> dict[str, Any]:
    net, (height, width) = NETWORKS[network], sides(size)
    image = picture(height, width)
    result: dict[str, Any] = {"memory": memory}
    start = resident("VmRSS")
    if of == OURS:
        peer = fastrestore_peer(net, image, threads, "float32", memory)
        result["working_mib"] = peer.settings["working_mib"]
    else:
        if reason := missing(of, "float32"):
            raise Skipped(f"{of} {reason}")
        plain = net.make_plain(net.model(), height, width)
        peer = PEERS[of].make(plain, image, threads, "float32")
        result["version"] = version(PEERS[of].packages[0])
    before = resident("VmRSS")
    forget_peak()
    out = peer.run()
    growth = resident("VmHWM") - before
    assert np.isfinite(out).all(), f"{of} gives values that are not finite"
    result |= {"prepared_mib": round(before - start, 1), "peak_growth_mib": round(growth, 1)}
    return result | {"result_mib": round(out.nbytes / 2**20, 1), "settings": peer.settings}


def text(result: dict[str, Any]) -> str:
    lines = [f"{NETWORKS[result['network']].title}, {result['size']}, {result['threads']} thread(s): memory of a run"]
    for who, row in result["rows"].items():
        lines.append(
            f"  {who:28} {row['peak_growth_mib'] - row['result_mib']:9.1f} MiB beyond picture and result; "
            f"{row['prepared_mib']:.1f} MiB before the run"
        )
    return "\n".join(lines)
