"""Which way an operator takes on a GPU, and how often each was taken: our CUDA kernels, Triton's, or torch's own.

WAYS says what is tried, row by row; the first that holds and whose kernels are there is taken.  torch's own operators
serve whatever no row holds.  FASTRESTORE_GPU=cuda|triton|torch allows that way only (and torch's, where it does not
serve).  The CUDA kernels are compiled for compute capability 8.0 and later.  Above 96 channels a convolution goes to
cuDNN, which reads its input from cache there and is hard to beat: a judgement from counting bytes, not a measurement.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrestore import triton
from fastrestore.ops import _C

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (*HALVES, torch.float32)
TYPE_NAMES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}


@dataclass(frozen=True)
class Way:
    """A row of the table.  capability: the least, 10 * major + minor; channels: the most."""

    op: str
    path: str
    capability: int
    dtypes: tuple[torch.dtype, ...]
    channels: int = 1 << 20


WAYS = (
    Way("conv2d", "cuda", 80, HALVES, 96),
    Way("conv2d", "triton", 75, (torch.float16,), 96),
    Way("conv2d", "triton", 80, (torch.bfloat16,), 96),
    Way("depthwise", "cuda", 80, FLOATS),
    Way("depthwise", "triton", 75, FLOATS),
    Way("pixel_shuffle", "cuda", 80, FLOATS),
    Way("pixel_shuffle", "triton", 75, FLOATS),
    Way("layer_norm", "cuda", 80, FLOATS, 2048),
    Way("layer_norm", "triton", 75, FLOATS, 4096),
    Way("local_mean", "cuda", 80, FLOATS),
    Way("local_mean", "triton", 75, FLOATS),
    Way("window_attention", "cuda", 80, HALVES, 32),
    Way("window_attention", "triton", 80, HALVES, 64),
    Way("channel_attention", "cuda", 80, HALVES, 48),
    Way("channel_attention", "triton", 80, HALVES, 128),
)

counts: Counter[str] = Counter()  # of "operator path", in this process


def built() -> bool:
    """Whether the core has GPU kernels."""
    return hasattr(_C, "cuda")


def kernels():
    """The module of CUDA kernels."""
    return _C.cuda


def path_for(op: str, capability: int, dtype: torch.dtype, channels: int) -> str:
    """cuda, triton or torch.  channels: of the widest side; for attention those of a head.

    Raises ValueError if FASTRESTORE_GPU is none of them.
    """
    wanted = os.environ.get("FASTRESTORE_GPU", "")
    if wanted not in ("", "cuda", "triton", "torch"):
        raise ValueError(f"FASTRESTORE_GPU must be cuda, triton or torch, got {wanted!r}")
    there = {"cuda": built(), "triton": triton.available()}
    for way in WAYS:
        if (
            way.op == op
            and there[way.path]
            and wanted in ("", way.path)
            and capability >= way.capability
            and dtype in way.dtypes
            and channels <= way.channels
        ):
            return way.path
    return "torch"


def capability_of(x: Tensor) -> int:
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor


def take(op: str, x: Tensor, channels: int) -> str:
    """The path for an operator on x, counted."""
    path = path_for(op, capability_of(x), x.dtype, channels)
    counts[f"{op} {path}"] += 1
    return path


@contextmanager
def launching(x: Tensor) -> Iterator[int]:
    """Makes x's device current and gives its stream, as a number."""
    with torch.cuda.device(x.device):
        yield torch.cuda.current_stream().cuda_stream


def check_dtype(name: str, x: Tensor) -> None:
    """float32 anywhere, float64 for checks, float16 and bfloat16 on a GPU; TypeError for the rest."""
    halves = HALVES if x.device.type == "cuda" else ()
    if x.dtype not in (torch.float32, torch.float64, *halves):
        raise TypeError(
            f"{name} must be float32 (or float64, for checks; on a GPU also float16 or bfloat16), got {x.dtype} on "
            f"{x.device.type}"
        )


def padded(x: Tensor) -> Tensor:
    """x [N, H, W, C], or a copy, as CUDA kernels want it: aligned to 16 bytes, pixels of a multiple of 8 channels."""
    channels = x.shape[3]
    aligned = x.data_ptr() % 16 == 0 and all(stride % 8 == 0 for stride in x.stride()[:3])
    if x.stride(3) == 1 and aligned and x.stride(2) >= channels:
        return x
    room = x.new_zeros(*x.shape[:3], -(-channels // 8) * 8)
    room[..., :channels] = x
    return room[..., :channels]


def empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A result [N, H, W, C] whose pixels have a multiple of 8 channels."""
    *sizes, channels = shape
    return like.new_empty(*sizes, -(-channels // 8) * 8)[..., :channels]


def images(x: Tensor):
    """What stands for x [N, H, W, C] in a call of a CUDA kernel."""
    return kernels().Images(x.data_ptr(), list(x.shape), list(x.stride()[:3]))


def report() -> dict[str, object]:
    """For `fastrestore info`: what is there, the way of each operator on the first GPU, and what was counted."""
    about: dict[str, object] = {"cuda kernels": built(), "triton": triton.available()}
    if torch.cuda.is_available():
        about["device"] = torch.cuda.get_device_name()
        major, minor = torch.cuda.get_device_capability()
        ops = dict.fromkeys(way.op for way in WAYS)
        about["paths (bfloat16, 32 channels)"] = {
            op: path_for(op, 10 * major + minor, torch.bfloat16, 32) for op in ops
        }
    elif built():
        try:
            about["device"] = f"{kernels().device_count()}, but this torch cannot use them"
        except kernels().NoDevice as error:
            about["device"] = str(error)
    else:
        about["device"] = "none used: built without nvcc"
    about["taken"] = dict(counts)
    return about
