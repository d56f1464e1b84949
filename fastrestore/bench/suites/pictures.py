"""Whole pictures: a file decoded, restored and encoded, beside peers whose picture Pillow decodes and encodes.

A peer's network has the picture bound beforehand; converting it to floats is done and timed all the same.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastrestore import degrade, image, metrics
from fastrestore.bench.contest import Line, WrongAnswer
from fastrestore.bench.machine import machine
from fastrestore.bench.networks import NETWORKS, SIGMA, sides
from fastrestore.bench.peers import PEERS, Peer, chosen, missing
from fastrestore.bench.timing import FEW_ROUNDS, OURS, table
from fastrestore.restorer import Restorer

AXES = {"network": ["denoise-cnn"], "format": ["png", "jpg"], "size": ["512x512", "1920x1080"], "threads": [1, 2]}
SHORT = [{"network": "denoise-cnn", "format": "png", "size": "1280x720", "peers": "openvino,torch", "rounds": 5}]
QUICK = {"format": ["png"], "size": ["256x128"], "threads": [1]}
QUALITY = 95  # of JPEG, for all
SAME_DB = {"png": 60.0, "jpg": 40.0}  # to ours: half a grey level here and there, and what JPEG makes of that


def name(network: str, format: str, size: str, threads: int = 1, **_: Any) -> str:
    return f"picture-{format}-{network}-{size}-{threads}t"


def run(
    network: str, format: str, size: str, threads: int = 1, peers: str = "all", rounds: int | None = None
) -> dict[str, Any]:
    """network: one that is a named model as well.  size: of the file, WIDTHxHEIGHT."""
    height, width = sides(size)
    pixels = noisy_picture(height, width)
    with tempfile.TemporaryDirectory() as folder:
        source, target = (Path(folder, f"{word}.{format}") for word in ("in", "out"))
        Image.fromarray(pixels).save(source, quality=QUALITY)
        restorer = Restorer(network, threads=threads)
        reference = restorer(np.asarray(Image.open(source)), sigma=SIGMA)

        def check(who: str, result: np.ndarray) -> dict[str, float]:
            same = metrics.psnr(result, reference) if result.shape == reference.shape else 0.0
            if not same > SAME_DB[format]:
                raise WrongAnswer(f"{who}: its picture is {same:.1f} dB from ours")
            return {"psnr_to_ours": round(min(same, 99.0), 1)}

        line = Line(check)

        def ours() -> np.ndarray:
            restorer.file(source, target, sigma=SIGMA)
            return np.asarray(Image.open(target))

        line.make(OURS, lambda: Peer(ours, restorer.info), "fastrestore")
        line.prove(OURS)
        net = NETWORKS[network]
        plain = net.make_plain(net.model(), height, width)
        given = np.asarray(Image.open(source)).astype(np.float32) / 255
        for peer in chosen(peers):
            if reason := missing(peer, "float32"):
                line.left_out[peer] = reason
                continue
            backend = PEERS[peer]

            def make(backend=backend) -> Peer:
                inner = backend.make(plain, given, threads, "float32")
                return Peer(lambda: _with_pillow(source, target, inner.run), inner.settings | {"files": "Pillow"})

            line.admit(peer, make, backend.packages[0])
        compared = line.compare(0.0, threads, rounds)
        stages = _stages(restorer, source, target)
        about = {"file_mb": round(source.stat().st_size / 1e6, 2), "stages_ms": stages}
    what = {"suite": "pictures", "network": network, "format": format, "size": size}
    return {"machine": machine(), **what, **about, **compared}


def noisy_picture(height: int, width: int) -> np.ndarray:
    """[height, width, 3] uint8: waves of several lengths and Gaussian noise, which PNG and JPEG pack as a photo's."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = sum(np.cos(x / length + 2 * np.sin(y / length)) for length in (7.0, 31.0, 113.0)) / 3
    clean = 0.5 + 0.35 * waves[..., None] * np.array([1.0, 0.8, -0.6])
    return np.rint(np.clip(degrade.noise(clean, SIGMA, seed=0), 0, 1) * 255).astype(np.uint8)


def _with_pillow(source: Path, target: Path, restore: Callable[[], np.ndarray]) -> np.ndarray:
    np.asarray(Image.open(source)).astype(np.float32) / 255  # as any program must; the network has it bound already
    result = np.rint(np.clip(restore(), 0, 1) * 255).astype(np.uint8)
    Image.fromarray(result).save(target, quality=QUALITY)
    return np.asarray(Image.open(target))


def _stages(restorer: Restorer, source: Path, target: Path) -> dict[str, float]:
    """Milliseconds of our three stages, the best of three: where a picture's time goes."""
    taken: dict[str, list[float]] = {"decode": [], "restore": [], "encode": []}
    for _ in range(3):
        marks = [time.perf_counter()]
        picture = image.read(source)
        marks.append(time.perf_counter())
        picture.pixels = restorer(picture.pixels, sigma=SIGMA)
        marks.append(time.perf_counter())
        image.write(target, picture, quality=QUALITY)
        marks.append(time.perf_counter())
        for stage, start, end in zip(taken, marks, marks[1:], strict=False):
            taken[stage].append(1e3 * (end - start))
    return {stage: round(min(values), 2) for stage, values in taken.items()}


def again(options: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """The options of the same case in a second process."""
    return options | {"rounds": min(result["rounds"], FEW_ROUNDS)}


def text(result: dict[str, Any]) -> str:
    title = f"{result['format']} file of {result['size']}, {result['network']}, decoded, restored, encoded"
    stages = ", ".join(f"{stage} {ms:.0f} ms" for stage, ms in result["stages_ms"].items())
    return f"{table(title, result)}\n  ours: {stages}"
