"""A picture restored from a source into a sink piece by piece, within a memory budget."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastrestore import sinks
from fastrestore.errors import ImageError, MemoryBudgetError
from fastrestore.flow import Box, Emit, Flow, Meter, Part, Reach, Shape, boxes, columns, reach
from fastrestore.plan import Session
from fastrestore.sources import Source
from fastrestore.tiled import TiledModel

Runner = Session | TiledModel
Window = Callable[[np.ndarray], np.ndarray]  # restores pixels [rows, columns, colours] that are whole in memory


def flows(runner: Runner, source: Source) -> bool:
    """Whether rows can flow through: a plan that looks a finite way and takes the source's colours at once."""
    return type(runner) is Session and runner.halo is not None and source.colours in (1, runner.plan.channels)


def reach_of(runner: Runner) -> Reach:
    """What a window needs around it.  Raises ImageError for a model that sees the whole picture."""
    if runner.halo is None:
        raise ImageError("this model looks at the whole picture at once: none can be restored piece by piece")
    if isinstance(runner, Session):
        return reach(runner.plan)
    return Reach(runner.halo, runner.multiple_of)


@dataclass(frozen=True)
class How:
    """How a picture is restored: what must be known of the whole of it."""

    sigma: float | None
    strength: float
    clip: bool


class Pieces:
    """The parts of a picture, and how each is restored.

    part_bytes: of samples that a part may have, about; None: as many as the memory allows.  scratch: the result's
    segments are as wide as the picture, and the budget allows no part so wide: put the parts together in a
    sinks.Scratch, for which their segments are made.  Raises MemoryBudgetError, ImageError.
    """

    def __init__(
        self,
        runner: Runner,
        window: Window,
        source: Source,
        segment: tuple[int, int],
        memory: int,
        how: How,
        part_bytes: int | None = None,
    ):
        self._window, self._source, self._how, self._session = window, source, how, None
        self.scratch = False
        try:
            self._arrange(runner, segment, memory, part_bytes)
        except MemoryBudgetError:
            if segment[1] < source.width:
                raise
            self.scratch = True
            self._arrange(runner, sinks.SCRATCH, memory, part_bytes)

    def _arrange(self, runner: Runner, segment: tuple[int, int], memory: int, part_bytes: int | None) -> None:
        source = self._source
        self.shape = Shape(
            source.height, source.width, source.colours, source.alpha, source.dtype, source.block, segment
        )
        if flows(runner, source):
            side = None if part_bytes is None else math.isqrt(part_bytes // self.shape.pixel)
            self.parts, left = columns(runner.plan, self.shape, runner.threads, memory, side)
            self._session = runner.plan.session("cpu", runner.threads, left)
        else:
            self.parts = _squares(self.shape, reach_of(runner), min(memory // 4, part_bytes or memory))

    def restore(
        self, part: Part, emit: Emit, meter: Meter, tick: Callable[[float], object] = lambda done: None
    ) -> None:
        """Emits a part's core; see Flow.run."""
        if self._session:
            plan, session = self._session.plan, self._session
            band = plan.layout(part.read.height, part.read.width, session.threads, session.memory)["band"]
            flow = Flow(self.shape, part, plan, band, self._source.read, emit, meter)
            flow.run(session, self._how.sigma, self._how.strength, self._how.clip, tick)
            return
        times = [time.perf_counter()]
        box = part.read
        pixels, alpha = self._source.read(box.top, box.bottom, box.left, box.right)
        times.append(time.perf_counter())
        samples = part.cut(self._window(pixels))
        times.append(time.perf_counter())
        if alpha is not None:
            samples = np.concatenate([samples, part.cut(alpha)[..., None]], 2)
        emit(part.core.top, part.core.left, samples)
        times.append(time.perf_counter())
        for stage, begin, end in zip(meter.busy, times, times[1:], strict=False):
            meter.busy[stage] += end - begin
        tick(1.0)


def restore(
    make: Callable[[tuple[int, int]], Pieces],
    sink: sinks.Sink,
    source: Source,
    folder: Path,
    tick: Callable[[float], object],
) -> dict[str, Any]:
    """Restores source into a sink and finishes it; who made the sink leaves it.

    make: the pieces, for a result of these segments.  folder: for temporary files.
    Returns {parts: how many, stages: seconds of each, shares: of the time in which each was at work (they overlap),
    bottleneck: the stage that the others wait for, waited: the share of the time in which the model had nothing to do,
    notices}.
    """
    meter, start = Meter(), time.perf_counter()
    with ExitStack() as stack:
        work = make(sink.segment)
        if work.scratch:
            sink = stack.enter_context(sinks.Scratch(sink, folder, source))
        for n, part in enumerate(work.parts):
            work.restore(part, sink.emit, meter, lambda done, n=n: tick((n + done) / len(work.parts)))
        begun = time.perf_counter()
        sink.finish()
        end = time.perf_counter()
    meter.busy["writing"] += end - begun
    waited = meter.waited + end - begun
    return {
        "parts": len(work.parts),
        "stages": {stage: round(seconds, 4) for stage, seconds in meter.busy.items()},
        "shares": {stage: round(seconds / (end - start), 4) for stage, seconds in meter.busy.items()},
        "bottleneck": max(meter.busy, key=meter.busy.get),
        "waited": round(waited / (end - start), 4),
        "notices": sink.notices,
    }


def _squares(shape: Shape, beyond: Reach, memory: int) -> list[Part]:
    """Parts whose windows take at most `memory` bytes, as near to squares as the segments allow."""
    rows, across = shape.segment
    pixels = memory // shape.pixel
    side = math.isqrt(pixels) - 2 * beyond.margin - 2 * beyond.grid
    wide = min(shape.width, max(1, side // across) * across)
    around = 2 * (beyond.margin + beyond.grid)
    tall = (pixels // (wide + around) - around) // rows * rows
    if tall < rows:
        needed = 4 * (min(shape.width, wide + around)) * (rows + around) * shape.pixel
        raise MemoryBudgetError(
            f"a memory budget of {4 * memory} bytes is too small for pieces of {shape.width} x {shape.height} pixels: "
            f"{needed} are needed"
        )
    return [
        beyond.part(box, shape.height, shape.width) for box in boxes(Box(0, shape.height, 0, shape.width), tall, wide)
    ]


class Restored(Source):
    """A source whose windows are restored when they are read, to the whole picture's bits where a plan runs.

    Each window is computed for itself, with all that it depends on around it: ask for large ones.
    """

    def __init__(self, source: Source, beyond: Reach, window: Window):
        super().__init__(
            source.path, source.height, source.width, source.colours, source.dtype, source.alpha, source.block
        )
        self.notices = source.notices
        self._source, self._beyond, self._window = source, beyond, window

    def read(self, top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray | None]:
        part = self._beyond.part(Box(top, bottom, left, right), self.height, self.width)
        box = part.read
        pixels, alpha = self._source.read(box.top, box.bottom, box.left, box.right)
        return part.cut(self._window(pixels)), None if alpha is None else part.cut(alpha)

    def close(self) -> None:
        self._source.close()
