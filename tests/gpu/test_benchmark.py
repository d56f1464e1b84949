"""benchmarks/gpu.py as far as it goes without a GPU."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from fastrestore import ops

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_benchmark"] = module  # dataclasses look there
    sys.path.append(str(SCRIPT.parent))  # for its cases
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
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


def test_the_table_compares_with_the_best_of_the_others(script, tmp_path):
    variants = {
        "ours": {"median_ms": 2.0, "share_of_roofline": 0.5},
        "triton": {"median_ms": 1.0},
        "cudnn": {"median_ms": 6.0},
        "cudnn_fused": {"failed": "RuntimeError"},
    }
    rows = [{"case": "a case", "variants": variants}, {"case": "lost", "failed": "OutOfMemoryError"},
            {"case": "a case", "variants": {"compiled": {"median_ms": 3.0}}}]  # fmt: skip
    assert "| a case | 2.000 | ours | 50% | 3.000 | compiled | 1.50 |" in script.table({"rows": rows})
    pytest.importorskip("matplotlib")
    script.plot({"rows": rows}, str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_the_plan_covers_everything_and_its_first_part_fits(script, monkeypatch, capsys):
    """Every network, size and type is in it once, and each network's main comparison lies within the nine minutes."""
    items = script.schedule()
    names = [item.name for item in items]
    assert len(set(names)) == len(names)
    wanted = {f"{n} {size} {kind}" for n in script.NETWORKS for size in script.SIZES for kind in script.TYPES}
    assert wanted <= set(names)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--plan-only"])
    assert script.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(items)
    surely = {line.split("s  ", 1)[1] for line in lines if "skipped" not in line}
    for size, kind in (("1920x1080", "bfloat16"), ("3840x2160", "float16"), ("512x512", "bfloat16")):
        assert {f"{name} {size} {kind}" for name in script.NETWORKS} <= surely
    assert {"dncnn 1920x1080 bfloat16 compiled", "nafnet-32 1920x1080 bfloat16 compiled"} <= surely


def test_networks_are_counted(script):
    """DnCNN of 20 layers at 1920 x 1080: 2.77 TFLOP, as counted by hand."""
    plan = script.engine.compile(script.network("dncnn"))
    flop, layers = script.counted(plan, 1080, 1920)
    by_hand = 2 * 1080 * 1920 * 9 * (3 * 64 + 18 * 64 * 64 + 64 * 3)
    assert flop == by_hand and len(layers) == 20
    assert layers[1] == (2 * 1080 * 1920 * 9 * 64 * 64, 2 * 2 * 64 * 1080 * 1920)


def test_fused_convolutions_are_torchs(script):
    """What stands for ops.conv2d in the cudnn_fused variants, as far as it goes without cuDNN."""
    x, weight, bias, residual = (torch.randn(shape) for shape in ((1, 4, 6, 7), (4, 4, 3, 3), (4,), (1, 4, 6, 7)))
    shape = dict(stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1)
    for options in (
        dict(activation="leaky_relu", slope=0.2, scale=2.0, residual_first=True),
        dict(activation="none", slope=0.0, scale=0.5, residual_first=False),
    ):
        ours = script.joined_conv2d(x, weight, bias, residual, **shape, **options)
        torch.testing.assert_close(ours, ops.conv2d(x, weight, bias, residual, **shape, **options))
