"""Shots of one scene: which of them is the reference, which do not fit it, and their fusion by a model for bursts."""

import copy
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from fastrestore import align
from fastrestore.errors import ImageError, MemoryBudgetError
from fastrestore.plan import Session, parse_memory
from fastrestore.tiled import Tile, tiles

if TYPE_CHECKING:
    from torch import nn

MOST = 16  # shots
BYTES_KEPT = 32  # of a shot, for each pixel: as it came and restored, in float32, and its flow
BYTES_FUSING = 768  # of a tile's pixel and shot while the fusion runs, at a width of 48


def chosen(outlines: Sequence[np.ndarray], reference: int | None) -> tuple[int, list[int], list[str]]:
    """The reference's index, those of the other shots that fit it, in order, and a sentence for each that does not.

    outlines: align.outline of each shot.  reference: an index, or None: the sharpest shot.
    Raises ImageError for no shot or more than MOST, and for a reference that is not there.
    """
    if not 1 <= len(outlines) <= MOST:
        raise ImageError(f"a burst is 1 to {MOST} shots, got {len(outlines)}")
    if reference is None:
        reference = int(np.argmax([sharpness(outline) for outline in outlines]))
    if not 0 <= reference < len(outlines):
        raise ImageError(f"shot {reference + 1} of {len(outlines)} cannot be the reference")
    ours = outlines[reference]
    others, notices = [], []
    for index, outline in enumerate(outlines):
        if index == reference:
            continue
        if outline.shape != ours.shape:
            sizes = "{1} x {0} pixels, the reference {3} x {2}".format(*outline.shape, *ours.shape)
            notices.append(f"shot {index + 1} is left out: it has {sizes}")
        elif align.difference(ours, outline, align.flow(ours, outline)) > align.OTHER_SCENE:
            notices.append(f"shot {index + 1} is left out: it does not show what the reference shows")
        else:
            others.append(index)
    if not others:
        notices.append("a burst of one shot: restored as a single picture")
    return reference, others, notices


def sharpness(outline: np.ndarray) -> float:
    """How strong a picture's fine detail is against its contrast."""
    return float(cv2.Laplacian(outline, cv2.CV_32F).var() / max(outline.var(), 1.0))


def aligned(
    shot: np.ndarray, alone: np.ndarray, flow: np.ndarray, corner: tuple[int, int] = (0, 0)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A shot and its result alone, carried to where the reference has what they show, and where that is known.

    shot, alone: [H, W, C].  flow: from the reference to the shot, float32 [h, w, 2]: of all of the reference, or of the
    part of it whose top left corner, (row, column), is given.  The third result is float32 [h, w, 1]: 1 inside the
    shot, 0 outside, where the others repeat its border.
    """
    (height, width), (rows, columns) = shot.shape[:2], flow.shape[:2]
    x = corner[1] + np.arange(columns, dtype=np.float32) + flow[..., 0]
    y = corner[0] + np.arange(rows, dtype=np.float32)[:, None] + flow[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    moved = [
        cv2.remap(part, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).reshape(rows, columns, -1)
        for part in (shot, alone)
    ]
    return *moved, inside[..., None].astype(np.float32)


class BurstRunner:
    """Fuses the shots that it has watched with the one that it runs on, whose picture results, in any order.

    Each shot is restored by itself as it comes; the fusion runs over PyTorch in tiles.
    """

    def __init__(self, fusion: "nn.Module", alone: Session, memory: int | str | None = None, device: str = "cpu"):
        """alone: restores one shot.  device: PyTorch's, of the fusion."""
        self._fusion = fusion.eval() if device == "cpu" else copy.deepcopy(fusion).eval().to(device)
        self._alone, self._memory, self._device = alone, parse_memory(memory), device
        self._shots: list[tuple[np.ndarray, np.ndarray]] = []  # as they came, and restored

    @property
    def info(self) -> dict[str, Any]:
        return self._alone.info

    def watch(self, image: np.ndarray, sigma: float | None = None) -> None:
        """Takes a shot: [H, W, C] as Session.run takes it.  Raises MemoryBudgetError."""
        taken = image.shape[0] * image.shape[1] * BYTES_KEPT * (2 + len(self._shots))
        if taken >= self._memory:
            raise MemoryBudgetError(f"{len(self._shots) + 2} shots take {taken} bytes, without their fusion")
        shot = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], self._alone.plan.channels)))
        shot = shot.astype(np.float32) / (np.iinfo(shot.dtype).max if shot.dtype.kind == "u" else 1)
        self._shots.append((shot, self._alone.run(shot, sigma=sigma, clip=False)))

    def run(
        self,
        image: np.ndarray,
        sigma: float | None = None,
        strength: float = 1.0,
        clip: bool = True,
        out: np.ndarray | None = None,
        progress: Callable[[float], object] | None = None,
    ) -> np.ndarray:
        """Restores the reference with what the shots before it know; the arguments and the result are Session.run's."""
        self.watch(image, sigma)
        (reference, others) = self._shots[-1], sorted(self._shots[:-1], key=lambda pair: zlib.crc32(pair[0]))
        outline = align.outline(reference[1])
        flows = [align.flow(outline, align.outline(alone)) for _, alone in others]
        out = np.empty_like(image) if out is None else out
        height, width = image.shape[:2]
        left = self._memory - height * width * BYTES_KEPT * len(self._shots)
        parts = list(
            tiles(height, width, self._fusion.halo, self._fusion.multiple_of, left, BYTES_FUSING * len(self._shots))
        )
        for done, tile in enumerate(parts, 1):
            restored = self._fused(reference, others, flows, tile)
            if image.shape[2] == 1:
                restored = restored.mean(2, keepdims=True)
            source = reference[0][(*tile.core, slice(image.shape[2]))]
            result = source + strength * (restored - source)
            if clip or image.dtype.kind == "u":
                result = result.clip(0, 1)
            out[tile.core] = np.rint(result * np.iinfo(image.dtype).max) if image.dtype.kind == "u" else result
            if progress:
                progress(done / len(parts))
        return out

    def _fused(
        self,
        reference: tuple[np.ndarray, np.ndarray],
        others: list[tuple[np.ndarray, np.ndarray]],
        flows: list[np.ndarray],
        tile: Tile,
    ) -> np.ndarray:
        """The core of a tile."""
        import torch  # here: who chooses shots does without

        corner = tuple(part.start for part in tile.read)
        here = [part[tile.read] for part in reference]
        known = np.ones((*here[0].shape[:2], 1), np.float32)
        moved = [aligned(*pair, flow[tile.read], corner) for pair, flow in zip(others, flows, strict=True)]
        stacks = (np.stack(each) for each in zip((*here, known), *moved, strict=True))
        with torch.inference_mode():
            given = (torch.from_numpy(stack).permute(0, 3, 1, 2)[None].to(self._device) for stack in stacks)
            fused = self._fusion(*given)
        return fused[0].permute(1, 2, 0).cpu().numpy()[tile.core_in_read]
