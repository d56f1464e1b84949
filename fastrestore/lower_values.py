"""What stands for a value of the exported program while it is turned into nodes: lower_ops.py and lower_layers.py take
and return these."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(eq=False)
class Record:
    """One node of the graph to be: the method of _C.Graph, the records it reads, its other arguments."""

    method: str
    channels: int
    inputs: list["Record"] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    residual: "Record | None" = None
    whole: bool = False  # one pixel, which stands for the whole image


@dataclass(frozen=True)
class View:
    """These channels of an image, in this order; becomes a node only for those who cannot read it in place."""

    record: Record
    channels: tuple[int, ...]

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The channels as runs (first, count)."""
        runs: list[tuple[int, int]] = []
        for channel in self.channels:
            first, count = runs[-1] if runs else (channel, 0)
            if channel == first + count:
                runs[-1:] = [(first, count + 1)]
            else:
                runs.append((channel, 1))
        return runs


@dataclass(frozen=True)
class Padded:
    """An image with a border, which only a convolution can read."""

    record: Record
    border: str  # as Graph.conv2d names them
    rows: tuple[int, int]  # above and below
    columns: tuple[int, int]  # left and right


@dataclass(frozen=True)
class Last:
    """An image whose channels stand last in the trace: [N, H, W, C]."""

    image: "Record | View"


@dataclass(frozen=True)
class Sigma:
    """sigma * scale, not yet spread over an image."""

    scale: float


CONVOLUTIONS = ("conv2d", "conv_transpose2d")


# --- what arguments are


def array(values: Tensor | None) -> np.ndarray | None:
    return None if values is None else np.ascontiguousarray(values.detach().numpy(), np.float32)


def two(value: int | list[int]) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * 2 if len(values) == 1 else values


def one(value: int | list[int], what: str) -> int:
    first, second = two(value)
    if first != second:
        raise ValueError(f"{what} differs between height and width: {first} and {second}")
    return first


def image(walk, value: Any) -> Record:
    """The image itself as a node of the graph."""
    if isinstance(value, View):
        return walk.gather([value])
    if isinstance(value, Padded):
        raise ValueError("its input is padded, and only a convolution can read a padded image")
    if isinstance(value, Last):
        raise ValueError("its channels stand last, where this operator looks for them second")
    if not isinstance(value, Record):
        raise ValueError("an operand is not an image")
    return value


def last(walk, value: Any) -> Record:
    """The image whose channels stand last."""
    if not isinstance(value, Last):
        raise ValueError("its input is no image whose channels stand last")
    return image(walk, value.image)


def view(value: Any) -> View:
    if isinstance(value, View):
        return value
    if not isinstance(value, Record):
        raise ValueError("an operand is not an image")
    return View(value, tuple(range(value.channels)))


def pick(value: Any, channels: list[int] | range) -> Record | View:
    """These of an image's channels."""
    source = view(value)
    chosen = tuple(source.channels[c] for c in channels)
    return source.record if chosen == tuple(range(source.record.channels)) else View(source.record, chosen)


def number(value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if not isinstance(value, (int, float)):
        raise ValueError("a factor is not a constant number")
    return float(value)


def is_image(value: Any) -> bool:
    return isinstance(value, (Record, View, Padded, Last))


def by_channel(value: Any, channels: int) -> Tensor:
    """A constant as a float64 vector of channels."""
    if isinstance(value, Tensor) and value.numel() != 1:
        shape = tuple(value.shape)
        if len(shape) not in (3, 4) or shape != (1,) * (len(shape) - 3) + (channels, 1, 1):
            raise ValueError(f"a constant of shape {shape} is neither a number nor one value for each channel")
        return value.double().reshape(channels)
    return torch.full((channels,), number(value), dtype=torch.float64)
