"""Interleaved rounds, what they say, and how far that can be trusted."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fastrestore.bench.ceilings import fma_peak

OURS = "fastrestore"
PEAK = "peak"  # GFLOP/s of one thread, among the seconds
AGAIN = "fastrestore again"
FEW_ROUNDS = 5  # below, the spread of all rounds stands for their uncertainty


def interleave(
    cases: dict[str, Callable[[], object]], rounds: int, warm: bool = True, twice: bool = True, lead: float = 0.0
) -> dict[str, list[float]]:
    """Seconds of each case in each round, A B C A B C, after one warm-up of each.  lead: seconds of calls that are not
    timed before each that is.

    The first case is measured a second time at the end of each round (AGAIN) unless not `twice`: what the two differ by
    is noise.  The FMA peak runs in every round too (PEAK), because a shared machine's clock changes from second to
    second.
    """
    names = [*cases, *([AGAIN] if twice else [])]
    first = next(iter(cases))
    seconds: dict[str, list[float]] = {name: [] for name in [*names, PEAK]}
    for case in cases.values():
        if warm:
            case()
    for _ in range(rounds):
        seconds[PEAK].append(fma_peak())
        for name in names:
            case = cases[first if name == AGAIN else name]
            time.sleep(0.02)  # threads of the case before may still spin, waiting for more work
            leading = time.perf_counter() + lead
            while time.perf_counter() < leading:
                case()
            start = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(values: list[float], own: list[float]) -> tuple[float, float]:
    """How many times longer, by pairs of one round, and how uncertain that is, as a share.

    The median of the pairs' ratios, and twice the standard error that a median of that many has (1.25 sigma / sqrt(n),
    sigma from the median deviation); with fewer than five rounds half of the span.
    """
    pairs = [value / other for value, other in zip(values, own, strict=True)]
    middle = statistics.median(pairs)
    if len(pairs) < FEW_ROUNDS:
        return middle, (max(pairs) - min(pairs)) / 2 / middle
    sigma = 1.4826 * statistics.median(abs(pair - middle) for pair in pairs)
    return middle, 2 * 1.2533 * sigma / len(pairs) ** 0.5 / middle


def noise(seconds: dict[str, list[float]]) -> float:
    """What the first case differs from itself, measured twice in each round, as a share: the least to be believed."""
    own = next(iter(seconds.values()))
    again, uncertain = ratio(seconds[AGAIN], own)
    return abs(again - 1) + uncertain


def summary(seconds: dict[str, list[float]], gflop: float, threads: int) -> dict[str, Any]:
    """What interleave() says: medians in milliseconds, "ratios" over the first case's time and their "noise"; where the
    work is counted (`gflop`, as direct convolution), GFLOP/s and the share of the FMA peak."""
    peak = statistics.median(seconds[PEAK]) * threads
    own = next(iter(seconds.values()))
    least = noise(seconds)
    rows, ratios, uncertain = {}, {}, {}
    for name, values in seconds.items():
        if name in (PEAK, AGAIN):
            continue
        middle = statistics.median(values)
        rows[name] = {
            "ms": round(middle * 1e3, 4),
            "ms_p10": round(float(np.percentile(values, 10)) * 1e3, 4),
            "ms_p90": round(float(np.percentile(values, 90)) * 1e3, 4),
            "ms_all": [round(v * 1e3, 4) for v in values],
        }
        if gflop:
            rows[name]["gflops"] = round(gflop / middle, 1)
            rows[name]["percent_of_peak"] = round(100 * gflop / middle / peak, 1)
        times, own_noise = ratio(values, own)
        ratios[name], uncertain[name] = round(times, 3), round(max(least, own_noise), 4)
    return {
        "fma_peak_gflops": round(peak, 1),
        "threads": threads,
        "rows": rows,
        "ratios": ratios,
        "noise": uncertain,
        "same_twice_noise": round(least, 4),
    }


def confirm(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The first of two processes' results on one case, with what the second adds.

    Two processes differ by more than the rounds of either show: memory lies elsewhere, in larger pages or smaller.
    Where both have a ratio, it becomes their mean and its noise at least their difference, which is twice how far the
    mean is from either; the noise of the other ratios is at least the greatest difference.  Adds "processes": the
    ratios and the milliseconds of each, and "processes_noise", that greatest difference.
    """
    own, *others = first["ratios"]
    shared = [name for name in others if name in second["ratios"]]
    ratios, uncertain, apart = dict(first["ratios"]), dict(first["noise"]), {}
    for name in shared:
        pair = [result["ratios"][name] for result in (first, second)]
        ratios[name] = round(statistics.mean(pair), 3)
        apart[name] = (max(pair) - min(pair)) / ratios[name]
        uncertain[name] = max(uncertain[name], second["noise"][name], round(apart[name], 4))
    most = round(max(apart.values(), default=0.0), 4)
    for name in ratios.keys() - set(shared):
        uncertain[name] = max(uncertain[name], most)
    names = [own, *shared]
    each = [
        {"ratios": {n: r["ratios"][n] for n in names}, "ms": {n: r["rows"][n]["ms"] for n in names}}
        for r in (first, second)
    ]
    return first | {"ratios": ratios, "noise": uncertain, "processes": each, "processes_noise": most}


def noises(result: dict[str, Any]) -> str:
    """The line that says what the noise of a result comes from."""
    line = f"  {next(iter(result['rows']))} twice in each round: noise {result['same_twice_noise']:.1%}"
    between = f"; between two processes: {result['processes_noise']:.1%}" if "processes_noise" in result else ""
    return line + between


def verdict(times: float, uncertain: float) -> str:
    """ "x 2.41 ±0.05", or that there is no difference that the noise would not explain."""
    if abs(times - 1) <= uncertain:
        return f"no difference (within {uncertain:.1%})"
    return f"x {times:.2f} ±{times * uncertain:.2f}"


def table(title: str, result: dict[str, Any]) -> str:
    """The summary as text, each peer with how many times longer it takes than ours."""
    lines = [f"{title}  (FMA peak {result['fma_peak_gflops']} GFLOP/s, {result['threads']} thread(s))"]
    for name, row in result["rows"].items():
        line = f"  {name:28} {row['ms']:10.2f} ms"
        if "gflops" in row:
            line += f" {row['gflops']:8.1f} GFLOP/s {row['percent_of_peak']:6.1f} % of peak"
        lines.append(line + ("" if name == OURS else f"   {verdict(result['ratios'][name], result['noise'][name])}"))
    warnings = [f"  careful: {warning}" for warning in result["conditions"]["warnings"]]
    return "\n".join([*lines, noises(result), *warnings])
