import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_addoption(parser):
    parser.addoption("--record", metavar="FOLDER", help="write each comparison's result there as JSON")
    parser.addoption("--network", help="only these, by comma: dncnn20, ffdnet, drunet, denoise-cnn")
    parser.addoption("--size", help="only these WIDTHxHEIGHT, by comma; any size will do")
    parser.addoption("--threads", help="only these numbers of threads, by comma")
    parser.addoption("--precision", help="only these, by comma: float32, bfloat16")
    parser.addoption("--peers", default="all", help="only these, by comma, or none: see benchmarks/compare.py --help")
    parser.addoption("--rounds", help="measured rounds; by default as many as the time allows")
    parser.addoption("--quick", action="store_true", help="tiny pictures, two rounds, no torch.compile: does it work?")


@pytest.fixture
def record(request):
    """record(name, result) keeps a comparison's figures as FOLDER/name.json when --record FOLDER was given."""

    def keep(name: str, result: dict) -> None:
        folder = request.config.getoption("--record")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")

    return keep


def pytest_generate_tests(metafunc):
    """A benchmark module's CASES = {"network": [...], "size": [...]} and QUICK, narrowed by the options."""
    quick = metafunc.config.getoption("--quick")
    for name, values in getattr(metafunc.module, "CASES", {}).items():
        if name not in metafunc.fixturenames:
            continue
        if given := metafunc.config.getoption(f"--{name}"):
            values = given.split(",")
        elif quick:
            values = metafunc.module.QUICK.get(name, values)
        metafunc.parametrize(name, values)


@pytest.fixture
def options(request) -> list[str]:
    """--peers and --rounds as the scripts take them."""
    peers, rounds = request.config.getoption("--peers"), request.config.getoption("--rounds")
    if request.config.getoption("--quick"):
        peers = "ncnn,openvino,onnx-runtime,torch-jit,torch-eager" if peers == "all" else peers
        rounds = rounds or "2"
    return ["--peers", peers, *(["--rounds", rounds] if rounds else [])]
