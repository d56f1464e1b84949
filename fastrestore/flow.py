"""A plan's run over a picture larger than memory: rows are read ahead of it and written behind it.

A run with one strip reads a picture's rows downwards and writes them downwards, a band at a time, and calls back after
each.  So the whole picture may be an address range of which only the rows in between take memory: no row is computed
twice, and the bits are those of a run in memory.  A picture too wide for one strip is cut into columns, each with a
margin of all that its pixels depend on, which for Winograd's blocks is more than the plan's halo.
"""

import math
import mmap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from fastrestore.errors import MemoryBudgetError
from fastrestore.plan import Plan, Session

READ_AHEAD = 64  # rows, at least
_BOUNDLESS = 1 << 61  # bytes
Read = Callable[[int, int, int, int], tuple[np.ndarray, np.ndarray | None]]  # top, bottom, left, right
Emit = Callable[[int, int, np.ndarray], None]  # top row, left column, samples [rows, columns, colours + alpha]


@dataclass(frozen=True)
class Box:
    """A rectangle of a picture, in pixels."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left


@dataclass(frozen=True)
class Part:
    """A rectangle to restore, and the larger one that it depends on."""

    core: Box
    read: Box

    def cut(self, restored: np.ndarray) -> np.ndarray:
        """The core, out of what the larger rectangle became."""
        top, left = self.core.top - self.read.top, self.core.left - self.read.left
        return restored[top : top + self.core.height, left : left + self.core.width]


@dataclass
class Meter:
    """Seconds that each stage worked, and those in which the middle one had to wait for the others."""

    busy: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("reading", "restoring", "writing"), 0.0))
    waited: float = 0.0


@dataclass(frozen=True)
class Reach:
    """What windows of a picture need so that their core's bits are the whole picture's."""

    margin: int  # pixels around the core
    grid: int  # the window begins at multiples of it

    def part(self, core: Box, height: int, width: int) -> Part:
        def outer(begin: int, end: int, size: int) -> tuple[int, int]:
            return max(0, (begin - self.margin) // self.grid * self.grid), min(size, end + self.margin)

        return Part(core, Box(*outer(core.top, core.bottom, height), *outer(core.left, core.right, width)))


def reach(plan: Plan) -> Reach:
    """Of a plan.  A node computes whole blocks of row_grid rows and columns, wherever they begin, and the values of a
    block depend on all that the block reads: in exact arithmetic they would not."""
    steps = plan.steps
    need = {len(steps) - 1: (steps[-1]["row_grid"] - 1) * steps[-1]["stride"]}
    for n in range(len(steps) - 1, -1, -1):
        for i in steps[n]["inputs"] if n in need else ():
            block = (steps[i]["row_grid"] - 1) * steps[i]["stride"]
            need[i] = max(need.get(i, 0), need[n] + steps[n]["halo"] + block)
    return Reach(max(need[0], plan.halo), plan.grid)


@dataclass(frozen=True)
class Shape:
    """Of the picture, and of what is read and written together."""

    height: int
    width: int
    colours: int
    alpha: bool
    dtype: np.dtype
    block: tuple[int, int]  # rows and columns decoded together
    segment: tuple[int, int]  # rows and columns encoded together

    @property
    def pixel(self) -> int:
        """Bytes."""
        return (self.colours + self.alpha) * self.dtype.itemsize


def rows_memory(shape: Shape, width: int, lead: int, band: int) -> int:
    """Bytes of the rows of a run `width` pixels wide: read ahead, in work, waiting, being decoded or encoded."""
    block, segment = shape.block[0], min(shape.segment[0], shape.height)
    ahead = max(READ_AHEAD, 2 * block) + block
    incoming = ahead + 3 * block + lead + 3 * band  # two more blocks: the copies on the way in
    outgoing = 2 * segment + band + segment  # waiting, and the copies that are being packed
    return width * shape.pixel * (min(shape.height, incoming) + min(2 * shape.height, outgoing))


def columns(plan: Plan, shape: Shape, threads: int, memory: int, side: int | None = None) -> tuple[list[Part], int]:
    """The fewest columns that fit into the memory, and what remains for the session.  side: of parts, at most, but not
    less than a segment's; None: a column is one part.  Sides are multiples of the segments'.  Raises
    MemoryBudgetError."""
    beyond, step = reach(plan), shape.segment[1]
    most = math.ceil(shape.width / step)
    across = 1 if side is None else math.ceil(most / max(1, side // step))
    tallest = _addressable(shape, memory) if side is None else max(1, side // shape.segment[0]) * shape.segment[0]
    height = min(shape.height, tallest + 2 * beyond.margin + beyond.grid)
    while True:
        core = math.ceil(most / across) * step
        width = min(shape.width, core + 2 * beyond.margin + beyond.grid)
        layout = plan.layout(height, width, threads, _BOUNDLESS)
        rows = rows_memory(shape, width, max(beyond.margin, layout["lead"]), layout["band"])
        try:
            if memory > rows and plan.layout(height, width, threads, memory - rows)["strips"] == 1:
                parts = boxes(Box(0, shape.height, 0, shape.width), tallest, core)
                return [beyond.part(box, shape.height, shape.width) for box in parts], memory - rows
        except MemoryBudgetError:
            pass
        if across == most:
            raise MemoryBudgetError(
                f"a memory budget of {memory} bytes is too small for {shape.width} x {shape.height} pixels piece by "
                f"piece: this model needs {rows + layout['working_bytes']} bytes"
            )
        across = min(most, across + 1 + across // 8)


def boxes(whole: Box, tall: int, wide: int) -> Iterator[Box]:
    """Rectangles that cover a larger one, column by column."""
    for left in range(whole.left, whole.right, wide):
        for top in range(whole.top, whole.bottom, tall):
            yield Box(top, min(top + tall, whole.bottom), left, min(left + wide, whole.right))


def _addressable(shape: Shape, memory: int) -> int:
    """How many rows a part may have: all of them where address space can be had without memory behind it."""
    try:
        for _ in range(2):
            Rows(shape.height, shape.width, shape.colours + shape.alpha, shape.dtype)
        return shape.height
    except (OSError, OverflowError, ValueError, MemoryError):
        rows = memory // 4 // (shape.width * shape.pixel)
        return max(1, rows // shape.segment[0]) * shape.segment[0]


class Rows:
    """An array [height, width, channels] whose rows take memory from when they are written to when they are dropped."""

    def __init__(self, height: int, width: int, channels: int, dtype: np.dtype):
        self._row = width * channels * np.dtype(dtype).itemsize
        if hasattr(mmap, "MAP_PRIVATE"):
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
            self._memory = mmap.mmap(-1, height * self._row, flags=flags)
        else:  # Windows: memory behind it all
            self._memory = mmap.mmap(-1, height * self._row)
        self.array = np.frombuffer(self._memory, dtype).reshape(height, width, channels)
        self._dropped = 0

    def drop(self, row: int) -> None:
        """Rows above this one are not read any more."""
        end = row * self._row // mmap.PAGESIZE * mmap.PAGESIZE
        if end > self._dropped and hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED, self._dropped, end - self._dropped)
            self._dropped = end


class Flow:
    """One run of a session over a part: a thread reads ahead of it, another writes behind it."""

    def __init__(self, shape: Shape, part: Part, plan: Plan, band: int, read: Read, emit: Emit, meter: Meter):
        box = part.read
        self._padding = plan.multiple_of  # rows that may be read once more, reflected at the picture's lower edge
        self._shape, self._part, self._band, self._meter = shape, part, band, meter
        self._read, self._emit = read, emit
        self._source = Rows(box.height, box.width, shape.colours, shape.dtype)
        self._result = Rows(box.height, box.width, shape.colours, shape.dtype)
        self._alpha = Rows(box.height, box.width, 1, shape.dtype) if shape.alpha else None
        self._ahead = max(READ_AHEAD, 2 * shape.block[0])
        self._behind = 2 * shape.segment[0] + band
        self._changed = threading.Condition()
        self._arrived = self._taken = self._done = 0  # rows of the part's larger rectangle
        self._written = part.core.top - box.top  # those above the core are for nobody
        self._error: BaseException | None = None
        self._stop = False

    def run(
        self, session: Session, sigma: float | None, strength: float, clip: bool, tick: Callable[[float], object]
    ) -> None:
        """Returns when everything has been emitted.  Raises what reading, restoring, emitting or tick raise."""
        height = self._part.read.height
        threads = [threading.Thread(target=self._guarded, args=(stage,)) for stage in (self._fill, self._drain)]
        for thread in threads:
            thread.start()
        start, waited = time.perf_counter(), self._meter.waited

        def next_band(share: float) -> None:
            padded = math.ceil(height / self._padding) * self._padding
            tick(share)
            self._advance(min(height, round(share * padded)))

        try:
            self._advance(0)
            session.run(self._source.array, sigma, strength, clip, self._result.array, next_band)
            self._meter.busy["restoring"] += time.perf_counter() - start - (self._meter.waited - waited)
            self._wait(lambda: self._written >= height)
        finally:
            with self._changed:
                self._stop = True
                self._changed.notify_all()
            for thread in threads:
                thread.join()

    def _advance(self, done: int) -> None:
        """After a band: rows above `done` are restored; the next band's must have arrived before it begins."""
        with self._changed:
            self._done = done
            self._taken = min(self._part.read.height, self._taken + self._band)
            self._changed.notify_all()
        self._source.drop(done - self._padding)
        start = time.perf_counter()
        self._wait(lambda: self._arrived >= self._taken and self._done - self._written <= self._behind)
        self._meter.waited += time.perf_counter() - start

    def _wait(self, ready: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._stop or ready())
        if self._error:
            raise self._error

    def _guarded(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def _fill(self) -> None:
        box, block = self._part.read, self._shape.block[0]
        y = 0
        while y < box.height:
            self._wait(lambda y=y: y - self._taken < self._ahead)
            if self._stop:
                return
            start = time.perf_counter()
            end = min(box.height, (box.top + y) // block * block + block - box.top)
            pixels, alpha = self._read(box.top + y, box.top + end, box.left, box.right)
            self._source.array[y:end] = pixels
            if self._alpha:
                self._alpha.array[y:end, :, 0] = alpha
            self._meter.busy["reading"] += time.perf_counter() - start
            with self._changed:
                self._arrived = y = end
                self._changed.notify_all()

    def _drain(self) -> None:
        core, box, rows = self._part.core, self._part.read, self._shape.segment[0]
        y = core.top
        while y < core.bottom:
            end = min(core.bottom, y // rows * rows + rows)
            self._wait(lambda end=end: self._done >= end - box.top)
            if self._stop:
                return
            start = time.perf_counter()
            inside = slice(y - box.top, end - box.top), slice(core.left - box.left, core.right - box.left)
            samples = self._result.array[inside]
            if self._alpha:
                samples = np.concatenate([samples, self._alpha.array[inside]], 2)
            self._emit(y, core.left, samples)
            y = end
            for held in filter(None, (self._result, self._alpha)):
                held.drop(y - box.top)
            self._meter.busy["writing"] += time.perf_counter() - start
            with self._changed:
                self._written = y - box.top
                self._changed.notify_all()
        with self._changed:
            self._written = box.height
            self._changed.notify_all()
