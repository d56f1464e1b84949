"""compile(module) -> Plan: a PyTorch module turned once into a graph of fused operators that C++ runs.

Which operators are covered stands in lower.py.
"""

import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from fastrestore.core import _C
from fastrestore.errors import DeviceError, MemoryBudgetError, ModelError
from fastrestore.lower import lower
from fastrestore.models.guided_unet import Guided, GuidedUNet
from fastrestore.ops import dispatch
from fastrestore.plan import DEFAULT_MEMORY, Plan, Session, parse_memory

__all__ = ["DEFAULT_MEMORY", "PRECISIONS", "CudaSession", "Plan", "Session", "build_info", "compile", "parse_memory"]

PRECISIONS = ("float32", "bfloat16")  # that any module compiles to; "int8" needs pictures too
LEAST_PSNR = 49.0  # dB: costs a denoiser that reaches 31 dB about 0.07


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

    def again(self, memory: int | str | None, plan: Plan | None = None) -> "CudaSession":
        return CudaSession(plan or self.plan, self.precision, parse_memory(memory))

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
    least_psnr: float = LEAST_PSNR,
) -> Plan:
    """Compiles a module that maps an image [N, C, H, W], or image and sigma, to an image of the same shape.

    A recurrent module names its `states`, a list of (channels, stride): it takes them, [N, channels, H / stride, W /
    stride], as its last arguments, and returns (result, *their successors).  Its sessions keep them; see Session.reset.
    precision: "float32" (also "auto"), or "bfloat16": what convolutions read is rounded to 8 significant bits, sums
    are float32, picture and result stay float32; or "int8": what inner convolutions read is 8 bits, and so are their
    weights, where `calibration` shows that this does not cost too much; else as bfloat16 (docs/precision.md).
    isa: forces an instruction set, as FASTRESTORE_ISA does.  card: what the plan says of the model, values that JSON
    can hold; int8 adds what calibration found, a guided network's plan the channels that its guide takes ("guide").
    calibration: pictures like those to be restored, for int8 only: arrays [H, W, C], or pairs (array, sigma); without
    sigma, a model that takes it is told the estimated noise level.  ranges: "mse" or "percentile", how the range of
    an image's 256 levels follows from what it holds for these pictures.  least_psnr: dB, against a peak of 1, that the
    results for these pictures are to be from float32's at least: images are kept wide until they are.
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
    if isinstance(module, GuidedUNet) and calibration is None:  # pictures to calibrate with have no guides
        module, card = Guided(module), {**(card or {}), "guide": module.guide_channels}
    graph = lower(module)
    if calibration is None:
        return Plan(_C.Plan(graph, "float32" if precision == "auto" else precision, isa), card)
    from fastrestore.calibrate import calibrate  # loads OpenCV, which running a plan does not need

    found = calibrate(graph, isa, calibration, ranges, least_psnr, _C.hardware_threads())
    about = {"ranges": ranges, "images": len(found.levels), "wide": found.wide, "psnr": round(found.psnr, 2)}
    return Plan(_C.Plan(graph, precision, isa, found.levels), {**(card or {}), "int8": about})
