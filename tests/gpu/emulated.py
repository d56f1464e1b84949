"""The GPU kernels on the host: builds them against emulator.h with the machine's own compiler, and calls them on tensors.

The module is built once for every state of the sources and kept in build/emulated; see emulator.h for what it checks.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
BUILDS = ROOT / "build" / "emulated"
H100 = {"capability": 90, "processors": 2, "shared_limit": 227 << 10}
A100 = {"capability": 80, "processors": 2, "shared_limit": 163 << 10}
RTX = {"capability": 120, "processors": 2, "shared_limit": 99 << 10}


def sources(csrc: Path) -> list[Path]:
    return [*sorted((csrc / "cuda").glob("*.c[cu]")), csrc / "python" / "bind_cuda.cc", HERE / "module.cc"]


def missing() -> str:
    """Why the emulation cannot be built here, or an empty text."""
    if shutil.which("g++") is None:
        return "the emulation of GPU kernels needs g++"
    if importlib.util.find_spec("pybind11") is None:
        return "the emulation of GPU kernels needs pybind11"
    return ""


def build(csrc: Path = ROOT / "csrc", only: Path | None = None) -> Path:
    """The module of these sources.  only: of a changed copy of csrc/cuda the one file that differs; objects of the others
    are those of the repository's own build."""
    import pybind11

    flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-DFR_EMULATE", "-Wall", "-Wextra"]
    include = [ROOT / "csrc", HERE, pybind11.get_include(), sysconfig.get_paths()["include"]]
    headers = [*(ROOT / "csrc").glob("**/*.h"), *(ROOT / "csrc" / "cuda").glob("*.cuh"), *HERE.glob("*.h")]
    common = hashlib.sha256(" ".join([*flags, pybind11.__version__, sysconfig.get_config_var("EXT_SUFFIX")]).encode())
    for header in sorted(headers):
        common.update(header.read_bytes())
    BUILDS.mkdir(parents=True, exist_ok=True)

    def compiled(source: Path) -> Path:
        content = common.copy()
        content.update(source.read_bytes())
        target = BUILDS / f"{source.name}-{content.hexdigest()[:16]}.o"
        if not target.exists():
            own = target.with_suffix(f".{os.getpid()}")
            command = ["g++", *flags, "-Wno-unknown-pragmas", "-x", "c++", *(f"-I{folder}" for folder in include)]
            subprocess.run([*command, "-c", "-o", own, source], check=True)
            own.rename(target)
        return target

    chosen = [only if only is not None and source.name == only.name else source for source in sources(csrc)]
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        objects = list(pool.map(compiled, chosen))
    name = hashlib.sha256(" ".join(path.name for path in objects).encode()).hexdigest()[:16]
    module = BUILDS / name / f"fr_emulated{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not module.exists():
        module.parent.mkdir(exist_ok=True)
        own = module.with_suffix(f".{os.getpid()}")
        subprocess.run(["g++", "-shared", "-o", own, *objects], check=True)
        own.rename(module)
    return module


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fr_emulated", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Emulation:
    """Kernels of an emulated device, on tensors [N, H, W, C] whose channels may be padded: see `padded`.

    Every call announces the memory of its tensors, so that a kernel that reads or writes past them fails.
    """

    def __init__(self, module: ModuleType, device: dict[str, int], seed: int = 1):
        self.module, self.kernels = module, module.cuda
        self.use(device, seed)

    def use(self, device: dict[str, int], seed: int = 1) -> None:
        self.module.set_device(**device, seed=seed)

    def call(self, function: str, *args, reads: list[Tensor | None], writes: list[Tensor], **named):
        """Returns what the kernel returns, and the machine's counts."""
        spans = [(t, False) for t in reads if t is not None] + [(t, True) for t in writes]
        self.module.announce(
            [(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes(), writable) for t, writable in spans]
        )
        self.module.take_counts()
        result = getattr(self.kernels, function)(*args, stream=0, **named)
        return result, self.module.take_counts()

    def images(self, tensor: Tensor, channels: int | None = None):
        """The argument that stands for a tensor, or for its first channels."""
        n, h, w, c = tensor.shape
        return self.kernels.Images(tensor.data_ptr(), [n, h, w, channels or c], list(tensor.stride()[:3]))


def padded(tensor: Tensor, filling: float = 3.0) -> Tensor:
    """The same values, a pixel's channels padded to a multiple of 8 with something finite, memory aligned to 16 bytes."""
    n, h, w, c = tensor.shape
    room = torch.full((n, h, w, -(-c // 8) * 8), filling, dtype=tensor.dtype)
    room[..., :c] = tensor
    return room[..., :c]


def poisoned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An output of NaN: what a kernel does not write stays so."""
    return padded(torch.full(shape, float("nan"), dtype=dtype), float("nan"))


def padding_of(tensor: Tensor) -> Tensor:
    """The padding channels of a tensor that `padded` or `poisoned` made."""
    n, h, w, c = tensor.shape
    room = -(-c // 8) * 8
    return tensor.as_strided((n, h, w, room - c), tensor.stride(), tensor.storage_offset() + c)
