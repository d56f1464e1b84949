"""Quality beside speed: PSNR on a public test set with time, memory and file size, ours and classical denoisers.

The noise is white and Gaussian, by the papers' protocol (evaluate.py).  The classical ones' parameters are tuned on the
first picture of the set, which flatters them.  Each runs in a process of its own.
"""

import importlib.util
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastrestore import degrade, engine, image, metrics, zoo
from fastrestore.bench.machine import ROOT, forget_peak, machine, resident
from fastrestore.bench.peers import version
from fastrestore.bench.process import Skipped, in_fresh_process
from fastrestore.convert import convert

AXES = {"sigma": [15, 25, 50], "threads": [1]}
SHORT = [{"sigma": 25, "limit": 4}]
QUICK = {"sigma": [25], "limit": 1}
SET, WEIGHTS = "testsets/cbsd68", "weights"
PUBLIC = {"FFDNet, public weights": ("ffdnet_color.safetensors", "ffdnet")}
MEMORY_SIDE = 1024  # of the picture on which memory is measured
Denoiser = Callable[[np.ndarray], np.ndarray]  # noisy [H, W, 3] float32 -> restored, the same


def name(sigma: float, threads: int = 1, **_: Any) -> str:
    return f"quality-sigma{sigma:g}-{threads}t"


