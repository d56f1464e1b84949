"""The GPU code in the built core, read without a GPU: no spills, and the instructions that kernels are written for."""

import re
import subprocess
from pathlib import Path

import pytest

from fastrestore.ops import _C


@pytest.fixture(scope="module")
def cuobjdump() -> list[str]:
    if not hasattr(_C, "cuda"):
        pytest.skip("the core was built without nvcc: it has no GPU code")
    triton = pytest.importorskip("triton", reason="cuobjdump comes with Triton, which is not installed")
    return [str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")]


def output(command: list[str], *more: str) -> str:
    return subprocess.run([*command, *more, _C.__file__], capture_output=True, text=True, check=True).stdout


def test_no_kernel_spills(cuobjdump):
    usage = output(cuobjdump, "-res-usage")
    rows = re.findall(r"Function (\S+):\s*REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert len(rows) > 100
    assert [name for name, _, stack, local in rows if int(stack) or int(local)] == []


def test_products_run_on_tensor_cores(cuobjdump):
    """mma.sync and ldmatrix in every kernel that is written with them, wgmma and TMA in the one for Hopper."""
    wanted = {
        r"conv3x3_kernel": {"HMMA", "LDSM", "LDGSTS"},
        r"implicit_kernel": {"HMMA", "LDSM", "LDGSTS"},
        r"window_attention_kernel": {"HMMA", "LDSM"},
        r"gated_(front|back)_kernel": {"HMMA", "LDSM", "LDGSTS"},
        r"tensor_grams_kernel": {"HMMA", "LDSM", "LDGSTS"},
        r"conv3x3_tma_kernel": {"HGMMA", "UTMALDG", "STSM"},
    }
    found = dict.fromkeys(wanted, 0)
    for part in re.split(r"\n\s*Function : ", output(cuobjdump, "-sass"))[1:]:
        name = part.split("\n", 1)[0]
        for pattern, instructions in wanted.items():
            if re.search(pattern, name):
                missing = {i for i in instructions if not re.search(rf"\b{i}\b", part)}
                assert not missing, f"{name} lacks {missing}"
                found[pattern] += 1
    assert all(found.values()), found


def test_the_core_stays_small():
    if not hasattr(_C, "cuda"):
        pytest.skip("the core was built without nvcc: it has no GPU code")
    assert Path(_C.__file__).stat().st_size < 15e6


def test_without_a_gpu_the_error_says_so():
    if not hasattr(_C, "cuda"):
        pytest.skip("the core was built without nvcc: it has no GPU code")
    try:
        count = _C.cuda.device_count()
    except _C.cuda.NoDevice as error:
        assert "no usable CUDA device" in str(error)
    else:
        assert count > 0
