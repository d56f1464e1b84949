"""Streams: a recurrent module run frame after frame, with the state that goes from one to the next.

Where the module is a U-Net with a fusion behind it, both run as plans; a module with a `step` of its own runs over
PyTorch in tiles.  The state's size depends on the frame's alone, so an hour takes no more memory than a second.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from fastrestore import align, estimate
from fastrestore.errors import ImageError, MemoryBudgetError
from fastrestore.layers import State, carried
from fastrestore.plan import Plan, Session, parse_memory
from fastrestore.tiled import Tile, tiles

BYTES_PER_PIXEL = 640  # of a tile while a step runs; measured 475 to 561 with widths of 64, 96, 144
Put = Callable[[Tile, np.ndarray, np.ndarray], None]  # a tile, what came and what was restored of its core
Progress = Callable[[float], object]

NO_PLAN = "no plan has the roots, logarithms and quotients of images that its filter over time takes"  # FusionUNet
ESTIMATE_EVERY = 24  # frames between two estimates of the noise level, whose mean is used


def is_recurrent(module: nn.Module | None) -> bool:
    """Whether a module restores with a state, by `step`."""
    return hasattr(module, "step")


class Runner(ABC):
    """One stream, with Session.run's signature: the next frame in, its result out.

    A frame that shows another scene than the one before begins anew, without a state.
    """

    def __init__(self):
        self.cuts = 0  # scene changes so far
        self._state: State | None = None
        self._outline: np.ndarray | None = None  # of what the flow is found in, of the frame that the state belongs to

    @abstractmethod
    def run(
        self,
        image: np.ndarray,
        sigma: float | None = None,
        strength: float = 1.0,
        clip: bool = True,
        out: np.ndarray | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Restores the next frame: [H, W, C] uint8, uint16, float16 or float32; returns the same shape and dtype.

        Raises ImageError for a frame of another size than the stream's, MemoryBudgetError if the state and the
        smallest tile do not fit.  The state then stays that of the last whole frame.
        """

    @abstractmethod
    def watch(self, image: np.ndarray, sigma: float | None = None) -> None:
        """Takes note of the next frame, whose result nobody needs.  The arguments and errors are run's."""

    def arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays, from which `resume` goes on to the same bits; empty before the first frame."""
        if self._state is None:
            return {}
        return {"outline": self._outline} | {name: part.numpy() for name, part in self._state._asdict().items()}

    def resume(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `arrays` gave."""
        self._outline = arrays.get("outline")
        parts = [arrays.get(name) for name in State._fields]
        self._state = None if self._outline is None else State(*map(torch.from_numpy, parts))

    def _check(self, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        if self._outline is not None and self._outline.shape != (height, width):
            before = "{1} x {0}".format(*self._outline.shape)
            raise ImageError(f"a frame of {width} x {height} pixels in a stream of {before}")

    def _carried(self, outline: np.ndarray) -> tuple[State | None, bool]:
        """The state where the frame needs it, and whether a cut has ended it."""
        if self._state is None:
            return None, False
        flow = align.flow(outline, self._outline)
        if align.difference(outline, self._outline, flow) > align.OTHER_SCENE:
            return None, True
        with torch.inference_mode():
            return carried(self._state, torch.from_numpy(flow).permute(2, 0, 1)[None]), False

    def _follow(self, state: State, outline: np.ndarray, cut: bool) -> None:
        self._state, self._outline = state, outline
        self.cuts += cut


class PlanRunner(Runner):
    """A stream through a recurrent U-Net: its plan, and the fusion's.  The flow is found between results alone."""

    def __init__(self, alone: Session, fusion: Plan, memory: int | str | None = None):
        """alone: restores a frame by itself; the stream's own sessions, on the CPU or a GPU, are made like it."""
        super().__init__()
        self._alone, self._fusion, self._memory = alone, fusion, parse_memory(memory)
        self._sessions: tuple[Session, ...] = ()  # made when the frames' size is known

    @property
    def info(self) -> dict[str, Any]:
        return self._alone.info

    def run(
        self,
        image: np.ndarray,
        sigma: float | None = None,
        strength: float = 1.0,
        clip: bool = True,
        out: np.ndarray | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        self._check(image)
        tick = progress or (lambda done: None)
        first, second = self._ready(image)
        frame = np.broadcast_to(image, (*image.shape[:2], first.plan.channels))
        peak = _peak(image)
        frame = np.ascontiguousarray(frame, np.float32) / peak if peak > 1 else np.ascontiguousarray(frame, np.float32)
        alone = first.run(frame, sigma=sigma, clip=False, progress=lambda done: tick(done / 2))
        outline = align.outline(alone)
        state, cut = self._carried(outline)
        second.states = [*(_states(state) if state else (None, None)), _even(alone)]
        result = second.run(image, strength=strength, clip=clip, out=out, progress=lambda done: tick((1 + done) / 2))
        height, width = image.shape[:2]
        last, hidden, _ = (torch.from_numpy(part).permute(2, 0, 1)[None] for part in second.states)
        self._follow(State(last[..., :height, :width].contiguous(), hidden.contiguous()), outline, cut)
        return result

    def watch(self, image: np.ndarray, sigma: float | None = None) -> None:
        self.run(image, sigma)

    def _ready(self, image: np.ndarray) -> tuple[Session, ...]:
        """The sessions, on what the budget leaves beside the states: the runner's, and both of the fusion's."""
        height, width = image.shape[:2]
        each = sum(channels / stride**2 for channels, stride in self._fusion.states)
        states = round(3 * 4 * height * width * each)
        if states >= self._memory:
            raise MemoryBudgetError(f"the states of {width} x {height} pixels take {states} bytes, without their work")
        if not self._sessions:
            left = (self._memory - states) // 2
            self._sessions = self._alone.again(left), self._alone.again(left, self._fusion)
        return self._sessions


def _states(state: State) -> list[np.ndarray]:
    """As a plan's states: [H, W, channels], padded to even sides."""
    frame, hidden = (part[0].permute(1, 2, 0).numpy() for part in state)
    return [_even(frame), hidden]


def _even(image: np.ndarray) -> np.ndarray:
    return np.pad(image, [(0, side % 2) for side in image.shape[:2]] + [(0, 0)], mode="edge")


class TiledRunner(Runner):
    """A stream through a module with a `step` of its own, over PyTorch in tiles.  The flow is found between frames."""

    def __init__(
        self, module: nn.Module, memory: int | str | None = None, precision: str = "float32", device: str = "cpu"
    ):
        """device: PyTorch's, of the steps; the state between frames is the host's."""
        super().__init__()
        self.module = module if device == "cpu" else copy.deepcopy(module).to(device)
        self.memory, self.precision, self.device = parse_memory(memory), precision, device

    @property
    def info(self) -> dict[str, Any]:
        return {"device": self.device, "isa": "torch", "precision": self.precision, "tiled": True}

    def run(
        self,
        image: np.ndarray,
        sigma: float | None = None,
        strength: float = 1.0,
        clip: bool = True,
        out: np.ndarray | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        out = np.empty_like(image) if out is None else out
        peak = _peak(image)

        def put(tile: Tile, source: np.ndarray, restored: np.ndarray) -> None:
            if image.shape[2] == 1:
                restored = restored.mean(2, keepdims=True)
            result = source + strength * (restored - source)
            if clip or peak > 1:
                result = result.clip(0, 1)
            out[tile.core] = np.rint(result * peak) if peak > 1 else result

        self._advance(image, sigma, put, progress)
        return out

    def watch(self, image: np.ndarray, sigma: float | None = None) -> None:
        self._advance(image, sigma, None, None)

    def _advance(self, image: np.ndarray, sigma: float | None, put: Put | None, progress: Progress | None) -> None:
        """Goes through the tiles of a frame and keeps its state.  put: is given each tile's result."""
        self._check(image)
        height, width = image.shape[:2]
        outline = align.outline(image)
        state, cut = self._carried(outline)
        following = self._empty(height, width)
        parts = self._tiles(height, width)
        for done, tile in enumerate(parts, 1):
            source = image[tile.read].astype(np.float32) / _peak(image)
            restored = self._step(source, sigma, state, following, tile, put is not None)
            if put:
                put(tile, source[tile.core_in_read], restored)
            if progress:
                progress(done / len(parts))
        self._follow(following, outline, cut)

    def _empty(self, height: int, width: int) -> State:
        """The next state's memory."""
        multiple, config = self.module.multiple_of, self.module.config
        padded = -(-height // multiple) * multiple, -(-width // multiple) * multiple
        hidden = torch.empty(1, config.hidden, padded[0] // 2, padded[1] // 2)
        return State(torch.empty(1, self.module.frame_channels, height, width), hidden)

    def _tiles(self, height: int, width: int) -> list[Tile]:
        """The frame's tiles within what the budget leaves beside two states."""
        config = self.module.config
        states = 2 * 4 * height * width * (self.module.frame_channels + -(-config.hidden // 4))
        if states >= self.memory:
            raise MemoryBudgetError(f"the state of {width} x {height} pixels takes {states} bytes, without its tiles")
        left, module = self.memory - states, self.module
        return list(tiles(height, width, module.step_halo, module.multiple_of, left, BYTES_PER_PIXEL))

    def _step(
        self, source: np.ndarray, sigma: float | None, state: State | None, following: State, tile: Tile, wanted: bool
    ) -> np.ndarray | None:
        """Puts the state of a tile's core into the following one; returns its result [H, W, C] if that is wanted."""
        module, multiple = self.module, self.module.multiple_of
        x = torch.from_numpy(source).permute(2, 0, 1)[None].expand(-1, module.config.channels, -1, -1).to(self.device)
        before = None
        if state is not None:
            parts = state.frame[(..., *tile.read)], state.hidden[(..., *_half(tile.read, multiple))]
            before = State(*(part.to(self.device) for part in parts))
        given = x, sigma if module.takes_sigma else None, before
        y = None
        half = None if self.precision == "float32" else getattr(torch, self.precision)
        with torch.inference_mode(), torch.autocast(self.device, half, enabled=half is not None):
            if wanted or not hasattr(module, "watch"):
                y, after = module.step(*given)
            else:
                after = module.watch(*given)
        inner = tile.core_in_read
        following.frame[(..., *tile.core)] = after.frame[(..., *inner)].float().cpu()
        hidden = after.hidden[(..., *_half(inner, multiple))].float().cpu()
        following.hidden[(..., *_half(tile.core, multiple))] = hidden
        return None if y is None else y[0][(..., *inner)].permute(1, 2, 0).float().cpu().numpy()


def _peak(image: np.ndarray) -> int:
    return np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1


def _half(part: tuple[slice, slice], multiple: int) -> tuple[slice, slice]:
    """The part of the features at half resolution, of the padded frame, that belongs to a part of the frame."""
    return tuple(slice(one.start // 2, -(-one.stop // multiple) * multiple // 2) for one in part)


class NoiseLevel:
    """The noise level of a stream: the mean of estimates of some of its frames, so that it does not flicker."""

    def __init__(self):
        self._frames, self._sum, self._estimates = 0, 0.0, 0

    def __call__(self, pixels: np.ndarray) -> float:
        """The level that the next frame's restoration is told.  pixels: [H, W, C]."""
        if self._frames % ESTIMATE_EVERY == 0:
            self._sum += estimate.noise_level(pixels)
            self._estimates += 1
        self._frames += 1
        return self._sum / self._estimates

    def array(self) -> np.ndarray:
        """What it knows, for `resume`."""
        return np.array([self._frames, self._sum, self._estimates], np.float64)

    def resume(self, array: np.ndarray) -> None:
        """Goes on from what `array` gave."""
        self._frames, self._sum, self._estimates = int(array[0]), float(array[1]), int(array[2])
