"""benchmarks/gpu.py as far as it goes without a GPU."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_benchmark"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so(script, monkeypatch, capsys, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--json", str(tmp_path / "results.json")])
    assert script.main() == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize("name", ["dncnn", "nafnet-32", "swinir-light"])
def test_networks_can_be_made(script, name):
    assert sum(p.numel() for p in script.network(name).parameters()) > 1e5


def test_floors_and_summaries(script):
    peak = {"tflops": 790.0, "gbytes_per_s": 4300.0}
    assert script.floor_ms(153e9, 531e6, peak) == pytest.approx(0.1937, rel=1e-3)  # products bind
    assert script.floor_ms(1e9, 531e6, peak) == pytest.approx(0.1235, rel=1e-3)  # traffic binds
    assert script.summary([3.0, 1.0, 2.0]) == {"median_ms": 2.0, "p10_ms": 1.0, "p90_ms": 3.0, "samples": 3}


def test_the_table_compares_with_the_best_of_the_others(script):
    variants = {
        "ours": {"median_ms": 2.0},
        "triton": {"median_ms": 1.0},
        "cudnn": {"median_ms": 6.0},
        "compiled": {"median_ms": 3.0},
        "cudnn_fused": {"failed": "RuntimeError"},
    }
    rows = script.table({"kernels": [{"case": "a case", "variants": variants}]})
    assert "| a case | 2.000 | 3.000 | compiled | 1.50 |" in rows
