"""What several tests share."""

import os
import shutil
from pathlib import Path

import pytest

if shutil.which("nvidia-smi") is None:  # torch's compiler imports Triton too, whose own functions are made just once
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        default="emulated",
        choices=["emulated", "cuda"],
        help="where tests/gpu runs CUDA kernels: emulated on the host, or on this machine's GPU",
    )


@pytest.fixture(scope="session", autouse=True)
def kept_plans(tmp_path_factory) -> None:
    """The tests, and the processes that they start, keep their compiled plans away from the user's."""
    os.environ["FASTRESTORE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public test images and weights: FASTRESTORE_DATA, or ../shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FASTRESTORE_DATA", beside))
    if not (folder / "testsets").is_dir():
        pytest.skip(f"the shared data is not there: {folder}")
    return folder


@pytest.fixture(scope="session")
def plan(tmp_path_factory) -> str:
    """The file of a small U-Net's plan, which takes a noise level."""
    import fastrestore
    from tests.test_engine import small_model

    path = tmp_path_factory.mktemp("plan") / "small.frp"
    fastrestore.compile(small_model("unet")).save(path)
    return str(path)
