"""Peak memory of a run, each backend in a process of its own (benchmarks/memory.py).

pytest benchmarks/models/bench_memory.py -s [--size 1920x1080] [--threads 1] [--peers torch-eager] [--quick]
"""

from harness import in_fresh_process
from networks import NETWORKS
from peers import PEERS, missing, short_name

CASES = {"network": ["dncnn20"], "size": ["1920x1080", "3840x2160"], "threads": [1]}
QUICK = {"size": ["320x240"]}
LARGEST = 1920 * 1080  # pixels for peers other than torch: at four times that ncnn would take 16 GiB


def test_memory(network, size, threads, options, record):
    width, height = map(int, size.split("x"))
    wanted = options[options.index("--peers") + 1]
    wanted = [*map(short_name, PEERS)] if wanted == "all" else wanted.split(",")
    cases = [("fastrestore", []), ("fastrestore", ["--memory", "64MiB"])]
    for name in PEERS:
        small = width * height <= LARGEST or short_name(name) == "torch-eager"
        if short_name(name) in wanted and small and not missing(name, "float32"):
            cases.append((short_name(name), []))
    rows = {}
    for name, more in cases:
        case = [network, "--size", size, "--threads", threads, "--of", name, *more]
        result = in_fresh_process("memory.py", *case)
        about = result.pop("machine")
        rows[" ".join([name, *more[1:]])] = {k: v for k, v in result.items() if k not in ("network", "size", "threads")}
    ours = rows["fastrestore 64MiB"]
    assert ours["working_mib"] <= 64
    if width * height >= 10**6:  # below, the resident size's own grain decides
        assert ours["peak_growth_mib"] - ours["result_mib"] < 64 + 8, "more than the budget was taken"
    what = {"title": NETWORKS[network].title, "network": network, "size": size, "threads": threads}
    record(f"memory-{network}-{size}-{threads}t", {"machine": about, **what, "rows": rows})
