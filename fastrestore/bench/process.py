"""One case in a process of its own: no case sees another's threads, settings or memory."""

import json
import os
import subprocess
import sys
from typing import Any

# torch keeps freed memory only when glibc's allocator is told so; without it torch looks slower than it is.
ALLOCATOR = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.hugetlb=1"
# What holds the peers to the instruction set that FASTRESTORE_ISA holds us to.
PEERS_ISA = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "avx512_bf16": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
}


class Skipped(Exception):
    """A case that cannot be measured here; the message says why."""


def settle(threads: int, allocator: str | None = ALLOCATOR, isa: str = "") -> None:
    """Makes this process what a fair comparison needs: the allocator's settings (None: glibc's own) and an instruction
    set for all ("": each its best), which take a new start of the same command, and no more CPUs than threads.  Call
    it first, before any library starts threads."""
    wanted = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    wanted |= {"OMP_NUM_THREADS": str(threads)} | ({"GLIBC_TUNABLES": allocator} if allocator else {})
    if isa:
        wanted |= {"FASTRESTORE_ISA": isa, **PEERS_ISA.get(isa, {})}
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)
    cpus = sorted(os.sched_getaffinity(0))
    if threads > len(cpus):
        raise Skipped(f"{threads} threads asked for, {len(cpus)} CPUs to be had")
    os.sched_setaffinity(0, cpus[:threads])

    import torch

    torch.set_num_threads(threads)


def in_fresh_process(suite: str, options: dict[str, Any]) -> dict[str, Any]:
    """The result of a suite's `run(**options)`, computed by `python -m fastrestore.bench` (__main__.py).

    Raises Skipped with the reason, RuntimeError if the process failed.
    """
    command = [sys.executable, "-m", "fastrestore.bench", suite, json.dumps(options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{suite} {options} failed with code {done.returncode}")
    result = json.loads(done.stdout.splitlines()[-1])
    if "skipped" in result:
        raise Skipped(result["skipped"])
    return result
