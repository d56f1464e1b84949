"""The GPU kernels on the host: builds them against emulator.h with the machine's compiler, and calls them on tensors.

The module is built once for every state of the sources and kept in build/emulated; see emulator.h for what it checks.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
BUILDS = ROOT / "build" / "emulated"
H100 = {"capability": 90, "processors": 2, "shared_limit": 227 << 10}
A100 = {"capability": 80, "processors": 2, "shared_limit": 163 << 10}
RTX = {"capability": 120, "processors": 2, "shared_limit": 99 << 10}


# Beside csrc/cuda: what runs a graph, and reads one from a plan file.
CORE = (
    "base/isa.cc", "base/json.cc", "base/safetensors.cc", "base/sha256.cc", "engine/cuda_copies.cc",
    "engine/cuda_program.cc", "engine/cuda_session.cc", "engine/cuda_steps.cc", "engine/cuda_types.cc",
    "engine/int8.cc", "engine/picture.cc", "engine/plan_file.cc", "engine/precision.cc", "graph/graph.cc",
    "graph/graph_json.cc",
    "kernels/activation/activation.cc", "kernels/activation/baseline.cc", "kernels/arithmetic/arithmetic.cc",
    "kernels/arithmetic/baseline.cc", "kernels/conv2d_int8/conv2d_int8.cc", "kernels/resize/resize.cc",
    "kernels/resize/baseline.cc", "python/bind_cuda.cc")  # fmt: skip


def sources() -> list[Path]:
    csrc = ROOT / "csrc"
    kernels = [path for path in sorted((csrc / "cuda").glob("*.c[cu]")) if path.name != "device.cu"]
    return [*kernels, *(csrc / name for name in CORE), HERE / "module.cc", HERE / "device.cc"]


def missing() -> str:
    """Why the emulation cannot be built here, or an empty text."""
    if shutil.which("g++") is None:
        return "the emulation of GPU kernels needs g++"
    if importlib.util.find_spec("pybind11") is None:
        return "the emulation of GPU kernels needs pybind11"
    return ""


def headers_of(source: Path) -> set[Path]:
    """Our own headers that a file includes, and those that they include."""
    found, left = set(), [source]
    while left:
        for name in re.findall(rb'#include "(.+?)"', left.pop().read_bytes()):
            for folder in (ROOT / "csrc", HERE):
                header = folder / name.decode()
                if header.exists() and header not in found:
                    found.add(header)
                    left.append(header)
    return found


def build(changed: Path | None = None) -> Path:
    """The module.  changed: stands for the file of its name in csrc/cuda."""
    import pybind11

    flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-DFR_EMULATE", "-Wall", "-Wextra"]
    include = [ROOT / "csrc", HERE, pybind11.get_include(), sysconfig.get_paths()["include"]]
    common = hashlib.sha256(" ".join([*flags, pybind11.__version__, sysconfig.get_config_var("EXT_SUFFIX")]).encode())
    BUILDS.mkdir(parents=True, exist_ok=True)

    def compiled(source: Path) -> Path:
        content = common.copy()
        content.update(source.read_bytes())
        for header in sorted(headers_of(source)):
            content.update(header.read_bytes())
        target = BUILDS / f"{source.parent.name}-{source.name}-{content.hexdigest()[:16]}.o"
        if not target.exists():
            own = target.with_suffix(f".{os.getpid()}")
            command = ["g++", *flags, "-Wno-unknown-pragmas", "-x", "c++", *(f"-I{folder}" for folder in include)]
            subprocess.run([*command, "-c", "-o", own, source], check=True)
            own.rename(target)
        return target

    chosen = [changed if changed is not None and source.name == changed.name else source for source in sources()]
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


@dataclass(frozen=True)
class HostImages:
    """What `images` gives for a Gpu: the tensor stays on the host until the call."""

    data: int
    sizes: list[int]
    pitch: list[int]


class Gpu:
    """The same calls on the machine's own GPU: tensors of the host are copied there and, if written, back.

    copy: makes a device's copy of a tensor.  Counts of instructions are not known: they are None.
    """

    def __init__(self, kernels: ModuleType, copy: Callable[[Tensor], Tensor] = lambda tensor: tensor.cuda()):
        self.kernels, self.copy = kernels, copy

    def use(self, device: dict[str, int], seed: int = 1) -> None:
        pytest.skip("a GPU is what it is; other devices are emulated")

    def call(self, function: str, *args, reads: list[Tensor | None], writes: list[Tensor], **named):
        spans = {}  # of the host's storages: bytes, and the address on the device
        copies = []
        for tensor in [*(t for t in reads if t is not None), *writes]:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in spans:
                host = torch.empty(0, dtype=torch.uint8).set_(storage)
                copies.append((host, self.copy(host), any(tensor is t for t in writes)))
                spans[storage.data_ptr()] = (storage.nbytes(), copies[-1][1].data_ptr())

        def there(value):
            if isinstance(value, list):
                return [there(item) for item in value]
            if isinstance(value, HostImages):
                return self.kernels.Images(there(value.data), value.sizes, value.pitch)
            if type(value) is int and value > 1 << 20:  # an address; sizes and counts are smaller
                for begin, (size, device) in spans.items():
                    if begin <= value < begin + size:
                        return device + value - begin
            return value

        try:
            result = getattr(self.kernels, function)(*map(there, args), stream=0, **named)
        except ValueError as error:
            if "cannot do this convolution here" in str(error):
                pytest.skip(str(error))
            raise
        for host, device, written in copies:
            if written:
                host.copy_(device)  # waits for the kernel
        return result, None

    def images(self, tensor: Tensor, channels: int | None = None) -> HostImages:
        n, h, w, c = tensor.shape
        return HostImages(tensor.data_ptr(), [n, h, w, channels or c], list(tensor.stride()[:3]))


class Sessions:
    """Sessions of the emulated GPU, by way of the plan's file."""

    def __init__(self, module, folder):
        self.module, self.path = module, folder / "plan.frp"
        Emulation(module, H100)
        module.announce([])

    def open(self, plan, precision="float32", memory=1 << 40):
        plan.save(self.path)
        return self.module.open_session(str(self.path), precision, memory)

    def run(self, session, image, sigma=None, strength=1.0, clip=False):
        out = np.empty_like(image)
        report = session.run(image, out, sigma, strength, clip, None)
        return out, report


class GpuSessions(Sessions):
    """The same on this machine's GPU, but for what only the emulated driver can tell."""

    def __init__(self):
        pass

    @property
    def module(self) -> ModuleType:
        pytest.skip("this is about the emulated driver")

    def open(self, plan, precision="float32", memory=1 << 40):
        return plan.session(device="cuda", precision=precision, memory=memory)._session


def assert_on_tensor_cores(counts: dict[str, int] | None, instruction: str = "mma", conflicts: float = 0.0) -> None:
    """The emulation counted such instructions, and no more conflicts of banks than this share of the accesses."""
    if counts is not None:
        assert counts[instruction] > 0 and counts["bank_conflicts"] <= conflicts * counts["shared_accesses"], counts


def padded(tensor: Tensor, filling: float = 3.0) -> Tensor:
    """The same values in memory aligned to 16 bytes, a pixel's channels padded with `filling` to a multiple of 8."""
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
