"""What folders, files larger than memory and a cluster cost beside the engine on arrays in memory.

    python benchmarks/bulk.py folder [--pictures 200] [--mpixel 2 24] [--threads 2]
    python benchmarks/bulk.py stream [--side 20000] [--memory 1GiB] [--threads 2]
    python benchmarks/bulk.py ray [--pictures 24] [--mpixel 2 6]

folder: megapixels a second of `fastrestore batch` over pictures of mixed sizes and formats, as a share of what the
engine does with some of the same pictures as arrays, measured before and after.  stream: the same of one 16-bit TIFF
in tiles, restored within a budget, and its peak of resident memory, in a process of its own.  ray: two local workers
of one thread against one.  Prints the result as JSON on the last line; --record FILE keeps it.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

import fastrestore as fr
from fastrestore import image as images
from fastrestore.bench.machine import machine, resident
from fastrestore.bench.process import settle

MODEL, SIGMA = "denoise-cnn", 15.0
KINDS = ".png", ".jpg", ".tif"
KEPT = "stages", "bottleneck", "waited", "parts"  # of a report
SAMPLED = 6  # pictures that the engine restores as arrays, spread over the sizes


def made(height: int, width: int, seed: int, dtype: type = np.uint8) -> np.ndarray:
    """A smooth picture with noise, which compresses about as a photograph does."""
    rng = np.random.default_rng(seed)
    y, x = np.linspace(0, 9, height)[:, None, None], np.linspace(0, 12, width)[None, :, None]
    smooth = 0.5 + 0.3 * np.sin(x + np.arange(3)) * np.cos(y + seed)
    out = np.empty((height, width, 3), dtype)
    for top in range(0, height, 256):  # by rows: no whole picture in float64
        rows = smooth[top : top + 256]
        noisy = rows + rng.normal(0, SIGMA / 255, rows.shape)
        out[top : top + 256] = np.rint(np.clip(noisy, 0, 1) * np.iinfo(dtype).max)
    return out


def sizes(count: int, mpixel: tuple[float, float]) -> list[tuple[int, int]]:
    """Heights and widths of `count` pictures from the one to the other number of megapixels, 2:3."""
    areas = np.geomspace(*mpixel, count) * 1e6
    return [(round((area / 1.5) ** 0.5), round((area * 1.5) ** 0.5)) for area in areas]


def fill(folder: Path, count: int, mpixel: tuple[float, float]) -> float:
    """Writes the pictures; returns their megapixels."""
    folder.mkdir()
    order = np.random.default_rng(0).permutation(count)
    for n, (height, width) in zip(order, sizes(count, mpixel), strict=True):
        images.write(folder / f"{n:04}{KINDS[n % len(KINDS)]}", images.Image(made(height, width, int(n))))
    return sum(height * width for height, width in sizes(count, mpixel)) / 1e6


def engine_rate(arrays: list[np.ndarray], restorer: fr.Restorer) -> float:
    """Megapixels a second of the restorer on arrays."""
    start = time.perf_counter()
    for array in arrays:
        restorer(array, SIGMA)
    return sum(array.shape[0] * array.shape[1] for array in arrays) / 1e6 / (time.perf_counter() - start)


def folder(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    mpixel = fill(scratch / "in", options.pictures, options.mpixel)
    chosen = sizes(options.pictures, options.mpixel)[:: max(1, options.pictures // SAMPLED)]
    arrays = [made(*size, seed) for seed, size in enumerate(chosen)]
    restorer = fr.Restorer(MODEL, threads=options.threads)
    engine_rate(arrays[:1], restorer)
    before = engine_rate(arrays, restorer)
    start = time.perf_counter()
    arguments = {"model": MODEL, "sigma": SIGMA, "threads": options.threads}
    records = list(fr.batch(scratch / "in", scratch / "out", **arguments))
    seconds = time.perf_counter() - start
    after = engine_rate(arrays, restorer)
    assert all(record["ok"] for record in records)
    stages = {stage: round(sum(r["seconds"][stage] for r in records), 2) for stage in records[0]["seconds"]}
    return {"mpixel": mpixel, "mpixel_per_s": mpixel / seconds, "engine": [before, after], "stages": stages}


def stream(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    side, source = options.side, scratch / "in.tif"
    tiles = [made(512, 512, seed, np.uint16) for seed in range(8)]
    count = math.ceil(side / 512) ** 2
    layout = {"tile": (512, 512), "photometric": "rgb", "compression": "zlib", "predictor": True, "metadata": None}
    each = (tiles[n % len(tiles)] for n in range(count))
    tifffile.imwrite(source, each, shape=(side, side, 3), dtype=np.uint16, bigtiff=True, maxworkers=1, **layout)
    restorer = fr.Restorer(MODEL, threads=options.threads, memory=options.memory)
    array = [made(2000, 2000, 0, np.uint16)]
    engine_rate(array, restorer)
    before = engine_rate(array, restorer)
    arguments = ["--source", source, "--memory", options.memory, "--threads", options.threads, "--scratch", scratch]
    command = [sys.executable, __file__, "one", *map(str, arguments)]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    report = {key: report[key] for key in (*KEPT, "wall", "ready_mib", "peak_mib", "memory")}
    after = engine_rate(array, restorer)
    mpixel = side * side / 1e6
    return {"mpixel": mpixel, "mpixel_per_s": mpixel / report["wall"], "engine": [before, after]} | report


def one(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Restores one file and says what memory that took, beyond the process when its model was ready."""
    restorer = fr.Restorer(MODEL, threads=options.threads, memory=options.memory)
    restorer(np.zeros((64, 64, 3), np.uint16), SIGMA)
    ready = resident("VmRSS")
    start = time.perf_counter()
    report = restorer.file(options.source, scratch / "out.tif", SIGMA)
    wall = time.perf_counter() - start
    kept = {key: report[key] for key in KEPT}
    return kept | {"wall": wall, "ready_mib": ready, "peak_mib": resident("VmHWM"), "memory": options.memory}


