"""What this machine can do at most, measured: multiply-adds, dot products, copies.  Results are judged against it."""

import time
from collections.abc import Callable
from typing import Any

import torch

from fastrestore import engine
from fastrestore.bench.machine import last_level_cache
from fastrestore.core import _C

# A convolution by Winograd's way, 6 x 6 results at a time, multiplies 324 / 64 times less than it is counted to; no way
# in use for pictures saves more.
SAVED_BY_WINOGRAD = 324 / 64
SLACK = 1.25  # the clock may rise between two measurements
TRIES = 5


class Impossible(AssertionError):
    """A result above what the machine can do: the measurement is wrong, or the work was not done."""


def fma_peak(isa: str = "") -> float:
    """GFLOP/s of one thread that does nothing but multiply-add, with the vectors of the instruction set in use."""
    return _rate(lambda count: _C.fma_chains(isa, count), 2_000_000)


def dot_peak(precision: str, isa: str) -> float:
    """GFLOP/s (or GOP/s) of one thread that does nothing but dot products of bfloat16 pairs or int8 quadruples.

    isa: avx512_bf16 or amx.  Raises ValueError if this CPU has none.
    """
    return _rate(lambda count: _C.dot_chains(precision, isa, count), 1_000_000)


def _rate(chains: Callable[[int], int], iterations: int) -> float:
    """In the time that the thread had, not the clock on the wall: other processes must not lower a ceiling."""
    chains(iterations // 100)
    start = time.thread_time()
    operations = chains(iterations)
    return operations / (time.thread_time() - start) / 1e9


def arithmetic(precision: str) -> float:
    """GFLOP/s that one thread of this CPU can reach at most in a precision, whatever instruction set was forced."""
    if precision == "float32":
        return max(fma_peak(_C.cpu_isa()) for _ in range(TRIES))
    isas = [isa for isa in ("avx512_bf16", "amx") if _has_dot(precision, isa)]
    if not isas:  # a vector holds four times as many bytes
        return arithmetic("float32") * (4 if precision == "int8" else 1)
    return max(dot_peak(precision, isa) for isa in isas for _ in range(TRIES))


def _has_dot(precision: str, isa: str) -> bool:
    try:
        _C.dot_chains(precision, isa, 1)
    except ValueError:
        return False
    return True


def check_possible(name: str, gflops: float, ceiling: float) -> None:
    """Raises Impossible for a rate above the ceiling of all threads together, both in GFLOP/s or GB/s."""
    if gflops > ceiling * SLACK:
        raise Impossible(f"{name}: {gflops:.0f} a second is above the ceiling of {ceiling:.0f}: this was not measured")


def gpu_arithmetic() -> float:
    """GFLOP/s of a float32 matrix product on the GPU, without TF32."""
    side = 8192
    a = torch.rand(side, side, device="cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return _best_rate(lambda: (a @ a, torch.cuda.synchronize()), 2.0 * side**3, time.perf_counter)


def bandwidth(size: int, threads: int, device: str = "cpu") -> dict[str, float]:
    """GB/s, read and written together, of copying and of a triad (a = b + 3 c) over `size` bytes in all."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    clock = time.thread_time if threads == 1 and device == "cpu" else time.perf_counter
    try:
        copied = [torch.ones(size // 8, device=device) for _ in range(2)]
        added = [torch.ones(size // 12, device=device) for _ in range(3)]
        return {
            "copy": _best_rate(lambda: (copied[0].copy_(copied[1]), wait()), 2 * copied[0].nbytes, clock),
            "triad": _best_rate(
                lambda: (torch.add(added[1], added[2], alpha=3.0, out=added[0]), wait()), 3 * added[0].nbytes, clock
            ),
        }
    finally:
        torch.set_num_threads(before)


def _best_rate(work: Callable[[], object], amount: float, clock: Callable[[], float]) -> float:
    """Billions a second of what the work does `amount` of: the best of a few tries of some milliseconds each."""
    best, repeats = 0.0, 1
    for _ in range(TRIES):
        start = clock()
        for _ in range(repeats):
            work()
        seconds = clock() - start
        best = max(best, repeats * amount / seconds / 1e9)
        repeats = max(1, round(repeats * 0.005 / seconds))
    return best


def measured(threads: list[int]) -> dict[str, Any]:
    """All ceilings: GFLOP/s of one thread by precision and instruction set, GB/s by number of threads
    and size: within a core's cache, a shared one's, beyond all (of 1 GiB at the most)."""
    isas = [isa for isa in engine.build_info()["built_isas"] if _can(isa)]
    rates = {f"float32 {isa}": max(fma_peak(isa) for _ in range(TRIES)) for isa in isas if isa in ("avx2", "avx512")}
    rates |= {"float32 baseline": max(fma_peak("baseline") for _ in range(TRIES))}
    for precision in ("bfloat16", "int8"):
        for isa in ("avx512_bf16", "amx"):
            if _has_dot(precision, isa):
                rates[f"{precision} {isa}"] = max(dot_peak(precision, isa) for _ in range(TRIES))
    places = [1 << 20, 16 << 20, min(2 * last_level_cache(), 1 << 30)]
    return {
        "gflops_of_one_thread": {name: round(rate, 1) for name, rate in rates.items()},
        "gbytes_by_threads": {
            str(count): {
                f"{size >> 20} MiB": {kind: round(rate, 1) for kind, rate in bandwidth(size, count).items()}
                for size in places
            }
            for count in threads
        },
    }


def _can(isa: str) -> bool:
    try:
        _C.usable_isa(isa)
    except ValueError:
        return False
    return True
