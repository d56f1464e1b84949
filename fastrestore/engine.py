"""compile(module) -> Plan: a PyTorch module turned once into a graph of fused operators that C++ runs.

Which operators are covered stands in lower.py.
"""

import json
import os
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastrestore.errors import DeviceError, MemoryBudgetError, ModelError, UnsupportedOperator
from fastrestore.image import whole_file
from fastrestore.lower import lower
from fastrestore.ops import _C, dispatch  # ops imports torch before _C, so that both share one OpenMP runtime

PRECISIONS = ("float32", "bfloat16")  # that any module compiles to; "int8" needs pictures too
DEFAULT_MEMORY = "1GiB"


def parse_memory(memory: int | str | None) -> int:
    """Bytes from an integer or a binary string: "64MiB", "1GiB", "512KiB", "1000"; None is the default of 1 GiB.

    Raises ValueError for anything else.
    """
    if memory is None:
        memory = DEFAULT_MEMORY
    if isinstance(memory, int) and not isinstance(memory, bool):
        count, unit = memory, ""
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B?|B)?\s*", str(memory), re.IGNORECASE)
        if match is None:
            raise ValueError(f"memory must be like 64MiB or 1GiB, got {memory!r}")
        count, unit = float(match[1]), (match[2] or "").upper()
    size = int(count * 1024 ** "BKMGT".index((unit or "B")[0]))
    if not 0 < size < 2**62:
        raise ValueError(f"memory must be positive, got {memory!r}")
    return size