def ray(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    import ray as cluster

    mpixel = fill(scratch / "in", options.pictures, options.mpixel)
    fill(scratch / "warm", 4, (0.1, 0.2))
    rates = {}
    for workers in (1, 2):
        cluster.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
        arguments = {"model": MODEL, "sigma": SIGMA, "threads": 1, "ray": "local", "overwrite": True}
        list(fr.batch(scratch / "warm", scratch / "warmed", **arguments))
        start = time.perf_counter()
        records = list(fr.batch(scratch / "in", scratch / "out", **arguments))
        rates[str(workers)] = mpixel / (time.perf_counter() - start)
        assert all(record["ok"] for record in records)
        cluster.shutdown()
    return {"mpixel": mpixel, "mpixel_per_s": rates, "gain": rates["2"] / rates["1"]}


CASES = {"folder": folder, "stream": stream, "ray": ray, "one": one}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=list(CASES))
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--mpixel", type=float, nargs=2, default=(2, 24), metavar=("FROM", "TO"))
    parser.add_argument("--side", type=int, default=20000)
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--source", type=Path, help="of `one`, which stream starts")
    parser.add_argument("--scratch", type=Path, help="a folder for the pictures, on the disk to be measured")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    settle(2 if options.what == "ray" else options.threads, allocator=None)
    scratch = Path(tempfile.mkdtemp(dir=options.scratch))
    try:
        result = CASES[options.what](options, scratch)
    finally:
        shutil.rmtree(scratch)
    if "engine" in result:
        result["share_of_engine"] = result["mpixel_per_s"] / (sum(result["engine"]) / 2)
    result = {"case": options.what, "machine": machine(), "threads": options.threads, "model": MODEL} | result
    if options.what != "one":
        print({key: value for key, value in result.items() if key != "machine"})
    if options.record:
        options.record.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
