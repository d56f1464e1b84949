"""Triton versions of the GPU kernels: the path for GPUs that the CUDA kernels do not serve, and their baseline.

One file an operation: its kernels and their launchers; common.py is what they share.  Tensors are dense NHWC, sums are
float32.  The files of this folder import triton, so nothing here is imported before `available()` says that it can be.
With TRITON_INTERPRET=1 in the environment the kernels run on the CPU, which is how they are tested without a GPU.
"""

import os
from importlib.util import find_spec

import torch


def available() -> bool:
    return find_spec("triton") is not None


def interpreted() -> bool:
    """Whether kernels that are defined now run in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def widens(dtype: torch.dtype) -> bool:
    """Whether products widen their operands: the interpreter's dot takes bfloat16's bits for integers."""
    return interpreted() and dtype == torch.bfloat16
