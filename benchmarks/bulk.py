"""What folders, files larger than memory and a cluster cost beside the engine on arrays in memory.

    python benchmarks/bulk.py folder [--pictures 200] [--mpixel 2 24] [--rounds 4] [--threads 2]
    python benchmarks/bulk.py stream [--side 20000] [--memory 512MiB] [--threads 2]
    python benchmarks/bulk.py ray [--pictures 32] [--mpixel 1 3] [--rounds 2]

folder: megapixels a second of `fastrestore batch` over pictures of mixed sizes and formats, in rounds, as a share of
what the engine does with pictures of these sizes as arrays before and after each round.  stream: the same of one
16-bit TIFF in tiles, restored within a budget in a process of its own, and that process's peak of resident memory.
ray: two local workers of one thread, in turns with one.  Prints the result as JSON on the last line; --record FILE
keeps it.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

import fastrestore as fr
from fastrestore import image as images
from fastrestore.bench.machine import Watch, machine, resident
from fastrestore.bench.process import settle
from fastrestore.tiffwriter import Codec

MODEL, SIGMA = "denoise-cnn", 15.0
KINDS = ".png", ".jpg", ".tif"
KEPT = "stages", "shares", "bottleneck", "waited", "parts"  # of a report
TILE = 512  # pixels a side
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


def fill(folder: Path, wanted: list[tuple[int, int]]) -> float:
    """Writes a picture of each height and width, in turns of the kinds, if the folder is not there yet; returns their
    megapixels."""
    if not folder.exists():
        making = folder.with_suffix(".part")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        large = made(*np.max(wanted, 0), 0)  # they are parts of it
        for n, (height, width) in enumerate(wanted):
            bottom, right = large.shape[0] - 3 * n % (large.shape[0] - height + 1), large.shape[1]
            part = np.ascontiguousarray(large[bottom - height : bottom, right - width : right])
            images.write(making / f"{n:04}{KINDS[n % len(KINDS)]}", images.Image(part))
        making.rename(folder)
    return sum(height * width for height, width in wanted) / 1e6


def engine_rate(arrays: list[np.ndarray], restorer: fr.Restorer) -> tuple[float, float]:
    """Megapixels a second, and a CPU second, of the restorer on arrays."""
    start, cpu = time.perf_counter(), time.process_time()
    for array in arrays:
        restorer(array, SIGMA)
    mpixel = sum(array.shape[0] * array.shape[1] for array in arrays) / 1e6
    return mpixel / (time.perf_counter() - start), mpixel / (time.process_time() - cpu)


def compared(
    mpixel: list[float], rates: list[tuple[float, float]], engine: list[tuple[float, float]]
) -> dict[str, Any]:
    """Rates of rounds, of so many megapixels, as shares of the engine's before and after each; both a second and a CPU
    second, in which what else the machine did counts less."""
    around = [np.mean(pair, 0) for pair in pairwise(engine)]
    shares = np.array([np.divide(rate, other) for rate, other in zip(rates, around, strict=True)])
    whole = [sum(mpixel) / sum(m / rate[n] for m, rate in zip(mpixel, rates, strict=True)) for n in (0, 1)]
    return {
        "mpixel": sum(mpixel),
        "mpixel_per_s": whole[0],
        "mpixel_per_cpu_s": whole[1],
        "engine_mpixel_per_s": [rate for rate, _ in engine],
        "engine_mpixel_per_cpu_s": [rate for _, rate in engine],
        "share_of_engine_each": shares[:, 0].tolist(),
        "share_of_engine": float(np.average(shares[:, 0], weights=mpixel)),
        "share_of_engine_in_cpu_s": float(np.average(shares[:, 1], weights=mpixel)),
    }


def folder(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    every = sizes(options.pictures, options.mpixel)
    order = np.random.default_rng(0).permutation(options.pictures)
    chosen = options.only or range(options.rounds)
    parts = [[every[n] for n in np.array_split(order, options.rounds)[k]] for k in chosen]
    inputs = [(options.inputs or scratch) / f"in{k}" for k in chosen]
    mpixel = [fill(place, part) for place, part in zip(inputs, parts, strict=True)]
    arrays = [made(*size, seed) for seed, size in enumerate(every[:: max(1, options.pictures // SAMPLED)])]
    arguments = {"model": MODEL, "precision": options.precision, "threads": options.threads}
    restorer = fr.Restorer(**arguments)
    engine_rate(arrays[:1], restorer)
    engine, rates, shares, watch = [engine_rate(arrays, restorer)], [], [], Watch()
    for n, part in enumerate(mpixel):
        start, cpu = time.perf_counter(), time.process_time()
        records = list(fr.batch(inputs[n], scratch / f"out{n}", sigma=SIGMA, **arguments))
        seconds = time.perf_counter() - start
        assert all(record["ok"] for record in records)
        rates.append((part / seconds, part / (time.process_time() - cpu)))
        busy = {stage: sum(r["seconds"][stage] for r in records) for stage in records[0]["seconds"]}
        shares.append({stage: round(value / seconds, 3) for stage, value in busy.items()})
        shutil.rmtree(scratch / f"out{n}")
        engine.append(engine_rate(arrays, restorer))
    return compared(mpixel, rates, engine) | {"shares_of_time": shares} | watch.report([])


def stream(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    side, source = options.side, scratch / "in.tif"
    pack = Codec(TILE, TILE, 3, "uint16", 8, True, 0).pack
    tiles = [pack(made(TILE, TILE, seed, np.uint16)) for seed in range(8)]
    each = (tiles[n % len(tiles)] for n in range(math.ceil(side / TILE) ** 2))
    layout = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "zlib", "predictor": True, "metadata": None}
    tifffile.imwrite(source, each, shape=(side, side, 3), dtype=np.uint16, bigtiff=True, **layout)
    restorer = fr.Restorer(MODEL, threads=options.threads, precision=options.precision, memory=options.memory)
    array = [made(4000, 4000, 0, np.uint16)]
    engine_rate(array, restorer)
    engine, watch = [engine_rate(array, restorer)], Watch()
    arguments = ["--source", source, "--memory", options.memory, "--threads", options.threads, "--scratch", scratch]
    command = [sys.executable, __file__, "one", "--precision", options.precision, *map(str, arguments)]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    report = {key: report[key] for key in (*KEPT, "wall", "cpu", "ready_mib", "peak_mib", "memory")}
    engine.append(engine_rate(array, restorer))
    mpixel = side * side / 1e6
    rate = mpixel / report.pop("wall"), mpixel / report.pop("cpu")
    return compared([mpixel], [rate], engine) | report | watch.report([])


def one(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Restores one file and says what memory that took, beyond the process when its model was ready."""
    restorer = fr.Restorer(MODEL, threads=options.threads, precision=options.precision, memory=options.memory)
    restorer(np.zeros((64, 64, 3), np.uint16), SIGMA)
    ready = resident("VmRSS")
    start, cpu = time.perf_counter(), time.process_time()
    report = restorer.file(options.source, scratch / "out.tif", SIGMA)
    spent = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    kept = {key: report[key] for key in KEPT}
    return kept | spent | {"ready_mib": ready, "peak_mib": resident("VmHWM"), "memory": options.memory}


