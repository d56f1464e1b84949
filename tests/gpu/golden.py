"""Results of small networks on a GPU, kept as one file, against which the CPU and the emulation are tested ever after.

    python -m gpu.golden              (in tests/, with the package installed, on a machine with an NVIDIA GPU)

writes tests/data/gpu_golden.npz: the results, and device, driver and commit.  Pictures and weights are made anew from
their seeds.  Where the file is not there, nobody has recorded it yet.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastrestore import engine
from gpu.test_session import FUSED, NETWORKS, PUBLISHED, picture, randomised

FILE = Path(__file__).resolve().parents[1] / "data" / "gpu_golden.npz"
SIZE = (19, 26)  # odd, and several tiles of every kernel
PRECISIONS = ("float16", "bfloat16")
# Relative to the result's root mean square: what a type costs through a few layers, twice over.
TOLERANCE = {"float16": 8e-3, "bfloat16": 6e-2}


def networks() -> dict[str, Any]:
    made = {name: NETWORKS[name] for name in ("dncnn", "unet", "shuffled", "resized", "quotients")}
    made |= {name: randomised(name, FUSED[name][0]) for name in FUSED}
    return made | {"swinir": randomised("swinir", PUBLISHED["swinir"])}


def results(run: Callable[[engine.Plan, str, np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    """What `run` makes of each network in each precision."""
    image = picture(*SIZE)
    plans = {name: engine.compile(network) for name, network in networks().items()}
    return {f"{name} {kind}": run(plan, kind, image) for name, plan in plans.items() for kind in PRECISIONS}


def distance(actual: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((actual - wanted) ** 2) / np.mean(wanted**2)))


def on_this_gpu(plan: engine.Plan, kind: str, image: np.ndarray) -> np.ndarray:
    return plan.session(device="cuda", precision=kind).run(image, clip=False)


def about() -> dict[str, str]:
    """Of the machine: what names its GPU and driver, and the commit."""

    def said(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=FILE.parent).stdout.strip()

    query = ("nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader", "--id=0")
    return {"gpu, capability, driver": said(*query), "commit": said("git", "rev-parse", "HEAD")}


def write(path: Path, arrays: dict[str, np.ndarray], told: dict[str, str]) -> None:
    np.savez_compressed(path, about=json.dumps(told), **arrays)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "about"}
        return arrays, json.loads(str(file["about"]))


if __name__ == "__main__":
    write(FILE, results(on_this_gpu), about())
    print(FILE)
