"""Which cases there are, and their names."""

import json

import pytest

from fastrestore.bench import cases
from fastrestore.bench.machine import ROOT
from fastrestore.bench.networks import NETWORKS
from fastrestore.bench.suites import SUITES
from fastrestore.cli import bench as command

RESULTS = ROOT / "benchmarks" / "results" / "intel-xeon-2cpu"


def test_the_command_knows_all_suites():
    assert list(command.SUITES) == list(SUITES)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("which", [{}, {"full": True}, {"quick": True}], ids=["short", "full", "quick"])
def test_every_case_has_a_name_of_its_own(suite, which):
    names = [cases.name(suite, case) for case in cases.select(suite, **which)]
    assert names and len(set(names)) == len(names)


def test_what_is_not_named_keeps_the_short_runs_values():
    chosen = cases.select("models", {"size": "1920x1080", "precision": "bfloat16"})
    assert {case["network"] for case in chosen} == {"dncnn20", "ffdnet", "drunet"}
    assert all(case["size"] == "1920x1080" and case["threads"] == 1 and case["isa"] == "" for case in chosen)
    assert [case["threads"] for case in cases.select("models", {"network": "ffdnet", "threads": "1,2"})][:2] == [1, 2]
    assert cases.select("models", {"network": "swin60"}, peers="none", rounds=3)[0]["peers"] == "none"


def test_an_axis_that_is_not_there():
    with pytest.raises(ValueError, match="memory does not vary in isa"):
        cases.select("memory", {"isa": "avx2"})
    with pytest.raises(ValueError, match="models takes no seconds"):
        cases.select("models", seconds=3.0)
    assert all(case["seconds"] == 3.0 for case in cases.select("latency", seconds=3.0))


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*x*.json")), ids=lambda path: path.stem)
def test_recorded_results_have_the_names_of_cases(path):
    result = json.loads(path.read_text())
    if "network" not in result:
        return  # of a kernel, before its result named the case
    assert result["network"] in NETWORKS
    assert cases.name(result.get("suite", path.stem.split("-")[0]), result) == path.stem