def ray(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    import ray as cluster

    order = np.random.default_rng(0).permutation(options.pictures)
    mpixel = fill(scratch / "in", [sizes(options.pictures, options.mpixel)[n] for n in order])
    fill(scratch / "warm", sizes(4, (0.1, 0.2)))
    rates: dict[str, list[float]] = {"1": [], "2": []}
    arguments = {"model": MODEL, "precision": options.precision, "sigma": SIGMA, "threads": 1, "ray": "local"}
    watch = Watch()
    for workers in (1, 2) * options.rounds:
        cluster.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
        list(fr.batch(scratch / "warm", scratch / "warmed", overwrite=True, **arguments))
        start = time.perf_counter()
        records = list(fr.batch(scratch / "in", scratch / "out", overwrite=True, **arguments))
        rates[str(workers)].append(mpixel / (time.perf_counter() - start))
        assert all(record["ok"] for record in records)
        cluster.shutdown()
    gain = sum(rates["2"]) / sum(rates["1"])
    return {"mpixel": mpixel, "mpixel_per_s": rates, "gain": gain} | watch.report([], daemons=True)


CASES = {"folder": folder, "stream": stream, "ray": ray, "one": one}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=list(CASES))
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--mpixel", type=float, nargs=2, default=(2, 24), metavar=("FROM", "TO"))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--only", type=int, nargs="+", help="rounds of folder, counted from 0, where all take too long")
    parser.add_argument("--side", type=int, default=20000)
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--source", type=Path, help="of `one`, which stream starts")
    parser.add_argument("--inputs", type=Path, help="where folder's pictures lie, or are to be made and kept")
    parser.add_argument("--scratch", type=Path, help="a folder for the pictures, on the disk to be measured")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    settle(2 if options.what == "ray" else options.threads, allocator=None)
    scratch = Path(tempfile.mkdtemp(dir=options.scratch))
    try:
        result = CASES[options.what](options, scratch)
    finally:
        shutil.rmtree(scratch)
    threads = 1 if options.what == "ray" else options.threads  # of a worker
    about = {"case": options.what, "machine": machine(), "threads": threads, "model": MODEL}
    result = about | {"precision": options.precision} | result
    if options.what != "one":
        print({key: value for key, value in result.items() if key != "machine"})
    if options.record:
        options.record.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
