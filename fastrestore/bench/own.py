"""Kernels that someone brings: judged against ours and the peers.  docs/benchmark.md is their author's manual.

A file of Python registers functions by @kernel; of a shared library a C function is named as FILE.so:SYMBOL.  They are
code that runs with the rights of whoever names them.
"""

import ctypes
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrestore.bench.operators import CASES, Arguments, Problem
from fastrestore.bench.peers import Peer
from fastrestore.bench.process import Skipped
from fastrestore.bench.timing import OURS
from fastrestore.errors import ModelError

OPERATORS = sorted({problem.operator for problem in CASES.values()})
POINTERS = {"conv2d": ("x", "weight", "bias")}  # a C function is given these, the result, then the sizes
INTERPRETED = "right by Triton's interpreter; not timed, as there is no GPU"


@dataclass(frozen=True)
class Kernel:
    """call(**arguments, out=..., threads=...) computes the operator into `out`."""

    name: str
    operator: str
    call: Callable[..., Any]
    device: str = "cpu"  # or cuda: given tensors on the GPU

    @property
    def untimed(self) -> str | None:
        """Why it can be checked, but not timed."""
        return INTERPRETED if self.device == "cuda" and not torch.cuda.is_available() else None

    def make(self, problem: Problem, given: Arguments, threads: int) -> Peer:
        """The contestant.  Raises Skipped for a GPU kernel where there is none."""
        if self.device == "cuda":
            return self._make_on_gpu(problem, given)
        out = problem.result(given)
        arrays = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in given.items()}
        written = out.numpy()

        def run() -> Tensor:
            self.call(**arrays, out=written, threads=threads)
            return out

        _spoil(out)
        return Peer(run)

    def _make_on_gpu(self, problem: Problem, given: Arguments) -> Peer:
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if not torch.cuda.is_available() and not interpreted:
            raise Skipped("needs a GPU; TRITON_INTERPRET=1 checks the answer of a Triton kernel without one")
        device = "cpu" if interpreted else "cuda"
        out = problem.result(given).to(device)
        tensors = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in given.items()}

        def run() -> Tensor:
            self.call(**tensors, out=out)
            if device == "cuda":
                torch.cuda.synchronize()
            return out

        _spoil(out)
        return Peer(run)


def _spoil(out: Tensor) -> None:
    """What a kernel leaves unwritten must not look right."""
    out.view(torch.uint8).fill_(0xFF)


_registered: list[Kernel] = []


def kernel(operator: str, name: str = "", device: str = "cpu") -> Callable[[Callable], Callable]:
    """Registers a function for `fastrestore bench own FILE`.

    operator: one of OPERATORS.  device: "cuda" for a function that takes tensors on the GPU, as one that starts a
    Triton kernel does.  Raises ValueError for another operator or device.
    """
    if operator not in OPERATORS or device not in ("cpu", "cuda"):
        known = f"{', '.join(OPERATORS)}, on cpu or cuda"
        raise ValueError(f"a kernel computes one of {known}; got {operator!r} on {device!r}")

    def register(call: Callable) -> Callable:
        _registered.append(Kernel(name or call.__name__, operator, call, device))
        return call

    return register


def load(source: str, operator: str = "") -> list[Kernel]:
    """The kernels of a FILE.py, or the one of FILE.so:SYMBOL, which computes `operator`.

    Raises ModelError for a file that is not there, or that registers none or two of one name, and for a symbol without
    an operator.
    """
    path, _, symbol = source.partition(":")
    if not Path(path).is_file():
        raise ModelError(f"{path}: no such file")
    if symbol:
        if operator not in OPERATORS:
            raise ModelError(f"{source}: say with --operator what it computes: {', '.join(OPERATORS)}")
        return [Kernel(symbol, operator, _c_function(Path(path), symbol, operator))]
    if not path.endswith(".py"):
        raise ModelError(f"{path}: is not Python; a shared library is named with a symbol, as {path}:SYMBOL")
    spec = importlib.util.spec_from_file_location("own_kernels", path)
    _registered.clear()
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    if not _registered:
        raise ModelError(f"{path}: registers no kernel; see docs/benchmark.md")
    names = [one.name for one in _registered]
    if taken := [name for name in names if names.count(name) > 1 or name.startswith(OURS)]:
        raise ModelError(f"{path}: the name {taken[0]} is taken")
    return list(_registered)


def _c_function(path: Path, symbol: str, operator: str) -> Callable[..., None]:
    try:
        function = getattr(ctypes.CDLL(str(path.resolve())), symbol)
    except (OSError, AttributeError) as error:
        raise ModelError(f"{path}: {error}") from error
    function.restype = None
    pointers = POINTERS.get(operator, ("x",))

    def call(out: Any, threads: int, **given: Any) -> None:
        height, width, channels = given["x"].shape
        sizes = [height, width, channels]
        if operator == "conv2d":
            sizes += [out.shape[2], given["weight"].shape[2], given["stride"], given["padding"]]
        arrays = [*(given[name] for name in pointers), out]
        function(*(ctypes.c_void_p(a.ctypes.data) for a in arrays), *map(ctypes.c_int64, sizes), ctypes.c_int(threads))

    return call
