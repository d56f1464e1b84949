"""The operators that are measured one by one: what they are given, what is right, who computes them.

A contestant is a function that is given the arguments and prepares what may be prepared (packed weights, a result's
memory); the Peer that it returns computes the result, [H, W, C], at every run.  docs/benchmark.md says what the
arguments of each operator are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore import ops
from fastrestore.bench.contest import WrongAnswer
from fastrestore.bench.networks import PlainLayer
from fastrestore.bench.peers import Backend, Peer
from fastrestore.bench.timing import OURS
from fastrestore.ops import convert

Arguments = dict[str, Any]  # tensors by name, pictures [H, W, C] in C order, and numbers
Contestant = Callable[[Arguments], Peer]
ALGORITHMS = ("direct", "winograd4")
LAST = {"memory_format": torch.channels_last}


def _nchw(x: Tensor) -> Tensor:
    """[H, W, C] -> [1, C, H, W] in the same memory."""
    return x.permute(2, 0, 1)[None]


def _nhwc(x: Tensor) -> Tensor:
    return x[0].permute(1, 2, 0)


@dataclass(frozen=True)
class Convolution:
    """relu(conv2d(x) + bias).  x: [size, size, channels], weight: [out, channels, kernel, kernel]."""

    channels: int
    out: int
    kernel: int
    stride: int
    padding: int
    size: int
    operator = "conv2d"
    torchs = "torch prepacked, fused"
    checked_rows = 32  # of the result, at its top, by float64

    @property
    def gflop(self) -> float:
        """Counted as direct convolution."""
        side = (self.size + 2 * self.padding - self.kernel) // self.stride + 1
        return 2e-9 * self.channels * self.out * self.kernel**2 * side**2

    @property
    def can_save(self) -> bool:
        """Whether there is a way that multiplies less than is counted."""
        return self.kernel == 3 and self.stride == 1

    def arguments(self, seed: int) -> Arguments:
        random = torch.Generator().manual_seed(seed)
        fan_in = self.channels * self.kernel**2
        weight = torch.randn(self.out, self.channels, self.kernel, self.kernel, generator=random)
        return {
            "x": torch.randn(self.size, self.size, self.channels, generator=random).relu_(),
            "weight": weight * (2 / fan_in) ** 0.5,
            "bias": 0.1 * torch.randn(self.out, generator=random),
            "stride": self.stride,
            "padding": self.padding,
        }

    def result(self, given: Arguments) -> Tensor:
        side = (self.size + 2 * self.padding - self.kernel) // self.stride + 1
        return torch.empty(side, side, self.out)

    def check(self, name: str, result: Tensor, given: Arguments) -> dict[str, float]:
        """Errors of the upper rows against float64, of all against the float32 that torch computes."""
        if result.shape != self.result(given).shape:
            raise WrongAnswer(f"{name} gives {list(result.shape)}, not {list(self.result(given).shape)}")
        kept = self.checked_rows - self.padding
        seen = given["x"][: (self.checked_rows - 1) * self.stride + self.kernel].double()
        exact = self._plain({**given, "x": seen})[:kept]
        errors = (result[:kept] - exact).abs()
        anywhere = (result - self._plain(given)).abs().max().item()
        if not (errors.max().item() < 1e-4 and anywhere < 1e-4):  # NaN is not
            raise WrongAnswer(f"{name} is off by {errors.max().item():.2g} of float64, by {anywhere:.2g} of float32")
        return {"rms": float(f"{errors.square().mean().sqrt():.3g}"), "greatest": float(f"{errors.max():.3g}")}

    @staticmethod
    def _plain(given: Arguments) -> Tensor:
        x = given["x"]
        weight, bias = given["weight"].to(x.dtype), given["bias"].to(x.dtype)
        return _nhwc(F.conv2d(_nchw(x), weight, bias, given["stride"], given["padding"]).relu())

    def contestants(self) -> dict[str, Contestant]:
        def ours(algorithm: str) -> Contestant:
            def make(given: Arguments) -> Peer:
                x, pair = _nchw(given["x"]), {name: (given[name],) * 2 for name in ("stride", "padding")}
                how = {"activation": "relu", "algorithm": algorithm}
                return Peer(lambda: _nhwc(ops.conv2d(x, given["weight"], given["bias"], **how, **pair)), how)

            return make

        def prepacked(given: Arguments) -> Peer:
            """oneDNN's convolution with fused ReLU and its own weight order: what torch's frozen graphs run."""
            x, bias = _nchw(given["x"]), given["bias"]
            pairs = [[given["padding"]] * 2, [given["stride"]] * 2, [1, 1]]
            packed = torch._C._nn.mkldnn_reorder_conv2d_weight(given["weight"].to_mkldnn(), *pairs, 1, list(x.shape))
            run = torch.ops.mkldnn._convolution_pointwise
            form = {"form": "mkldnn._convolution_pointwise, reordered weights"}
            return Peer(lambda: _nhwc(run(x, packed, bias, *pairs, 1, "relu", [], "")), form)

        def eager(given: Arguments) -> Peer:
            x, weight, bias = _nchw(given["x"]), given["weight"].contiguous(**LAST), given["bias"]
            form = {"form": "conv2d, relu in place", "memory format": "channels_last"}
            return Peer(lambda: _nhwc(F.conv2d(x, weight, bias, given["stride"], given["padding"]).relu_()), form)

        named = {f"fastrestore {name}": ours(name) for name in ALGORITHMS if name == "direct" or self.can_save}
        return {OURS: ours("auto"), **named, self.torchs: prepacked, "torch eager, channels last": eager}

    def peer(self, backend: Backend, threads: int) -> Contestant:
        """One of the networks' peers, on a network of this one layer."""

        def make(given: Arguments) -> Peer:
            layer = nn.Conv2d(self.channels, self.out, self.kernel, self.stride, self.padding).eval()
            layer.weight.data, layer.bias.data = given["weight"], given["bias"]
            plain = PlainLayer(layer, self.size, self.size).eval()
            return backend.make(plain, given["x"].numpy(), threads, "float32")

        return make


