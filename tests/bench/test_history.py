"""Two sets of results: faster and slower, beyond noise and beside the machine's own change."""

import json
import subprocess

import pytest

from fastrestore.bench import history
from fastrestore.bench.machine import ROOT
from fastrestore.errors import ModelError


def result(ours: float, peer: float, noise: float = 0.03, version: str = "1", peak: float = 100.0) -> dict:
    rows = {"fastrestore": {"ms": ours, "version": "0"}, "ncnn": {"ms": peer, "version": version}}
    return {"machine": {}, "rows": rows, "noise": {"fastrestore": noise}, "fma_peak_gflops": peak}


@pytest.mark.parametrize(
    "before, after, verdict",
    [
        (result(10, 20), result(8, 20), "faster"),
        (result(10, 20), result(12, 20), "slower"),
        (result(10, 20), result(10.3, 20), "none"),  # within 3 % and 3 %
        (result(10, 20), result(20, 40), "none"),  # the machine took twice as long for the peer, too
        (result(10, 20), result(10, 40), "faster"),
        (result(10, 20), result(12, 20, noise=0.3), "none"),
        (
            result(10, 20, peak=100),
            result(20, 20, version="2", peak=50),
            "none",
        ),  # no peer is the same: the clock tells
    ],
)
def test_verdicts(before, after, verdict):
    (change,) = history.compare({"case": before}, {"case": after})
    assert change.verdict == verdict
    assert verdict in history.text([change]) or verdict == "none"


def test_only_what_both_measured_and_only_ours():
    changes = history.compare({"a": result(1, 1), "b": result(1, 1)}, {"b": result(1, 1), "c": result(1, 1)})
    assert [(change.case, change.who) for change in changes] == [("b", "fastrestore")]
    assert history.text([]) == "no case was measured in both"


def test_folders_and_commits(tmp_path):
    (tmp_path / "case.json").write_text(json.dumps(result(1, 2)))
    (tmp_path / "figures.json").write_text("[]")  # other JSON is no result
    assert list(history.load(str(tmp_path))) == ["case"]
    with pytest.raises(ModelError, match="no such folder"):
        history.load(str(tmp_path / "missing"))
    (tmp_path / "case.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        history.load(str(tmp_path))


def test_results_of_a_commit():
    folder = "benchmarks/results/intel-xeon-2cpu"
    if subprocess.run(["git", "-C", str(ROOT), "rev-parse", f"HEAD:{folder}"], capture_output=True).returncode:
        pytest.skip("this is no checkout")
    then, now = history.load(f"HEAD:{folder}"), history.load(str(ROOT / folder))
    assert then.keys() & now.keys()
    assert all(change.verdict == "none" for change in history.compare(then, then))
    with pytest.raises(ModelError):
        history.load("--help:x")
