"""Every case of fastrestore/bench as a test of pytest-benchmark: `pytest benchmarks -o python_files='bench_*.py' -s`.

A module names its SUITE and has one test, which takes `measured`, the result of a case.
"""

from pathlib import Path

import pytest

from fastrestore.bench import cases
from fastrestore.bench.peers import OPTIONS
from fastrestore.bench.process import Skipped
from fastrestore.bench.suites import SUITES
from fastrestore.bench.timing import OURS

AXES = sorted({axis for suite in SUITES.values() for axis in suite.AXES})


def pytest_addoption(parser):
    parser.addoption("--record", metavar="FOLDER", help="write each result there as JSON")
    for axis in AXES:
        parser.addoption(f"--{axis}", help="only these values, by comma")
    parser.addoption("--peers", help="some of " + ",".join(OPTIONS) + ", or all, or none")
    parser.addoption("--rounds", type=int, help="measured rounds; by default as many as the time allows")
    parser.addoption("--quick", action="store_true", help="tiny pictures, two rounds: does it work?")
    parser.addoption("--full", action="store_true", help="every combination: hours")


def pytest_generate_tests(metafunc):
    if "measured" not in metafunc.fixturenames:
        return
    suite, option = metafunc.module.SUITE, metafunc.config.getoption
    wanted = {axis: option(f"--{axis}") for axis in SUITES[suite].AXES if option(f"--{axis}")}
    more = {"peers": option("--peers"), "rounds": option("--rounds")}
    chosen = cases.select(suite, wanted, option("--full"), option("--quick"), **more)
    metafunc.parametrize("measured", chosen, ids=[cases.name(suite, case) for case in chosen], indirect=True)


@pytest.fixture
def measured(request, benchmark):
    """A case's result, from a process of its own, printed, recorded and in the benchmark's extra_info."""
    folder = request.config.getoption("--record")
    results = []

    def run():
        results.append(cases.run(request.module.SUITE, request.param, Path(folder) if folder else None))

    try:
        benchmark.pedantic(run, rounds=1)
    except Skipped as reason:
        pytest.skip(str(reason))
    (result,) = results
    print("\n" + cases.text(result))
    kept = ("ratios", "noise", "same_twice_noise", "fma_peak_gflops", "ceilings", "working_mib", "threads", "machine")
    benchmark.extra_info.update({name: result[name] for name in kept if name in result})
    benchmark.extra_info.update(result["rows"].get(OURS, {}))
    return result
