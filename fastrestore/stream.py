"""Streams: a recurrent module run frame after frame, with the state that goes from one to the next.

All of it runs as plans: a U-Net and the fusion behind it, or a step that fuses before its U-Net.  The state's size
depends on the frame's alone, so an hour takes no more memory than a second.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from fastrestore import align, engine, estimate
from fastrestore.errors import ImageError, MemoryBudgetError
from fastrestore.layers import State, carried
from fastrestore.models import FusionUNet, RecurrentUNet
from fastrestore.models.fusion_unet import FusionStep
from fastrestore.plan import Plan, Session, parse_memory

Progress = Callable[[float], object]

ESTIMATE_EVERY = 24  # frames between two estimates of the noise level, whose mean is used


def is_recurrent(module: nn.Module | None) -> bool:
    """Whether a module restores with a state."""
    return isinstance(module, FusionUNet | RecurrentUNet)


class Runner(ABC):
    """One stream, with Session.run's signature: the next frame in, its result out.

    A frame that shows another scene than the one before begins anew, without a state.
    """

    evenness = align.EVEN  # of the flow

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

        Raises ImageError for a frame of another size than the stream's, MemoryBudgetError if the state and the work on
        the narrowest strip do not fit.  The state then stays that of the last whole frame.
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
        flow = align.flow(outline, self._outline, self.evenness)
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
        multiple = second.plan.multiple_of
        second.states = [*_states(state, multiple), _padded(alone, multiple)]
        result = second.run(image, strength=strength, clip=clip, out=out, progress=lambda done: tick((1 + done) / 2))
        self._follow(_state(second.states, image), outline, cut)
        return result

    def watch(self, image: np.ndarray, sigma: float | None = None) -> None:
        self.run(image, sigma)

    def _ready(self, image: np.ndarray) -> tuple[Session, ...]:
        """The sessions, on what the budget leaves beside the states: the runner's, and both of the fusion's."""
        left = _left(self._memory, self._fusion, image) // 2
        if not self._sessions:
            self._sessions = self._alone.again(left), self._alone.again(left, self._fusion)
        return self._sessions


class StepPlans:
    """The plans of a FusionUNet's streams, each compiled when it is first needed."""

    def __init__(self, module: FusionUNet, precision: str):
        self._module, self._precision = module, precision
        self.multiple_of = module.multiple_of  # of a state's sides; the plan for watching has fewer levels

    @cached_property
    def step(self) -> Plan:
        return engine.compile(FusionStep(self._module), self._precision)

    @cached_property
    def watch(self) -> Plan:
        return engine.compile(FusionStep(self._module, watch=True), self._precision)


class StepRunner(Runner):
    """A stream through a network whose step is one plan.  The flow is found between a frame, as it comes, and what was
    fused before, which has less noise."""

    evenness = align.EVEN_NOISY

    def __init__(
        self,
        plans: StepPlans,
        memory: int | str | None = None,
        threads: int | None = None,
        device: str = "cpu",
        precision: str | None = None,
    ):
        """device and precision are Plan.session's."""
        super().__init__()
        self._plans, self._memory = plans, parse_memory(memory)
        self._where = {"device": device, "threads": threads, "precision": precision}
        self._session: Session | None = None  # of the plan that ran last: one at a time holds memory

    @property
    def info(self) -> dict[str, Any]:
        return self._plans.step.session(**self._where, memory=self._memory).info

    def run(
        self,
        image: np.ndarray,
        sigma: float | None = None,
        strength: float = 1.0,
        clip: bool = True,
        out: np.ndarray | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        return self._advance(self._plans.step, image, image, sigma, strength, clip, out, progress)

    def watch(self, image: np.ndarray, sigma: float | None = None) -> None:
        self._advance(self._plans.watch, image, _padded(image, self._plans.multiple_of), sigma)

    def _advance(self, plan: Plan, image: np.ndarray, frame: np.ndarray, *given: Any) -> np.ndarray:
        """What the plan makes of the next frame, which is the image or that padded; keeps the state after it."""
        self._check(image)
        left = _left(self._memory, plan, image)
        if self._session is None or self._session.plan is not plan:
            self._session = None
            self._session = plan.session(**self._where, memory=left)
        outline = align.outline(image)
        state, cut = self._carried(outline)
        self._session.states = _states(state, self._plans.multiple_of)
        del state  # the session has a copy
        result = self._session.run(frame, *given)
        state = _state(self._session.states, image)
        fused = np.ascontiguousarray(state.frame[0, :-1].permute(1, 2, 0))
        self._follow(state, align.outline(fused), cut)
        return result


def _left(memory: int, plan: Plan, image: np.ndarray) -> int:
    """What a budget leaves for a plan's work beside the copies of its states.  Raises MemoryBudgetError."""
    height, width = image.shape[:2]
    each = sum(channels / stride**2 for channels, stride in plan.states)
    states = round(3 * 4 * height * width * each)
    if states >= memory:
        raise MemoryBudgetError(f"the states of {width} x {height} pixels take {states} bytes, without their work")
    return memory - states


def _states(state: State | None, multiple: int) -> list[np.ndarray | None]:
    """As a plan's states, [H, W, channels] of the padded frame."""
    if state is None:
        return [None, None]
    frame, hidden = (part[0].permute(1, 2, 0).numpy() for part in state)
    return [_padded(frame, multiple), hidden]


def _state(states: list[np.ndarray], image: np.ndarray) -> State:
    """Of a plan's states after an image."""
    height, width = image.shape[:2]
    frame, hidden = (torch.from_numpy(part).permute(2, 0, 1)[None] for part in states[:2])
    return State(frame[..., :height, :width].contiguous(), hidden.contiguous())


def _padded(image: np.ndarray, multiple: int) -> np.ndarray:
    return np.pad(image, [(0, -side % multiple) for side in image.shape[:2]] + [(0, 0)], mode="edge")


def _peak(image: np.ndarray) -> int:
    return np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1


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