HEIGHT, WIDTH = 1080, 1920


@dataclass(frozen=True)
class Pixels:
    """Shuffling or conversion of a picture of 1920x1080: memory is what limits it.  The result is right to the bit."""

    operator: str  # pixel_shuffle, pixel_unshuffle (by 2), from_pixels, to_pixels
    channels: int = 3  # of the picture that is not packed
    dtype: torch.dtype = torch.float32  # of a picture before from_pixels or after to_pixels
    gflop = 0.0
    can_save = False

    def arguments(self, seed: int) -> Arguments:
        random = torch.Generator().manual_seed(seed)
        x = torch.rand(HEIGHT, WIDTH, self.channels, generator=random)
        if self.operator == "pixel_shuffle":
            x = _nhwc(F.pixel_unshuffle(_nchw(x), 2)).contiguous()
        elif self.operator == "from_pixels":
            x = convert.to_reference(_nchw(x), self.dtype)[0].contiguous()
        return {"x": x}

    def result(self, given: Arguments) -> Tensor:
        return torch.empty_like(self._plain(given["x"]), memory_format=torch.contiguous_format)

    def check(self, name: str, result: Tensor, given: Arguments) -> dict[str, float]:
        exact = self._plain(given["x"])
        if result.shape != exact.shape or result.dtype != exact.dtype:
            raise WrongAnswer(f"{name} gives {result.dtype} {list(result.shape)}")
        different = (result.contiguous().view(torch.uint8) != exact.contiguous().view(torch.uint8)).sum().item()
        if different:
            raise WrongAnswer(f"{name}: {different} bytes of {exact.nbytes} are not right")
        return {"greatest": 0.0}

    def _plain(self, x: Tensor) -> Tensor:
        functions = {
            "pixel_shuffle": lambda: _nhwc(F.pixel_shuffle(_nchw(x), 2)),
            "pixel_unshuffle": lambda: _nhwc(F.pixel_unshuffle(_nchw(x), 2)),
            "from_pixels": lambda: _nhwc(convert.reference(x[None])),
            "to_pixels": lambda: convert.to_reference(_nchw(x), self.dtype)[0],
        }
        return functions[self.operator]()

    def contestants(self) -> dict[str, Contestant]:
        def ours(given: Arguments) -> Peer:
            x = given["x"]
            functions = {
                "pixel_shuffle": lambda: _nhwc(ops.pixel_shuffle(_nchw(x), 2)),
                "pixel_unshuffle": lambda: _nhwc(ops.pixel_unshuffle(_nchw(x), 2)),
                "from_pixels": lambda: _nhwc(ops.from_pixels(x[None])),
                "to_pixels": lambda: ops.to_pixels(_nchw(x), self.dtype)[0],
            }
            return Peer(functions[self.operator])

        def eager(given: Arguments) -> Peer:
            return Peer(lambda: self._plain(given["x"]).contiguous(), {"memory format": "channels_last"})

        return {OURS: ours, "torch eager, channels last": eager}


# The first six: channels in and out, kernel, stride, padding, side of the picture.
Problem = Convolution | Pixels
CASES: dict[str, Problem] = {
    "conv2d-3x3-64-64-512": Convolution(64, 64, 3, 1, 1, 512),
    "conv2d-3x3-96-96-256": Convolution(96, 96, 3, 1, 1, 256),
    "conv2d-3x3-3-64-512": Convolution(3, 64, 3, 1, 1, 512),
    "conv2d-3x3-64-3-512": Convolution(64, 3, 3, 1, 1, 512),
    "conv2d-2x2-64-96-512-stride2": Convolution(64, 96, 2, 2, 0, 512),
    "conv2d-1x1-64-64-512": Convolution(64, 64, 1, 1, 0, 512),
    "conv2d-3x3-64-64-128": Convolution(64, 64, 3, 1, 1, 128),
    "pixels-shuffle-3ch": Pixels("pixel_shuffle"),
    "pixels-unshuffle-3ch": Pixels("pixel_unshuffle"),
    "pixels-shuffle-16ch": Pixels("pixel_shuffle", 16),
    "pixels-from-u8": Pixels("from_pixels", dtype=torch.uint8),
    "pixels-from-u16": Pixels("from_pixels", dtype=torch.uint16),
    "pixels-from-f16": Pixels("from_pixels", dtype=torch.float16),
    "pixels-to-u8": Pixels("to_pixels", dtype=torch.uint8),
    "pixels-to-u16": Pixels("to_pixels", dtype=torch.uint16),
    "pixels-to-f16": Pixels("to_pixels", dtype=torch.float16),
}
