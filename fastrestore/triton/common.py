"""What the kernels share: edges, products, curves, and the choice among configurations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import triton
import triton.language as tl

from fastrestore.triton import interpreted

EDGES = {"zero": 0, "reflect": 1, "clamp": 2}
Fits = Callable[[Mapping[str, int], Mapping[str, Any]], bool]


@triton.jit
def _inner(i, size, EDGE: tl.constexpr):
    """The pixel of [0, size) that stands in for i; with zeros outside, any."""
    if EDGE == 1:
        period = tl.maximum(2 * (size - 1), 1)
        phase = (i % period + period) % period
        i = tl.where(phase < size, phase, period - phase)
    return tl.minimum(tl.maximum(i, 0), size - 1)


@triton.jit
def edge_pixel(row, column, height, width, EDGE: tl.constexpr):
    """The number of the pixel that is at (row, column) or stands in for it, and whether it counts."""
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    if EDGE != 0:
        inside = inside | True
    return _inner(row, height, EDGE) * width + _inner(column, width, EDGE), inside


@triton.jit
def product(a, b, sums, WIDEN: tl.constexpr):
    """sums + a @ b in float32.  WIDEN: for the interpreter, see `widens`."""
    if WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, sums, input_precision="ieee")


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


class _First:
    """A kernel in the interpreter, with the first configuration that fits."""

    def __init__(self, kernel: Any, blocks: Sequence[Mapping[str, int]], fits: Fits):
        self.kernel, self.blocks, self.fits = kernel, blocks, fits

    def __getitem__(self, grid: Callable[[Mapping[str, int]], tuple[int, ...]]) -> Callable[..., None]:
        def launch(*arguments: Any, **constants: Any) -> None:
            given = dict(zip(self.kernel.arg_names, arguments, strict=False)) | constants
            blocks = next((one for one in self.blocks if self.fits(one, given)), self.blocks[0])
            self.kernel[grid](*arguments, **constants, **blocks)

        return launch


def tuned(kernel: Any, configs: Sequence[Mapping[str, int]], key: list[str], fits: Fits) -> Any:
    """The kernel with the fastest of its configurations, measured once for each value of the arguments in `key`.

    configs: the sizes of blocks by the kernel's names for them, with num_warps and num_stages.  fits: whether blocks
    suit the arguments, both by name; those that do not are left out, and where none does the first is taken.
    """
    how = ("num_warps", "num_stages")
    blocks = [{name: size for name, size in config.items() if name not in how} for config in configs]
    if interpreted():
        return _First(kernel, blocks, fits)

    def fitting(made: list[triton.Config], arguments: dict[str, Any], **constants: Any) -> list[triton.Config]:
        return [one for one in made if fits(one.kwargs, arguments | constants)] or made[:1]

    return triton.autotune(
        [triton.Config(b, **{name: c[name] for name in how}) for b, c in zip(blocks, configs, strict=True)],
        key=key,
        prune_configs_by={"early_config_prune": fitting},
    )(kernel)
