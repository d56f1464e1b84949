"""What the machine can do, and that nothing is faster."""

import pytest

from fastrestore.bench import ceilings
from fastrestore.bench.ceilings import Impossible, check_possible
from fastrestore.bench.machine import Watch, last_level_cache, machine
from fastrestore.ops import _C


def test_nothing_is_faster_than_its_ceiling():
    check_possible("it", 100.0, 100.0)
    with pytest.raises(Impossible, match="it: 130"):
        check_possible("it", 130.0, 100.0)


def test_wider_vectors_have_a_higher_peak():
    baseline = ceilings.fma_peak("baseline")
    assert baseline > 0.5
    if _C.cpu_isa() in ("avx512", "avx512_bf16", "amx"):
        assert ceilings.fma_peak("avx512") > 1.5 * baseline


def test_dot_products_are_counted():
    if _C.cpu_isa() not in ("avx512_bf16", "amx"):
        pytest.skip(f"{_C.cpu_isa()} has no dot products")
    assert _C.dot_chains("bfloat16", "avx512_bf16", 10) == 10 * 12 * 16 * 2 * 2
    assert _C.dot_chains("int8", "avx512_bf16", 10) == 10 * 12 * 16 * 4 * 2
    if _C.cpu_isa() == "amx":
        assert _C.dot_chains("bfloat16", "amx", 10) == 10 * 4 * 16 * 16 * 32 * 2
        assert ceilings.arithmetic("bfloat16") > ceilings.arithmetic("float32")


def test_dot_products_that_are_not_there():
    for arguments in (("float16", "amx", 1), ("int8", "avx2", 1), ("int8", "avx3", 1)):
        with pytest.raises(ValueError):
            _C.dot_chains(*arguments)


def test_bandwidth_is_plausible():
    rates = ceilings.bandwidth(1 << 20, 1)
    assert all(0.1 < rate < 10_000 for rate in rates.values())


def test_all_ceilings_are_told():
    told = ceilings.measured([1])
    assert "float32 baseline" in told["gflops_of_one_thread"]
    assert len(told["gbytes_by_threads"]["1"]) == len({1 << 20, 16 << 20, min(2 * last_level_cache(), 1 << 30)})


def test_a_clock_that_moves_is_said():
    assert Watch().report([100.0, 101.0])["warnings"] in ([], Watch().report([100.0, 101.0])["warnings"])
    warnings = Watch().report([100.0, 70.0, 100.0])["warnings"]
    assert any("70 to 100 GFLOP/s" in warning for warning in warnings)


def test_other_processes_are_said(monkeypatch):
    now = iter([(0.0, 0.0), (1000.0, 2000.0)])
    monkeypatch.setattr("fastrestore.bench.machine._jiffies", lambda: next(now))
    warnings = Watch().report([])["warnings"]
    assert any("stolen" in warning for warning in warnings) and any("other processes" in w for w in warnings)


def test_the_machine_is_described():
    about = machine()
    assert about["isa"] and about["torch"] and last_level_cache() >= 32 << 20
