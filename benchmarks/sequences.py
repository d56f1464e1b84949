"""What models for clips, bursts and guided pictures gain over their siblings for single pictures.

python benchmarks/sequences.py [SUITE ...] [--clips 8] [--twin FILE] [--json FILE] [--record]

FASTRESTORE_DATA names the folder of test data.  Simulated clips are of CBSD68 pictures, which no model was trained on,
with seeds of their own: eight frames of 144 x 144 pixels (denoise: moving parts, white noise) or 176 x 176 (demoire:
filmed screens; deblur: a shaken camera).  Real clips: parts of GoPro frames (Set8) and of a film of a cockatoo, with
noise added; four blurred frames in a row of GoPro's, of which one has its sharp frame.
Warping error: the mean square of the difference between a result and the one before it, carried by the clean frames'
flow where that explains them, in squares of grey levels; of all that is explained, and of what stands still and moves.
Guides: synthesised of the picture, of another one (useless: left out, or taken all the same), a flash shot that
lies three pixels aside, and an even grey one.  --twin names the file of denoise-guided's twin without a guide, which
recipes/denoise-unguided.toml trains.
"""

import argparse
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import fastrestore as fr
from fastrestore import align, burst, checkpoint, degrade, image, metrics, zoo

FRAMES, SIDE, WIDE = 8, 144, 176
MOVES = 0.5  # pixels a frame: what moves by less stands still
SIGMA, SIGMAS = 25, (15, 25, 50)
TWIN = "unguided twin"  # of denoise-guided
Clip = list[np.ndarray]  # float32 [H, W, 3] in [0, 1]


