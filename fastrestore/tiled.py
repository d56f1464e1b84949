"""Tiles of large images, and any module run over them.

Plans do their own tiling in C++; this is for modules that no plan covers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrestore.errors import MemoryBudgetError
from fastrestore.plan import parse_memory

if TYPE_CHECKING:
    from torch import nn

BYTES_PER_PIXEL = 2048  # of a tile while a network of some 64 channels runs: four float32 maps of them


@dataclass(frozen=True)
class Tile:
    """Rows and columns of one tile: the core is written; the read rectangle adds the halo, within the image."""

    core: tuple[slice, slice]
    read: tuple[slice, slice]

    @property
    def core_in_read(self) -> tuple[slice, slice]:
        """Where the core lies within the rectangle that was read."""
        return tuple(
            slice(core.start - read.start, core.stop - read.start)
            for core, read in zip(self.core, self.read, strict=True)
        )


def tiles(
    height: int,
    width: int,
    halo: int,
    multiple_of: int = 1,
    memory: int | str | None = None,
    bytes_per_pixel: int = BYTES_PER_PIXEL,
) -> Iterator[Tile]:
    """Tiles whose cores partition the image, row by row.

    halo: pixels of context that an output pixel depends on.  multiple_of: tiles are read from multiples of it, so
    that a strided network's grid stays where it is in the whole image.  memory: bytes one tile may take at
    bytes_per_pixel for each pixel read.  Raises ValueError for sizes below 1 or a negative halo, and
    MemoryBudgetError, with the number needed, when not even the smallest tile fits.
    """
    if height < 1 or width < 1 or halo < 0 or multiple_of < 1 or bytes_per_pixel < 1:
        raise ValueError(f"no tiles for height {height}, width {width}, halo {halo}, multiple_of {multiple_of}")
    margin = -(-halo // multiple_of) * multiple_of
    pixels = parse_memory(memory) // bytes_per_pixel
    if height * width <= pixels:
        side_y, side_x = height, width
    else:
        side = (int(pixels**0.5) - 2 * margin) // multiple_of * multiple_of
        if side < multiple_of:
            needed = (2 * margin + multiple_of) ** 2 * bytes_per_pixel
            raise MemoryBudgetError(f"a tile with its halo of {halo} pixels needs {needed} bytes")
        side_y = side_x = side
    for y in range(0, height, side_y):
        for x in range(0, width, side_x):
            yield Tile(
                core=(slice(y, min(y + side_y, height)), slice(x, min(x + side_x, width))),
                read=(_with_margin(y, side_y, margin, height), _with_margin(x, side_x, margin, width)),
            )


def _with_margin(start: int, side: int, margin: int, size: int) -> slice:
    return slice(max(0, start - margin), min(size, start + side + margin))


class TiledModel:
    """Runs a module over tiles, with Session.run's signature.

    A module states `halo` and `multiple_of`; one whose halo is None (it sees the whole image) runs untiled.  For
    a local module the tiles agree with the whole image up to the rounding of its own convolutions, which may
    depend on the size of what they are given.
    """

    def __init__(self, module: "nn.Module", memory: int | str | None = None, device: str = "cpu"):
        self.module = module.eval().to(device)
        self.memory, self.device = memory, device
        self.halo: int | None = getattr(module, "halo", None)
        self.multiple_of: int = getattr(module, "multiple_of", 1)
        self.takes_sigma: bool = getattr(module, "takes_sigma", False)
        self.channels: int = getattr(getattr(module, "config", None), "channels", 3)

    @property
    def info(self) -> dict[str, Any]:
        return {"device": self.device, "isa": "torch", "precision": "float32", "tiled": self.halo is not None}

    def run(
        self,
        image: np.ndarray,
        sigma: float | None = None,
        strength: float = 1.0,
        clip: bool = True,
        out: np.ndarray | None = None,
        progress: Callable[[float], object] | None = None,
    ) -> np.ndarray:
        """As Session.run.  image: [H, W, C] uint8, uint16, float16 or float32; returns the same shape and dtype."""
        height, width = image.shape[:2]
        out = np.empty_like(image) if out is None else out
        if self.halo is None:
            whole = (slice(0, height), slice(0, width))
            parts = [Tile(whole, whole)]
        else:
            parts = list(tiles(height, width, self.halo, self.multiple_of, self.memory))
        for done, tile in enumerate(parts, 1):
            out[tile.core] = self._restore(image[tile.read], sigma, strength, clip)[tile.core_in_read]
            if progress:
                progress(done / len(parts))
        return out

    def _restore(self, pixels: np.ndarray, sigma: float | None, strength: float, clip: bool) -> np.ndarray:
        import torch  # here: tiles() and plans do without

        peak = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else None
        source = pixels.astype(np.float32)
        if peak:
            source /= peak
        x = torch.from_numpy(source).permute(2, 0, 1)[None].expand(-1, self.channels, -1, -1).to(self.device)
        with torch.inference_mode():
            y = self.module(x, sigma) if self.takes_sigma else self.module(x)
        restored = y[0].permute(1, 2, 0).float().cpu().numpy()
        if pixels.shape[2] == 1:
            restored = restored.mean(2, keepdims=True)
        result = source + strength * (restored - source)
        if clip or peak:
            result = result.clip(0, 1)
        return np.rint(result * peak).astype(pixels.dtype) if peak else result.astype(pixels.dtype)
