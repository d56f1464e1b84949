"""The C library as a contestant: examples/embed_c's program on the same plan and picture."""

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from fastrestore.bench.contest import WrongAnswer
from fastrestore.bench.machine import ROOT
from fastrestore.plan import Plan

FROM_C = "fastrestore, from C"


def program() -> Path | None:
    """The example's program, if it is built: build/embed_c/restore, or what FASTRESTORE_EMBED_C names."""
    path = Path(os.environ.get("FASTRESTORE_EMBED_C", ROOT / "build" / "embed_c" / "restore"))
    return path if os.access(path, os.X_OK) else None


class Embedded:
    """The program with a plan and a picture, [H, W, 3] float32, as files of a folder."""

    def __init__(self, restore: Path, folder: Path, plan: Plan, image: np.ndarray, sigma: float | None, threads: int):
        self.result, self.shape = folder / "out.raw", image.shape
        plan.save(folder / "model.frp")
        image.tofile(folder / "in.raw")
        files = [folder / "model.frp", folder / "in.raw", self.result]
        frame = f"{image.shape[1]}x{image.shape[0]}x3:f32"
        told = [] if sigma is None else ["--sigma", sigma]
        self.command = [restore, *files, "--raw", frame, "--threads", threads, *told]
        # The program clips, as the library does by default.
        self.wanted = plan.session(threads=threads).run(image, sigma=sigma)

    def run(self, *more: Any) -> str:
        """What the program says, with these options as well."""
        command = [str(part) for part in (*self.command, *more)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def read(self) -> np.ndarray:
        return np.fromfile(self.result, np.float32).reshape(self.shape)

    def check(self, result: np.ndarray) -> dict[str, float]:
        """Raises WrongAnswer if a bit differs from Python's."""
        if not np.array_equal(result, self.wanted):
            raise WrongAnswer(f"{FROM_C}: its result is not that of the same plan in Python")
        return {"greatest": 0.0}
