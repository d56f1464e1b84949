"""The page and its pictures."""

import re

import pytest

from fastrestore.bench import history, report
from fastrestore.bench.machine import ROOT

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
MACHINE = {"cpu": "a <CPU>", "isa": "avx2", "commit": "", "torch": "2", "allocator": "default"}
CONDITIONS = {"warnings": ["the clock moved"], "fma_peak_gflops_all": [1.0]}


def _compared(rows: dict, **more) -> dict:
    ours = rows["fastrestore"]["ms"]
    ratios = {who: row["ms"] / ours for who, row in rows.items()}
    about = {"machine": MACHINE, "conditions": CONDITIONS, "threads": 1, "left_out": {"OpenVINO": "is not installed"}}
    about |= {"ratios": ratios, "noise": dict.fromkeys(rows, 0.02), "same_twice_noise": 0.01, "fma_peak_gflops": 100.0}
    return about | {"rows": rows} | more


def _row(ms: float) -> dict:
    return {"ms": ms, "gflops": 100 / ms, "percent_of_peak": 1.0, "gbytes": 1.0, "version": "1", "settings": {"a": 1}}


@pytest.fixture
def results() -> list[dict]:
    peaks = {"arithmetic_gflops": 200.0, "copy_gbytes": 10.0, "triad_gbytes": 11.0}
    models = {"fastrestore": _row(1.0), "ncnn": _row(2.0), "torch eager, channels last": _row(0.5)}
    kernels = {"fastrestore": _row(1.0), "mine": _row(2.0)}
    frames = {
        "fastrestore": {"runs": 9, "p50_ms": 1.0, "p99_ms": 2.0, "worst_ms": 3.0, "percentiles_ms": [1.0, 2.0, 3.0]}
    }
    memory = {"fastrestore": {"peak_growth_mib": 12.0, "result_mib": 2.0, "prepared_mib": 1.0}}
    quality = {"pictures": 1, "psnr": 30.0, "ms_per_mpixel": 100.0, "mib_at_1024x1024": 1.0}
    about = {"machine": MACHINE, "conditions": CONDITIONS, "threads": 1, "left_out": {}}
    kernel = {
        "suite": "kernels",
        "case": "conv2d-x",
        "isa": "",
        "cache": "hot",
        "inputs": 1,
        "gflop": 1.0,
        "bytes": 10**7,
    }
    return [
        _compared(models, suite="models", network="ffdnet", size="64x64", precision="float32", isa=""),
        _compared(kernels, **kernel, brought=["mine"], ceilings=peaks),
        about | {"suite": "latency", "network": "ffdnet", "size": "64x64", "precision": "float32", "rows": frames},
        about | {"suite": "memory", "network": "ffdnet", "size": "64x64", "rows": memory},
        about | {"suite": "quality", "set": "set", "sigma": 25, "rows": {"a": quality, "b": {**quality, "psnr": 29.0}}},
    ]


def test_every_picture_is_drawn_and_inside_the_page(results, tmp_path):
    report.write(results, tmp_path)
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert names == {"speed", "roofline", "quality", "memory", "latency"}
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r"(src|href)=(?!['\"]?data:)", page)  # no other file is needed
    assert "a &lt;CPU&gt;" in page and "the clock moved" in page and "OpenVINO left out: is not installed" in page
    assert "torch eager, channels last takes 0.50 of our time" in page


def test_results_of_an_older_version(tmp_path):
    folder = ROOT / "benchmarks" / "results" / "intel-xeon-2cpu"
    said = report.write(list(history.load(str(folder)).values()), tmp_path)
    assert "speed" in said and "memory" in said


def test_nothing_to_draw(tmp_path):
    assert "no pictures" in report.write([], tmp_path)
