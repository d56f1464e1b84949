"""README.md's tables, made from committed results and from the models' cards.

    python benchmarks/tables.py [--check]

A table stands between `<!-- table: NAME FOLDER -->` and `<!-- end -->`; FOLDER holds the results, or the weights.
--check changes nothing and fails if the README differs.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastrestore import checkpoint, zoo
from fastrestore.bench.embedded import FROM_C
from fastrestore.bench.networks import NETWORKS
from fastrestore.bench.suites.models import ALONE

ROOT = Path(__file__).parent.parent
PRECISIONS = "float32", "bfloat16", "int8"
PEERS = {
    "OpenVINO": "OpenVINO",
    "ONNX Runtime": "ONNX Runtime",
    "ncnn": "ncnn",
    "torch compiled, frozen": "torch compiled",
    "torch jit, frozen": "torch jit",
    "torch eager, channels last": "torch eager",
}


def load(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """The folder's results whose names match, in the order of networks, sizes, precisions and threads."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob(pattern))]
    results = [result for result in results if "size" in result]  # whole networks
    pixels = {id(result): [int(side) for side in result["size"].split("x")] for result in results}

    def order(result: dict[str, Any]) -> tuple:
        width, height = pixels[id(result)]
        place = list(NETWORKS).index(result["network"])
        return place, PRECISIONS.index(result.get("precision", "float32")), width * height, result["threads"]

    return sorted(results, key=order)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def uncertain(result: dict[str, Any], name: str) -> str:
    """A ratio and what of it may be noise."""
    ratio = result["ratios"][name]
    return f"x {ratio:.2f} ±{ratio * result['noise'][name]:.2f}"


def speed(folder: Path, isa: str = "") -> str:
    """Times of the peers over ours; the strongest one's in bold.  "over 1 thread": our own time with one over that with
    these.  isa: of the results that all were held to it."""
    rows = []
    for result in load(folder, "*-*x*-*t.json"):
        if result.get("suite", "models") != "models" or "ratios" not in result or result.get("isa", "") != isa:
            continue
        own = result["rows"]["fastrestore"]
        ratios = {name: ratio for name, ratio in result["ratios"].items() if name in PEERS}
        least = min(ratios.values(), default=0.0)
        cells = []
        for name in PEERS:
            text = uncertain(result, name) if name in ratios else ""
            cells.append(f"**{text}**" if ratios.get(name) == least else text)
        about = [NETWORKS[result["network"]].title, result["size"], result["precision"], str(result["threads"])]
        alone = uncertain(result, ALONE) if ALONE in result["ratios"] else ""
        figures = f"{own['ms']:.0f}", f"{own['gflops']:.0f}", f"{result['working_mib']:.0f}"
        rows.append([*about, *figures, alone, *cells])
    head = ["network", "size", "precision", "threads", "ms", "GFLOP/s", "MiB", "over 1 thread", *PEERS.values()]
    return table(head, rows)


def latency(folder: Path) -> str:
    """p50 and p99 in milliseconds of each."""
    rows = []
    for result in load(folder, "latency-*.json"):
        if "rows" not in result:
            continue
        about = [NETWORKS[result["network"]].title, result["size"], str(result["threads"])]
        taken = {name: f"{row['p50_ms']:.2f} / {row['p99_ms']:.2f}" for name, row in result["rows"].items()}
        rows.append([*about, *(taken.get(name, "") for name in ("fastrestore", FROM_C, *PEERS))])
    return table(["network", "size", "threads", "fastrestore", "from C", *PEERS.values()], rows)


def memory(folder: Path) -> str:
    """MiB beyond the picture, the result and what was loaded before."""
    rows = []
    for result in load(folder, "memory-*.json"):
        about = [NETWORKS[result["network"]].title, result["size"], str(result["threads"])]
        taken = {name: row["peak_growth_mib"] - row["result_mib"] for name, row in result["rows"].items()}
        cells = [f"{taken[name]:.0f}" if name in taken else "" for name in ("fastrestore", "fastrestore 64MiB")]
        cells += [f"{taken[name]:.0f}" if name in taken else "" for name in PEERS]
        rows.append([*about, *cells])
    return table(["network", "size", "threads", "fastrestore", "within 64MiB", *PEERS.values()], rows)


def models(folder: Path) -> str:
    """The named models with the figures of their cards."""
    rows = []
    for path in sorted(folder.glob("*.safetensors")):
        card = checkpoint.describe(path).card
        size = f"{card['parameters'] / 1e6:.1f} M, {path.stat().st_size / 1e6:.1f} MB"
        rows.append([f"`{path.stem}`", card["task"], card["family"], "; ".join(zoo.quality(card)), size])
    return table(["name", "task", "family", "PSNR", "parameters"], rows)


def avx2(folder: Path) -> str:
    """speed, with all held to AVX2."""
    return speed(folder, "avx2")


def quality(folder: Path) -> str:
    """PSNR, time, memory and file size of each model and precision, and of classical denoisers."""
    rows = []
    for path in sorted(folder.glob("quality-*.json")):
        result = json.loads(path.read_text())
        for name, row in sorted(result["rows"].items(), key=lambda item: -item[1]["psnr"]):
            file = f"{row['file_mb']:.1f}" if "file_mb" in row else ""
            figures = f"{row['psnr']:.2f}", f"{row['ms_per_mpixel']:.0f}", f"{row['mib_at_1024x1024']:.0f}", file
            rows.append([name, result["set"], f"{result['sigma']:g}", *figures])
    return table(["denoiser", "set", "σ", "PSNR dB", "ms a megapixel", "MiB at 1024x1024", "file MB"], rows)


TABLES: dict[str, Callable[[Path], str]] = {
    "speed": speed,
    "avx2": avx2,
    "latency": latency,
    "memory": memory,
    "quality": quality,
    "models": models,
}
PLACE = re.compile(r"(<!-- table: (\w+) ([\w./-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def made(text: str) -> str:
    """The README with its tables made anew."""

    def fill(match: re.Match) -> str:
        folder = ROOT / match[3]
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not there")
        return f"{match[1]}{TABLES[match[2]](folder)}\n{match[4]}"

    return PLACE.sub(fill, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if README.md differs")
    check = parser.parse_args().check
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    new = made(text)
    if check and new != text:
        sys.exit("README.md's tables are not those of the results: run python benchmarks/tables.py")
    if new != text:
        readme.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