def pictures(data: Path, count: int) -> list[np.ndarray]:
    """So many of CBSD68's, float32."""
    paths = sorted((data / "testsets/cbsd68").iterdir())
    return [image.read(path).pixels.astype(np.float32) / 255 for path in paths[:: len(paths) // count][:count]]


def noisy(data: Path, count: int, sigma: float) -> dict[str, Iterator[tuple[Clip, Clip]]]:
    """Clips with white noise of one level, and their clean frames, by set."""

    def pairs(clips: list[Clip]) -> Iterator[tuple[Clip, Clip]]:
        for clean in clips:
            rng = np.random.RandomState(0)
            yield [degrade.noise(x, sigma, seed=int(rng.randint(1 << 30))).astype(np.float32) for x in clean], clean

    simulated = [
        list(degrade.handheld(p, FRAMES, SIDE, seed=1000 + i).clean) for i, p in enumerate(pictures(data, count))
    ]
    return {"simulated": pairs(simulated), "gopro": pairs([gopro(data)]), "cockatoo": pairs([cockatoo(data)])}


def gopro(data: Path) -> Clip:
    frames = [image.read(path).pixels for path in sorted((data / "video/gopro540_hypersmooth").glob("*.png"))]
    return [np.ascontiguousarray(frame[100:420, 300:700]).astype(np.float32) / 255 for frame in frames]


def cockatoo(data: Path) -> Clip:
    import av

    with av.open(str(data / "video/cockatoo.mp4")) as file:
        frames = [
            frame.to_ndarray(format="rgb24") for frame, _ in zip(file.decode(video=0), range(FRAMES), strict=False)
        ]
    return [frame[200:500, 400:800].astype(np.float32) / 255 for frame in frames]


def degraded(data: Path, count: int, kind: str) -> Iterator[tuple[Clip, Clip]]:
    """Clips of a kind of degrade.CLIPS, as 8 bits give them back, and their clean frames."""
    for i, picture in enumerate(pictures(data, count)):
        if kind == "shaken":
            made = degrade.shaken(picture, FRAMES, WIDE, seed=5000 + i)
        else:
            top, left = ((size - WIDE) // 2 for size in picture.shape[:2])
            part = np.ascontiguousarray(picture[top : top + WIDE, left : left + WIDE])
            made = degrade.CLIPS[kind](part, FRAMES, seed=5000 + i)
        yield tuple([_bytes(frame) / np.float32(255) for frame in part] for part in (made.image, made.clean))


def warping_error(results: Clip, clean: Clip) -> list[float]:
    """Of all, of what stands still and of what moves (NaN where nothing does)."""
    errors = []
    for (before, now), (clean_before, clean_now) in zip(pairwise(results), pairwise(clean), strict=True):
        flow = align.flow(align.outline(clean_now), align.outline(clean_before))
        known = np.abs(align.warp(clean_before, flow) - clean_now).max(2) < 8 / 255
        error = np.square(255 * (align.warp(before, flow) - now)).mean(2)
        still = np.hypot(*flow.transpose(2, 0, 1)) < MOVES
        errors.append(
            [error[known & part].mean() if (known & part).any() else np.nan for part in (True, still, ~still)]
        )
    return np.nanmean(errors, 0).tolist() if len(errors) else [np.nan] * 3


def compared(
    names: tuple[str, str], clips: Iterator[tuple[Clip, Clip]], precision: str, **told: float
) -> dict[str, Any]:
    """Means over clips of a model for clips and its sibling: PSNR of all frames, of the fourth, and warping errors."""
    ours, sibling = (fr.Restorer(name, precision=precision, threads=1) for name in names)
    rows: dict[str, list[list[float]]] = {name: [] for name in (*names, "input")}
    for frames, clean in clips:
        for name, results in (
            (names[0], list(ours.stream(frames, **told))),
            (names[1], [sibling(frame, **told) for frame in frames]),
            ("input", frames),
        ):
            scores = [metrics.psnr(_bytes(a), _bytes(b)) for a, b in zip(results, clean, strict=True)]
            rows[name].append([float(np.mean(scores)), scores[3], *warping_error(results, clean)])
    keys = ("psnr", "psnr of the fourth", "warping error", "warping error, still", "warping error, moving")
    return {name: dict(zip(keys, np.nanmean(row, 0).round(2).tolist(), strict=True)) for name, row in rows.items()}


def bursts(data: Path, count: int, precision: str) -> dict[str, Any]:
    """deblur-burst with the first 2, 4 and 8 shots of each clip against deblur-cnn with the sharpest of them."""
    ours, sibling = (fr.Restorer(name, precision=precision, threads=1) for name in ("deblur-burst", "deblur-cnn"))
    rows: dict[int, list[list[float]]] = {2: [], 4: [], 8: []}
    for shots, clean in degraded(data, count, "shaken"):
        for number, row in rows.items():
            reference, others, notices = burst.chosen([align.outline(shot) for shot in shots[:number]], None)
            given = [shots[i] for i in (*others, reference)]
            results = ours.burst(given, reference=len(others), notices=notices), sibling(shots[reference]), given[-1]
            row.append([metrics.psnr(_bytes(result), _bytes(clean[reference])) for result in results])
    keys = ("deblur-burst", "deblur-cnn", "input")
    return {str(n): dict(zip(keys, np.mean(row, 0).round(2).tolist(), strict=True)) for n, row in rows.items()}


def guidance(data: Path, count: int, precision: str, twin: Path | None) -> dict[str, Any]:
    """denoise-guided with guides of each kind, without one, and with useless ones; and models without guides."""
    others = {"denoise-gan": "denoise-gan", "denoise-cnn": "denoise-cnn"} | ({TWIN: str(twin)} if twin else {})
    ours, *unguided = (
        fr.Restorer(name, precision=precision, threads=1) for name in ("denoise-guided", *others.values())
    )
    taken = fr.compile(fr.load("denoise-guided"), precision).session(threads=1)  # with a guide as it is
    clean = pictures(data, count)
    guides: dict[str, Callable[[int], np.ndarray | None]] = {
        kind: lambda i, kind=kind: _guide(clean[i], kind, i) for kind in degrade.GUIDES
    }
    guides["none"] = lambda i: None
    guides["aside"] = lambda i: _guide(clean[i], "flash", i, shift=(2.1, 2.1))
    guides["even"] = lambda i: np.full_like(clean[i], 0.5)
    guides["useless"] = lambda i: cv2.resize(_guide(clean[i - 1], "flash", i), clean[i].shape[1::-1])
    warnings.simplefilter("ignore")  # that a useless guide is left out
    result: dict[str, Any] = {}
    for sigma in SIGMAS:
        given = [degrade.noise(picture, sigma, seed=0).astype(np.float32) for picture in clean]
        results = {
            f"denoise-guided, {name}": [ours(x, sigma=sigma, guide=guide(i)) for i, x in enumerate(given)]
            for name, guide in guides.items()
        }
        for name in ("aside", "even", "useless"):
            results[f"denoise-guided, {name}, taken"] = [
                taken.run(x, sigma=sigma, guide=guides[name](i)) for i, x in enumerate(given)
            ]
        results |= {
            name: [restorer(x, sigma=sigma) for x in given] for name, restorer in zip(others, unguided, strict=True)
        }
        result[str(sigma)] = {
            name: round(float(np.mean([metrics.psnr(_bytes(a), _bytes(b)) for a, b in zip(x, clean, strict=True)])), 2)
            for name, x in results.items()
        }
    return result


def _guide(picture: np.ndarray, kind: str, seed: int, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    rng = np.random.default_rng([9000, seed])
    return degrade.guide(picture, replace(degrade.Guide.random(rng, kind), shift=shift), seed=rng).image


def gopro_blur(data: Path, precision: str) -> dict[str, float]:
    """Part of the third of four blurred frames in a row, which has its sharp frame: PSNR."""
    folder = data / "blur"
    paths = [folder / f"gopro_clip/blur_0000{n}.png" for n in (12, 13, 15)]
    paths.insert(2, folder / "gopro/blur_00.png")
    *frames, sharp = (
        np.ascontiguousarray(image.read(path).pixels[200:600, 300:900])
        for path in (*paths, folder / "gopro/sharp_00.png")
    )
    of = {
        name: fr.Restorer(name, precision=precision, threads=1) for name in ("deblur-rnn", "deblur-burst", "deblur-cnn")
    }
    results = {
        "deblur-rnn": list(of["deblur-rnn"].stream(frames))[2],
        "deblur-burst": of["deblur-burst"].burst(frames, reference=2, notices=[]),
        "deblur-cnn": of["deblur-cnn"](frames[2]),
        "input": frames[2],
    }
    return {name: round(metrics.psnr(result, sharp), 2) for name, result in results.items()}


def _bytes(x: np.ndarray) -> np.ndarray:
    return np.rint(x.clip(0, 1) * 255).astype(np.uint8)


def denoise(data: Path, count: int, precision: str) -> dict[str, Any]:
    sets = noisy(data, count, SIGMA)
    about = {"sigma": SIGMA}
    return about | {
        name: compared(("denoise-rnn", "denoise-cnn"), clips, precision, sigma=SIGMA) for name, clips in sets.items()
    }


def demoire(data: Path, count: int, precision: str) -> dict[str, Any]:
    clips = degraded(data, count, "moving-moire")
    return {"simulated": compared(("demoire-rnn", "demoire-cnn"), clips, precision)}


def deblur(data: Path, count: int, precision: str) -> dict[str, Any]:
    clips = degraded(data, count, "shaken")
    simulated = compared(("deblur-rnn", "deblur-cnn"), clips, precision)
    return {"simulated": simulated, "bursts": bursts(data, count, precision), "gopro": gopro_blur(data, precision)}


SUITES = {"denoise": denoise, "demoire": demoire, "deblur": deblur, "guidance": guidance}


def record(result: dict[str, Any]) -> None:
    """Writes what was measured into the cards of the shipped models."""
    for suite, name, kind in (("demoire", "demoire-rnn", "moire"), ("deblur", "deblur-rnn", "blur")):
        if suite in result:
            rows = result[suite]["simulated"]
            ours, before = rows[name], rows["input"]
            errors = {of: row["warping error"] for of, row in rows.items()}
            sibling = f"{suite}-cnn"
            psnr = {kind: ours["psnr"], f"{kind} input": before["psnr"], f"{kind} {sibling}": rows[sibling]["psnr"]}
            _record(name, {"psnr": {"simulated clips": psnr}, "warping_error": {"simulated clips": errors}})
    if "denoise" in result:
        rows = {name: clips for name, clips in result["denoise"].items() if isinstance(clips, dict)}
        ours, sibling = "denoise-rnn", "denoise-cnn"
        level = str(result["denoise"]["sigma"])
        of = {"simulated": "simulated clips"}
        sets = {
            of.get(name, name): {level: clips[ours]["psnr"], f"{level} {sibling}": clips[sibling]["psnr"]}
            for name, clips in rows.items()
        }
        errors = {
            of.get(name, name): {model: clips[model]["warping error"] for model in (ours, sibling)}
            for name, clips in rows.items()
        }
        _record(ours, {"psnr": sets, "warping_error": errors})
    if "deblur" in result:
        sets = {}
        for number, row in result["deblur"]["bursts"].items():
            psnr = {"blur": row["deblur-burst"], "blur input": row["input"], "blur deblur-cnn": row["deblur-cnn"]}
            sets[f"bursts of {number}"] = psnr
        _record("deblur-burst", {"psnr": sets})
    if "guidance" in result:
        rows = {sigma: row for sigma, row in result["guidance"].items() if sigma.isdigit()}
        sets = {
            f"{result['guidance']['clips']} of CBSD68, guide: {guide}": {
                sigma: row[f"denoise-guided, {guide}"] for sigma, row in rows.items()
            }
            for guide in (*degrade.GUIDES, "none", "useless")
        }
        if TWIN in rows[str(SIGMA)]:
            sets[f"{result['guidance']['clips']} of CBSD68, {TWIN}"] = {sigma: row[TWIN] for sigma, row in rows.items()}
        _record("denoise-guided", {"psnr": sets})


def _record(name: str, figures: dict[str, Any]) -> None:
    path = zoo.find(name).path
    checkpoint.rewrite_card(path, {**checkpoint.describe(path).card, **figures})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)}; all where none is given")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--twin", type=Path, help="denoise-guided's twin without a guide: a model file")
    parser.add_argument("--json", type=Path, help="suites that are not measured keep what stands there")
    parser.add_argument("--record", action="store_true", help="write the figures into the models' cards")
    options = parser.parse_args()
    unknown = set(options.suites) - set(SUITES)
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}: there are {', '.join(SUITES)}")
    cv2.setNumThreads(1)
    data, measured = Path(os.environ["FASTRESTORE_DATA"]), {}
    suites = SUITES | {"guidance": partial(guidance, twin=options.twin)}
    for name in options.suites or SUITES:
        measured[name] = {"precision": options.precision, "clips": options.clips}
        measured[name] |= suites[name](data, options.clips, options.precision)
        print(name, json.dumps(measured[name]), flush=True)
    if options.json:
        known = json.loads(options.json.read_text()) if options.json.exists() else {}
        options.json.write_text(json.dumps(known | measured, indent=2) + "\n")
    if options.record:
        record(measured)


if __name__ == "__main__":
    main()