def data_folder() -> Path:
    """The public test images and weights: FASTRESTORE_DATA, or ../shared/data beside the checkout.

    Raises Skipped if the test set is not there.
    """
    folder = Path(os.environ.get("FASTRESTORE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / SET).is_dir():
        raise Skipped(f"{folder / SET} is not there: FASTRESTORE_DATA names the folder of the public test sets")
    return folder


def run(
    sigma: float,
    threads: int = 1,
    limit: int | None = None,
    of: str = "",
    precision: str = "",
    peers: str = "all",
    rounds: int | None = None,
) -> dict[str, Any]:
    """All contestants on the first `limit` pictures; or with `of` and `precision`, in this very process, that one
    alone.  peers: "none" leaves the classical ones out.  rounds: not used, each picture is one."""
    if of:
        return _measure(sigma, threads, limit, of, precision)
    wanted = [(model, precision) for model in _models() for precision in engine.PRECISIONS]
    rows, left_out, about = {}, {}, machine()
    for who, precision in wanted + [(who, "float32") for who in CLASSICAL if peers != "none"]:
        asked = {"sigma": sigma, "threads": threads, "limit": limit, "of": who, "precision": precision}
        try:
            rows[f"{who}, {precision}" if who in _models() else who] = in_fresh_process("quality", asked)
        except Skipped as reason:
            left_out[who] = str(reason)
    what = {"suite": "quality", "set": Path(SET).name, "sigma": sigma, "threads": threads}
    return {"machine": about, **what, "rows": rows, "left_out": left_out}


def _models() -> list[str]:
    """The named models that take a noisy picture, and those of the public weights that are there."""
    named = [entry.name for entry in zoo.entries() if entry.task == "denoise" and entry.input == "image"]
    return named + [who for who, (file, _) in PUBLIC.items() if (data_folder() / WEIGHTS / file).is_file()]


def _measure(sigma: float, threads: int, limit: int | None, of: str, precision: str) -> dict[str, Any]:
    pictures = sorted((data_folder() / SET).iterdir())[:limit]
    clean = [image.read(path).pixels for path in pictures]
    noisy = [degrade.noise(picture / 255, sigma, seed=0).astype(np.float32) for picture in clean]
    if of in CLASSICAL:
        restore, about = CLASSICAL[of](sigma, threads, noisy[0], clean[0])
    else:
        restore, about = _plan(of, precision, sigma, threads)
    restore(noisy[0])
    scores, seconds = [], 0.0
    for given, wanted in zip(noisy, clean, strict=True):
        start = time.perf_counter()
        restored = restore(given)
        seconds += time.perf_counter() - start
        scores.append(_psnr(restored, wanted))
    large = np.random.default_rng(0).random((MEMORY_SIDE, MEMORY_SIDE, 3), dtype=np.float32)
    before = resident("VmRSS")
    forget_peak()
    result_mib = restore(large).nbytes / 2**20
    growth = resident("VmHWM") - before - result_mib
    mpixels = sum(picture.shape[0] * picture.shape[1] for picture in clean) / 1e6
    return {
        "pictures": len(clean),
        "psnr": round(float(np.mean(scores)), 3),
        "input_psnr": round(float(np.mean([_psnr(g, w) for g, w in zip(noisy, clean, strict=True)])), 3),
        "ms_per_mpixel": round(1e3 * seconds / mpixels, 1),
        "mib_at_1024x1024": round(max(growth, 0.0), 1),
        **about,
    }


def _psnr(restored: np.ndarray, clean: np.ndarray) -> float:
    return metrics.psnr(_bytes(restored), clean)


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _plan(of: str, precision: str, sigma: float, threads: int) -> tuple[Denoiser, dict[str, Any]]:
    if of in PUBLIC:
        file, architecture = PUBLIC[of]
        model = convert(data_folder() / WEIGHTS / file, architecture)
    else:
        model = zoo.load(of)
    plan = engine.compile(model, precision)
    session = plan.session(threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        plan.save(Path(folder, "model.frp"))
        size = Path(folder, "model.frp").stat().st_size
    told = sigma if plan.takes_sigma else None
    about = {"file_mb": round(size / 1e6, 2), "settings": session.info}
    # Counted: what the process grows by would leave out what it takes of memory that loading has freed.
    about["mib_at_1024x1024"] = round(session.working_bytes(MEMORY_SIDE, MEMORY_SIDE) / 2**20, 1)
    return lambda noisy: session.run(noisy, sigma=told), about


def _tuned(make: Callable[..., Denoiser], grid: dict[str, list[float]], noisy: np.ndarray, clean: np.ndarray) -> Any:
    """The denoiser of the grid's best point on one picture, and the point."""
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    best = max(points, key=lambda point: _psnr(make(**point)(noisy), clean))
    return make(**best), {"settings": {name: round(value, 2) for name, value in best.items()}}


def _bilateral(sigma: float, threads: int, noisy: np.ndarray, clean: np.ndarray) -> tuple[Denoiser, dict[str, Any]]:
    import cv2

    cv2.setNumThreads(threads)
    grid = {"colour": [k * sigma / 255 for k in (2.0, 3.0, 4.0)], "space": [1.5, 2.5]}
    return _tuned(lambda colour, space: lambda x: cv2.bilateralFilter(x, -1, colour, space), grid, noisy, clean)


def _non_local_means(
    sigma: float, threads: int, noisy: np.ndarray, clean: np.ndarray
) -> tuple[Denoiser, dict[str, Any]]:
    """OpenCV's takes 8 bits, so what is outside [0, 1] is lost."""
    import cv2

    cv2.setNumThreads(threads)

    def make(h: float, colour: float) -> Denoiser:
        return lambda x: cv2.fastNlMeansDenoisingColored(_bytes(x), None, h, colour, 7, 21).astype(np.float32) / 255

    return _tuned(
        make, {"h": [k * sigma for k in (0.3, 0.5, 0.8)], "colour": [k * sigma for k in (0.3, 0.6, 1.0)]}, noisy, clean
    )


def _bm3d(sigma: float, threads: int, noisy: np.ndarray, clean: np.ndarray) -> tuple[Denoiser, dict[str, Any]]:
    """The authors' package, for non-commercial use only: never installed by ours.  It takes all threads it finds."""
    if importlib.util.find_spec("bm3d") is None:
        raise Skipped("bm3d is not installed (its licence is for non-commercial use)")
    from bm3d import bm3d_rgb

    settings = {"profile": "np", "colour space": "opp", "package": f"bm3d {version('bm3d')}"}
    return lambda x: bm3d_rgb(x, sigma / 255).astype(np.float32), {"settings": settings}


CLASSICAL = {
    "OpenCV bilateral filter": _bilateral,
    "OpenCV non-local means": _non_local_means,
    "BM3D": _bm3d,
}


def text(result: dict[str, Any]) -> str:
    lines = [f"{result['set']}, σ {result['sigma']:g}, {result['threads']} thread(s)"]
    for who, row in sorted(result["rows"].items(), key=lambda item: -item[1]["psnr"]):
        file = f"{row['file_mb']:.2f} MB" if "file_mb" in row else "-"
        lines.append(
            f"  {who:36} {row['psnr']:6.2f} dB  {row['ms_per_mpixel']:9.0f} ms/Mpixel"
            f"  {row['mib_at_1024x1024']:7.1f} MiB at 1024x1024  {file:>9}"
        )
    return "\n".join(lines)
