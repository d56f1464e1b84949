"""Kernels of one's own: wrong ones are caught, slow ones placed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fastrestore.bench import own
from fastrestore.bench.contest import WrongAnswer
from fastrestore.bench.operators import CASES, Convolution
from fastrestore.cli.bench import app
from fastrestore.errors import ModelError

EXAMPLES = Path(__file__).parents[2] / "examples" / "own_kernel"
CASE = "conv2d-3x3-64-64-128"


def test_the_command_catches_the_wrong_and_places_the_slow(tmp_path):
    options = ["--case", CASE, "--peers", "none", "--rounds", "2", "--json", str(tmp_path / "out.json")]
    done = CliRunner().invoke(app, ["own", str(EXAMPLES / "kernels.py"), *options])
    assert done.exit_code == 1, done.output
    (result,) = json.loads((tmp_path / "out.json").read_text())
    assert result["rows"]["nine_products"]["ms"] > result["rows"]["fastrestore"]["ms"]
    assert set(result["left_out"]) == {"forgets_the_bias", "remembers"}
    assert "not timed on" in result["left_out"]["remembers"] and "is off by" in result["left_out"]["forgets_the_bias"]
    assert "forgets_the_bias left out" in done.output and "nine_products" in done.output


@pytest.fixture(scope="module")
def small() -> Convolution:
    return Convolution(5, 7, 3, 2, 1, 9)


def test_a_shared_library(tmp_path, small):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = tmp_path / "libconvolution.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", EXAMPLES / "convolution.c", "-o", library], check=True)
    (kernel,) = own.load(f"{library}:convolution", "conv2d")
    given = small.arguments(3)
    small.check("convolution", kernel.make(small, given, 1).run(), given)
    with pytest.raises(ModelError, match="missing_one"):
        own.load(f"{library}:missing_one", "conv2d")
    with pytest.raises(ModelError, match="--operator"):
        own.load(f"{library}:convolution")


def test_a_triton_kernel_by_its_interpreter():
    pytest.importorskip("triton", reason="triton is not installed")
    program = f"""
from fastrestore.bench import own
from fastrestore.bench.operators import Pixels
import fastrestore.bench.operators as operators
operators.HEIGHT, operators.WIDTH = 8, 12
(kernel,) = own.load({str(EXAMPLES / "triton_unshuffle.py")!r})
problem = Pixels("pixel_unshuffle")
given = problem.arguments(0)
problem.check(kernel.name, kernel.make(problem, given, 1).run(), given)
print(kernel.untimed)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "interpreter" in done.stdout


def test_what_is_left_unwritten_is_wrong(small):
    lazy = own.Kernel("lazy", "conv2d", lambda **_: None)
    given = small.arguments(0)
    with pytest.raises(WrongAnswer):
        small.check("lazy", lazy.make(small, given, 1).run(), given)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("pixels")])
def test_a_wrong_bit_of_a_pixel_is_seen(name, monkeypatch):
    monkeypatch.setattr("fastrestore.bench.operators.HEIGHT", 6)
    monkeypatch.setattr("fastrestore.bench.operators.WIDTH", 10)
    problem = CASES[name]
    given = problem.arguments(0)
    for who, make in problem.contestants().items():
        result = make(given).run()
        problem.check(who, result, given)
    spoilt = result.contiguous().clone()
    spoilt.view(torch.uint8)[-1, -1, -1] ^= 1
    with pytest.raises(WrongAnswer, match="1 bytes"):
        problem.check("it", spoilt, given)


def test_convolutions_agree(small):
    given = small.arguments(0)
    for who, make in small.contestants().items():
        small.check(who, make(given).run(), given)
    with pytest.raises(WrongAnswer):
        small.check("it", make(small.arguments(1)).run(), given)  # the answer to another question


def test_not_a_number_anywhere_is_wrong():
    problem = Convolution(2, 2, 3, 1, 1, 64)
    given = problem.arguments(0)
    result = problem.contestants()["fastrestore"](given).run().contiguous()
    problem.check("it", result, given)
    result[60, 60, 1] = torch.nan  # below the rows that float64 computes
    with pytest.raises(WrongAnswer):
        problem.check("it", result, given)


def test_files_that_bring_nothing(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        own.load(str(tmp_path / "missing.py"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ModelError, match="registers no kernel"):
        own.load(str(tmp_path / "empty.py"))
    (tmp_path / "twice.py").write_text(
        "from fastrestore.bench.own import kernel\nfor _ in 'ab': kernel('conv2d', name='a')(print)\n"
    )
    with pytest.raises(ModelError, match="a is taken"):
        own.load(str(tmp_path / "twice.py"))
    (tmp_path / "lib.so").write_bytes(b"\x7fELF, but no more")
    with pytest.raises(ModelError):
        own.load(f"{tmp_path / 'lib.so'}:f", "conv2d")
    with pytest.raises(ModelError, match="SYMBOL"):
        own.load(str(tmp_path / "lib.so"))


def test_unknown_operators_and_devices():
    with pytest.raises(ValueError, match="conv2d"):
        own.kernel("conv3d")
    with pytest.raises(ValueError, match="tpu"):
        own.kernel("conv2d", device="tpu")
