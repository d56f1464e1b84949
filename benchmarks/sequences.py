"""What denoise-rnn gains over denoise-cnn, frame by frame: PSNR and steadiness on clips with noise of one level.

python benchmarks/sequences.py [--sigma 25] [--clips 8] [--json FILE]    FASTRESTORE_DATA names the folder of test data

Simulated clips: moving parts of CBSD68 pictures, eight frames of 144 x 144 pixels; the fourth is what a burst of
four gives.  Real clips: parts of GoPro frames (Set8) and of a film of a cockatoo.  Steadiness: the mean square of the
difference between a result and the one before it, carried by the clean frames' flow where that explains them.
"""

import argparse
import json
import os
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

import fastrestore as fr
from fastrestore import align, degrade, image, metrics

FRAMES, SIDE = 8, 144


def simulated(data: Path, count: int) -> list[list[np.ndarray]]:
    """Clips of clean frames, float32 [H, W, 3]."""
    paths = sorted((data / "testsets/cbsd68").iterdir())
    pictures = [image.read(path).pixels.astype(np.float32) / 255 for path in paths[:: len(paths) // count][:count]]
    return [list(degrade.handheld(p, FRAMES, SIDE, seed=1000 + i).clean) for i, p in enumerate(pictures)]


def gopro(data: Path) -> list[np.ndarray]:
    frames = [image.read(path).pixels for path in sorted((data / "video/gopro540_hypersmooth").glob("*.png"))]
    return [np.ascontiguousarray(frame[100:420, 300:700]).astype(np.float32) / 255 for frame in frames]


def cockatoo(data: Path) -> list[np.ndarray]:
    import av

    with av.open(str(data / "video/cockatoo.mp4")) as file:
        frames = [
            frame.to_ndarray(format="rgb24") for frame, _ in zip(file.decode(video=0), range(FRAMES), strict=False)
        ]
    return [frame[200:500, 400:800].astype(np.float32) / 255 for frame in frames]


def steadiness(results: list[np.ndarray], clean: list[np.ndarray]) -> float:
    """The warping error, in squares of grey levels of 255."""
    errors = []
    for (before, now), (clean_before, clean_now) in zip(pairwise(results), pairwise(clean), strict=True):
        flow = align.flow(align.outline(clean_now), align.outline(clean_before))
        known = np.abs(align.warp(clean_before, flow) - clean_now).max(2) < 8 / 255
        errors.append(np.square(255 * (align.warp(before, flow) - now))[known].mean())
    return float(np.mean(errors))


def measure(clips: list[list[np.ndarray]], sigma: float, precision: str) -> dict[str, dict[str, float]]:
    """Means over clips for both models: PSNR of all frames, of the fourth, and steadiness."""
    rnn, cnn = (fr.Restorer(name, precision=precision, threads=1) for name in ("denoise-rnn", "denoise-cnn"))
    rows: dict[str, list[list[float]]] = {"denoise-rnn": [], "denoise-cnn": []}
    for clean in clips:
        noise = np.random.RandomState(0)
        noisy = [degrade.noise(frame, sigma, seed=int(noise.randint(1 << 30))).astype(np.float32) for frame in clean]
        for name, results in (
            ("denoise-rnn", list(rnn.stream(noisy, sigma=sigma))),
            ("denoise-cnn", [cnn(frame, sigma=sigma) for frame in noisy]),
        ):
            scores = [metrics.psnr(_bytes(a), _bytes(b)) for a, b in zip(results, clean, strict=True)]
            rows[name].append([float(np.mean(scores)), scores[3], steadiness(results, clean)])
    keys = ("psnr", "psnr of the fourth", "warping error")
    return {name: dict(zip(keys, np.mean(row, 0).round(2).tolist(), strict=True)) for name, row in rows.items()}


def _bytes(x: np.ndarray) -> np.ndarray:
    return np.rint(x.clip(0, 1) * 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sigma", type=float, default=25)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    data = Path(os.environ["FASTRESTORE_DATA"])
    sets = {"simulated": simulated(data, options.clips), "gopro": [gopro(data)], "cockatoo": [cockatoo(data)]}
    result = {"sigma": options.sigma, "precision": options.precision}
    for name, clips in sets.items():
        result[name] = measure(clips, options.sigma, options.precision)
        print(name, json.dumps(result[name]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
