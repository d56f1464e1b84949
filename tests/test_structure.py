"""Dependencies run one way: a file may use the layers above its own, never one below (docs/design.md)."""

import ast
import re
from pathlib import Path

import fastrestore

ROOT = Path(__file__).parent.parent

# Lowest layer first; a name stands for a folder or a file of csrc/ or fastrestore/.
NATIVE = ["base", "simd", "kernels", "cuda", "graph", "engine", "include", "capi", "python"]
PYTHON = [
    ["errors"],
    ["core", "deflate", "files"],
    ["png", "raw", "tiff", "tiffwriter", "image", "metrics", "estimate", "align"],
    ["triton"],
    ["ops"],
    ["layers"],
    ["models"],
    ["checkpoint", "convert", "foreign", "zoo"],
    ["lower_values", "lower_layers", "lower_ops", "lower", "calibrate", "plan", "engine"],
    ["plancache", "tiled", "stream", "burst", "guide"],
    ["planview"],
    ["sources"],
    ["sinks"],
    ["dicom", "geo"],
    ["flow"],
    ["pieces"],
    ["restorer"],
    ["shots", "degrade", "data", "evaluate", "video"],
    ["jobs"],
    ["bulk"],
    ["cluster"],
    ["train", "bench"],
    ["cli"],
    ["__main__"],
]
# The public name fr.models() is this package called, and zoo makes the list; fr.batch() hands its jobs to a cluster.
ALLOWED = {("models/__init__.py", "zoo"), ("bulk.py", "cluster")}


def native_violations(files: dict[Path, str]) -> list[str]:
    found = []
    for path, text in files.items():
        own = NATIVE.index(path.parts[0])
        for include in re.findall(r'#include "([a-z0-9_]+)/', text):
            if include not in NATIVE:
                found.append(f"{path} includes unknown layer {include}")
            elif NATIVE.index(include) > own:
                found.append(f"{path} includes {include}, which lies above it")
        if path.parts[0] != "python" and re.search(r"#include <(pybind11|torch|Python)", text):
            found.append(f"{path} knows Python or torch")
    return found


def imports(text: str) -> set[str]:
    """The first-level parts of fastrestore that a source file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastrestore":
            parts = node.module.split(".")
            names = {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
            found |= {fastrestore._HOMES.get(name, name) for name in names}  # a public name counts as its home
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("fastrestore.")}
    return found


def python_violations(files: dict[Path, str]) -> list[str]:
    rank = {name: level for level, names in enumerate(PYTHON) for name in names}
    found = []
    for path, text in files.items():
        own = path.parts[0].removesuffix(".py")
        if own == "__init__":
            continue  # the public names: imports everything, and nothing imports it
        if own not in rank:
            found.append(f"{path} belongs to no layer: add it to PYTHON in this test")
            continue
        for used in imports(text) - {"_C"}:
            if rank.get(used, 99) > rank[own] and (path.as_posix(), used) not in ALLOWED:
                found.append(f"{path} imports {used}, which lies above it")
        if "_C" in imports(text) and own != "core":
            found.append(f"{path} imports _C past core")
    return found


def read(folder: Path, *suffixes: str) -> dict[Path, str]:
    return {p.relative_to(folder): p.read_text() for p in sorted(folder.rglob("*")) if p.suffix in suffixes}


def test_native_layers():
    assert native_violations(read(ROOT / "csrc", ".h", ".cc", ".inc", ".cu", ".cuh")) == []


def test_python_layers():
    assert python_violations(read(ROOT / "fastrestore", ".py")) == []


def test_the_check_sees_a_violation():
    assert native_violations({Path("kernels/a.cc"): '#include "graph/graph.h"'})
    assert native_violations({Path("engine/a.cc"): "#include <torch/torch.h>"})
    assert python_violations({Path("ops/a.py"): "from fastrestore.restorer import Restorer"})
    assert python_violations({Path("metrics.py"): "from fastrestore import engine"})