def build_info() -> dict[str, Any]:
    """What was built, what this machine has, and what will be used."""
    return {
        "isa": _C.host_isa(),
        "cpu_isa": _C.cpu_isa(),
        "forced_isa": os.environ.get("FASTRESTORE_ISA"),
        "built_isas": list(_C.built_isas()),
        "threads": _C.hardware_threads(),
        "gpu": dispatch.report(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "precisions": [*PRECISIONS, "int8"],
    }


class Plan:
    """A compiled module.  Immutable; sessions of several threads share it.

    channels: of input and output.  takes_sigma: whether a run is given a noise level.  halo: pixels that an output
    pixel looks, each way; None: at the whole picture.  multiple_of: each side of a picture is padded to it.  grid:
    windows that begin at multiples of it have the whole picture's bits.  isa and precision: how it computes.
    states: (channels, stride) of what a session keeps from one picture to the next; empty for most models.
    card: what is known of the model (name, task, licence and so on); it is saved with the plan.
    """

    def __init__(self, plan: "_C.Plan", card: Mapping[str, Any] | None = None):
        self._plan = plan
        self.channels: int = plan.channels
        self.takes_sigma: bool = plan.takes_sigma
        self.halo: int | None = None if plan.sees_everything else plan.halo
        self.multiple_of: int = plan.multiple_of
        self.grid: int = plan.grid
        self.states: list[tuple[int, int]] = plan.states
        self.isa: str = plan.isa
        self.precision: str = plan.precision
        self.card: dict[str, Any] = dict(card or {})

    def save(self, path: str | os.PathLike) -> None:
        """Writes the plan as one file, which runs in Python and in C on any CPU; see docs/embed.md.

        The file holds the graph, its float32 weights, the precision and the card; it appears whole or not at all.
        Raises ModelError for weights that are not finite and for a card that JSON cannot hold, OSError if writing
        fails.
        """
        path = Path(path)
        try:
            content = _C.plan_bytes(self._plan, json.dumps(self.card, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise ModelError(f"{path}: the plan cannot be saved: {error}") from error
        with whole_file(path) as file:
            file.write(content)

    @classmethod
    def load(cls, path: str | os.PathLike, isa: str = "") -> "Plan":
        """The plan of a file that `save` wrote, made ready for this CPU.  isa: as compile's.

        Raises ModelError, naming the file, for anything that is not exactly such a file, ValueError for an
        instruction set that this CPU lacks.
        """
        isa = _C.usable_isa(isa)
        try:
            plan, card = _C.load_plan(os.fsencode(path), isa)
        except OSError as error:
            raise ModelError(f"{os.fspath(path)}: {error.strerror}") from error
        except ValueError as error:
            raise ModelError(f"{os.fspath(path)}: {error}") from error
        return cls(plan, json.loads(card))

    @property
    def steps(self) -> list[dict[str, Any]]:
        """One entry a node: operator, the kernel that computes it (or ""), channels, stride, inputs; what a pixel takes
        in memory, how far the operator looks (halo, in input pixels), and a convolution's shape and epilogue."""
        return _C.plan_steps(self._plan)

    def layout(self, height: int, width: int, threads: int, memory: int | str | None = None) -> dict[str, Any]:
        """Strips, bands and ring buffers for pictures of this size.  Raises MemoryBudgetError if over budget."""
        try:
            return _C.plan_layout(self._plan, height, width, threads, parse_memory(memory))
        except _C.MemoryBudgetExceeded as error:
            raise MemoryBudgetError(str(error)) from None

    @property
    def packed_bytes(self) -> int:
        """What the weights take, in the order that the kernels read them."""
        return self._plan.packed_bytes

    def session(
        self,
        device: str = "cpu",
        threads: int | None = None,
        memory: int | str | None = None,
        precision: str | None = None,
    ) -> "Session":
        """A session on `threads` threads (None: all this process may use) within `memory` bytes beyond the picture, the
        result and the plan's weights.

        device: "cpu" (also "auto"), or "cuda": the current GPU, whose memory is meant then.  precision: on a GPU the
        type of images and products, float32, bfloat16 or float16; None is float16 for a float32 plan, else bfloat16.
        Raises ValueError for what does not fit, DeviceError where there is no GPU or the core has no kernels for one,
        UnsupportedOperator for a plan that only the CPU can run.
        """
        if device == "cuda":
            return CudaSession(self, precision or "", parse_memory(memory))
        if device not in ("cpu", "auto"):
            raise ValueError(f"device must be cpu, cuda or auto, got {device!r}")
        if precision not in (None, self.precision):
            raise ValueError(f"on the CPU a plan of {self.precision} runs in that precision, not in {precision!r}")
        return Session(self, threads or _C.hardware_threads(), parse_memory(memory))


class Session:
    """Runs a plan on pictures, keeping its working memory between runs."""

    def __init__(self, plan: Plan, threads: int, memory: int):
        self.plan, self.threads, self.memory = plan, threads, memory
        self.halo = plan.halo
        self._session = _C.Session(plan._plan, threads, memory)
        self.report: Any = None  # of the last run: strips, band, working_bytes, non_finite

    @property
    def info(self) -> dict[str, Any]:
        return {
            "device": "cpu",
            "isa": self.plan.isa,
            "precision": self.plan.precision,
            "threads": self.threads,
            "memory": self.memory,
        }

    def again(self, memory: int | str | None) -> "Session":
        """Another session like this one, within other memory."""
        return self.plan.session("cpu", self.threads, memory)

    def reset(self) -> None:
        """Forgets the pictures before, where the plan has states; a picture of another size does so too."""
        self._session.reset()

    @property
    def states(self) -> list[np.ndarray | None]:
        """A copy of each state, [H, W, channels] float32 at its stride of the padded picture, as the last run left it;
        None before the first run and after reset.  Assigning others (warped to the next picture, say) replaces them;
        None begins anew.  Raises ValueError for another number of states or channels."""
        return [self._session.state(number) for number in range(len(self.plan.states))]

    @states.setter
    def states(self, images: Sequence[np.ndarray | None]) -> None:
        if len(images) != len(self.plan.states):
            raise ValueError(f"the plan has {len(self.plan.states)} states, got {len(images)}")
        for number, (image, (channels, _)) in enumerate(zip(images, self.plan.states, strict=True)):
            empty = np.empty((0, 0, channels), np.float32)
            self._session.set_state(number, empty if image is None else np.ascontiguousarray(image, np.float32))

    def working_bytes(self, height: int, width: int) -> int:
        """What a run of this size allocates beyond input and output.  Raises MemoryBudgetError if over budget."""
        try:
            return self._session.preview(height, width).working_bytes
        except _C.MemoryBudgetExceeded as error:
            raise MemoryBudgetError(str(error)) from None

    def run(
        self,
        image: np.ndarray,
        sigma: float | None = None,
        strength: float = 1.0,
        clip: bool = True,
        out: np.ndarray | None = None,
        progress: Callable[[float], object] | None = None,
    ) -> np.ndarray:
        """Restores one image.

        image: [H, W, C] uint8, uint16, float16 or float32, pixels of a row contiguous; C is the model's channel
        count or 1.  Floats are nominally in [0, 1], never clipped on the way in.  sigma: in 0-255 units, given if
        and only if plan.takes_sigma.  strength: 0 gives the input, 1 the restored image, linear in between.
        clip: floats are clipped to [0, 1].  out: written into, of image's shape and dtype, not overlapping it.
        progress: called with the share done; an exception it raises stops the run and is passed on.
        Returns out.  Raises ValueError or TypeError for what does not fit, MemoryBudgetError.
        """
        if out is None:
            out = np.empty(image.shape, image.dtype)
        elif np.shares_memory(image, out):
            raise ValueError("Session.run: out overlaps the image")
        try:
            self.report = self._session.run(image, out, sigma, strength, clip, progress)
        except _C.MemoryBudgetExceeded as error:
            raise MemoryBudgetError(str(error)) from None
        return out


class CudaSession(Session):
    """Runs a plan on the current GPU: the same graph and weights on the kernels of csrc/cuda, the whole picture at once
    or, if that exceeds the memory, in parts that are copied there and back beside the work on others.

    threads: of the host; 1.  Of the report, strips are parts, and recomputed says how many were computed again in
    float32, because 16 bits did not hold them.
    """

    threads = 1

    def __init__(self, plan: Plan, precision: str, memory: int):
        if not dispatch.built():
            raise DeviceError("this core was built without nvcc: it has no kernels for GPUs")
        kernels = dispatch.kernels()
        self.plan, self.halo, self.memory = plan, plan.halo, memory
        try:
            self._session = kernels.Session(plan._plan, precision, memory)
        except kernels.NoDevice as error:
            raise DeviceError(str(error)) from None
        except kernels.NoKernel as error:
            raise UnsupportedOperator(str(error)) from None
        self.precision: str = self._session.precision
        self.report: Any = None

    @property
    def steps(self) -> list[tuple[str, list[int]]]:
        """What is launched, in order: the way, and the numbers of the plan's nodes that it computes.  A way is a
        convolution's path, the operator's name or, where one kernel computes several nodes, that of the fusion
        (csrc/engine/cuda_steps.h says which there are)."""
        return self._session.steps

    @property
    def ways(self) -> dict[str, int]:
        """How many steps go each way."""
        return dict(Counter(way for way, _ in self.steps))

    @property
    def info(self) -> dict[str, Any]:
        return {"device": "cuda", "isa": "cuda", "precision": self.precision, "threads": self.threads,
                "memory": self.memory, "ways": self.ways}  # fmt: skip

    def again(self, memory: int | str | None) -> "CudaSession":
        return CudaSession(self.plan, self.precision, parse_memory(memory))

    def run_tensor(
        self, x: torch.Tensor, sigma: float | None = None, strength: float = 1.0, clip: bool = True
    ) -> torch.Tensor:
        """Restores one image that lies on the GPU, [H, W, C] contiguous uint8, float16 or float32, where it is; the
        arguments and errors are run's.  It is read after the current stream's work so far, and the result is there
        when this returns."""
        names = {torch.uint8: "uint8", torch.float16: "float16", torch.float32: "float32"}
        if x.ndim != 3 or x.dtype not in names or not x.is_contiguous():
            raise ValueError(
                f"an image must be [H, W, C] contiguous uint8, float16 or float32, got {x.dtype}, {x.shape}"
            )
        out = torch.empty_like(x)
        stream = torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0
        options = (names[x.dtype], list(x.shape), sigma, strength, clip, stream)
        try:
            self.report = self._session.run_there(x.data_ptr(), out.data_ptr(), *options)
        except _C.MemoryBudgetExceeded as error:
            raise MemoryBudgetError(str(error)) from None
        return out


def compile(
    module: nn.Module,
    precision: str = "auto",
    isa: str = "",
    card: Mapping[str, Any] | None = None,
    calibration: Iterable[Any] | None = None,
    ranges: str = "mse",
) -> Plan:
    """Compiles a module that maps an image [N, C, H, W], or image and sigma, to an image of the same shape.

    A recurrent module names its `states`, a list of (channels, stride): it takes them, [N, channels, H / stride, W /
    stride], as its last arguments, and returns (result, *their successors).  Its sessions keep them; see Session.reset.
    precision: "float32" (also "auto"), or "bfloat16": what convolutions read is rounded to 8 significant bits, sums
    are float32, picture and result stay float32; or "int8": what inner convolutions read is 8 bits, and so are their
    weights, where `calibration` shows that this does not cost too much; else as bfloat16 (docs/precision.md).
    isa: forces an instruction set, as FASTRESTORE_ISA does.  card: what the plan says of the model, values that JSON
    can hold; int8 adds what calibration found.
    calibration: pictures like those to be restored, for int8 only: arrays [H, W, C], or pairs (array, sigma); without
    sigma, a model that takes it is told the estimated noise level.  ranges: "mse" or "percentile", how the range of
    an image's 256 levels follows from what it holds for these pictures.
    Raises ValueError for pictures that do not fit, UnsupportedOperator, naming the operator and the module's path, and
    ModelError for a module whose weights are not float32 on the CPU.
    """
    if precision not in ("auto", *PRECISIONS, "int8"):
        raise ValueError(f"precision must be auto, {', '.join(PRECISIONS)} or int8, got {precision!r}")
    if (precision == "int8") != (calibration is not None):
        raise ValueError("precision int8, and no other, needs pictures to calibrate with: calibration=")
    for name, parameter in module.named_parameters():
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            raise ModelError(f"{name} is {parameter.dtype} on {parameter.device}; plans need float32 on the CPU")
    graph = lower(module)
    if calibration is None:
        return Plan(_C.Plan(graph, "float32" if precision == "auto" else precision, isa), card)
    from fastrestore.calibrate import calibrate  # loads OpenCV, which running a plan does not need

    found = calibrate(graph, isa, calibration, ranges, _C.hardware_threads())
    about = {"ranges": ranges, "images": len(found.levels), "wide": found.wide, "psnr": round(found.psnr, 2)}
    return Plan(_C.Plan(graph, precision, isa, found.levels), {**(card or {}), "int8": about})
