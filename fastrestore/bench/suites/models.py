"""Whole networks beside the strongest peers, interleaved in one process: which is how much faster?"""

from functools import partial
from typing import Any

from fastrestore.bench.ceilings import SAVED_BY_WINOGRAD, arithmetic, check_possible
from fastrestore.bench.contest import fastrestore_peer, line_up
from fastrestore.bench.machine import machine
from fastrestore.bench.networks import NETWORKS, flops_per_pixel, picture, sides
from fastrestore.bench.peers import PEERS, chosen
from fastrestore.bench.timing import FEW_ROUNDS, OURS, table

AXES = {
    "network": list(NETWORKS),
    "size": ["512x512", "1920x1080"],
    "precision": ["float32", "bfloat16", "int8"],
    "threads": [1, 2],
    "isa": ["", "avx2"],
}
ALONE = f"{OURS}, 1 thread"  # beside ours with more of them: what they gain
# In float32 those within 5 % of the strongest in the full runs, in bfloat16 OpenVINO; the others take time.
STRONGEST = {"dncnn20": "openvino,onnxruntime", "ffdnet": "openvino,onnxruntime,compile", "drunet": "openvino"}
SIZES = {"dncnn20": "512x512", "ffdnet": "512x512", "drunet": "256x256"}
SHORT = [
    {"network": network, "size": size, "precision": precision, "threads": 1, "rounds": 5}
    | {"peers": STRONGEST[network] if precision == "float32" else "openvino"}
    for network, size in SIZES.items()
    for precision in ("float32", "bfloat16")
]
QUICK = {"size": ["64x48"]}


def name(network: str, size: str, precision: str = "float32", threads: int = 1, isa: str = "", **_: Any) -> str:
    words = [network, size, *([] if precision == "float32" else [precision]), *([isa] if isa else [])]
    return "-".join([*words, f"{threads}t"])


def run(
    network: str,
    size: str,
    precision: str = "float32",
    threads: int = 1,
    isa: str = "",
    peers: str = "all",
    rounds: int | None = None,
    memory: str | None = None,
    exact: bool = True,
) -> dict[str, Any]:
    """size: WIDTHxHEIGHT.  memory: our plan's budget, e.g. 64MiB.  exact: compared with float64, too, not with float32
    alone.  Raises Skipped where there is no plan of ours."""
    line = line_up(network, size, threads, precision, chosen(peers), memory, isa, exact)
    height, width = sides(size)
    if threads > 1:
        alone = partial(fastrestore_peer, NETWORKS[network], picture(height, width), 1, precision, memory)
        line.admit(ALONE, alone, "fastrestore")
    compared = line.compare(flops_per_pixel(NETWORKS[network]) * height * width / 1e9, threads, rounds)
    ceiling = max(arithmetic(precision), *compared["conditions"]["fma_peak_gflops_all"]) * threads
    for who, row in compared["rows"].items():
        check_possible(who, row["gflops"], ceiling * SAVED_BY_WINOGRAD)
    what = {"suite": "models", "network": network, "size": size, "precision": precision, "isa": isa}
    working = line.peers[OURS].settings["working_mib"]
    ceilings = {"arithmetic_gflops": round(ceiling, 1)}
    return {"machine": machine(), **what, **compared, "ceilings": ceilings, "working_mib": working}


def again(options: dict[str, Any], result: dict[str, Any]) -> dict[str, Any] | None:
    """The options of the same case in a second process: with the strongest of the peers alone, in as few rounds as tell
    their own noise, and without float64, which the first has had.  None if there was no peer."""
    times = {name: times for name, times in result["ratios"].items() if name in PEERS}
    if not times:
        return None
    strongest = PEERS[min(times, key=times.__getitem__)].option
    return options | {"peers": strongest, "rounds": min(result["rounds"], FEW_ROUNDS), "exact": False}


def text(result: dict[str, Any]) -> str:
    title = f"{NETWORKS[result['network']].title}, {result['size']}, {result['precision']}"
    return table(title + (f", all held to {result['isa']}" if result["isa"] else ""), result)
