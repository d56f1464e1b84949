"""Plans and sessions: a compiled network, and its runs on pictures.  Nothing here needs torch.

compile, in engine.py, makes a plan from a module.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastrestore.core import _C
from fastrestore.errors import ImageError, MemoryBudgetError, ModelError
from fastrestore.files import whole_file

DEFAULT_MEMORY = "1GiB"


def parse_memory(memory: int | str | None) -> int:
    """Bytes from an integer or a binary string: "64MiB", "1GiB", "512KiB", "1000"; None is the default of 1 GiB.

    Raises ValueError for anything else.
    """
    if memory is None:
        memory = DEFAULT_MEMORY
    if isinstance(memory, int) and not isinstance(memory, bool):
        count, unit = memory, ""
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B?|B)?\s*", str(memory), re.IGNORECASE)
        if match is None:
            raise ValueError(f"memory must be like 64MiB or 1GiB, got {memory!r}")
        count, unit = float(match[1]), (match[2] or "").upper()
    size = int(count * 1024 ** "BKMGT".index((unit or "B")[0]))
    if not 0 < size < 2**62:
        raise ValueError(f"memory must be positive, got {memory!r}")
    return size


class Plan:
    """A compiled module.  Immutable; sessions of several threads share it.

    channels: of input and output.  takes_sigma: whether a run is given a noise level.  halo: pixels that an output
    pixel looks, each way; None: at the whole picture.  multiple_of: each side of a picture is padded to it.  grid:
    windows that begin at multiples of it have the whole picture's bits.  isa and precision: how it computes.
    states: (channels, stride) of what a session keeps from one picture to the next; empty for most models.
    takes_guide: whether a run may be given a guide, which is then the plan's state.
    card: what is known of the model (name, task, licence and so on); it is saved with the plan.
    """

    def __init__(self, plan: "_C.Plan", card: Mapping[str, Any] | None = None):
        self._plan = plan
        self.channels: int = plan.channels
        self.takes_sigma: bool = plan.takes_sigma
        self.halo: int | None = None if plan.sees_everything else plan.halo
        self.multiple_of: int = plan.multiple_of
        self.grid: int = plan.grid
        self.states: list[tuple[int, int]] = plan.states
        self.isa: str = plan.isa
        self.precision: str = plan.precision
        self.card: dict[str, Any] = dict(card or {})
        self.takes_guide: bool = self.states == [(self.card.get("guide"), 1)]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the plan as one file, which runs in Python and in C on any CPU; see docs/embed.md.

        The file holds the graph, its float32 weights, the precision and the card; it appears whole or not at all.
        Raises ModelError for weights that are not finite and for a card that JSON cannot hold, OSError if writing
        fails.
        """
        path = Path(path)
        try:
            content = _C.plan_bytes(self._plan, json.dumps(self.card, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise ModelError(f"{path}: the plan cannot be saved: {error}") from error
        with whole_file(path) as file:
            file.write(content)

    @classmethod
    def load(cls, path: str | os.PathLike, isa: str = "") -> "Plan":
        """The plan of a file that `save` wrote, made ready for this CPU.  isa: as compile's.

        Raises ModelError, naming the file, for anything that is not exactly such a file, ValueError for an
        instruction set that this CPU lacks.
        """
        isa = _C.usable_isa(isa)
        try:
            plan, card = _C.load_plan(os.fsencode(path), isa)
        except OSError as error:
            raise ModelError(f"{os.fspath(path)}: {error.strerror}") from error
        except ValueError as error:
            raise ModelError(f"{os.fspath(path)}: {error}") from error
        return cls(plan, json.loads(card))

    @property
    def steps(self) -> list[dict[str, Any]]:
        """One entry a node: operator, the kernel that computes it (or ""), channels, stride, inputs; what a pixel takes
        in memory, how far the operator looks (halo, in input pixels), and a convolution's shape and epilogue."""
        return _C.plan_steps(self._plan)

    def layout(self, height: int, width: int, threads: int, memory: int | str | None = None) -> dict[str, Any]:
        """Strips, bands and ring buffers for pictures of this size.  Raises MemoryBudgetError if over budget."""
        try:
            return _C.plan_layout(self._plan, height, width, threads, parse_memory(memory))
        except _C.MemoryBudgetExceeded as error:
            raise MemoryBudgetError(str(error)) from None

    @property
    def packed_bytes(self) -> int:
        """What the weights take, in the order that the kernels read them."""
        return self._plan.packed_bytes

    def session(
        self,
        device: str = "cpu",
        threads: int | None = None,
        memory: int | str | None = None,
        precision: str | None = None,
    ) -> "Session":
        """A session on `threads` threads (None: all this process may use) within `memory` bytes beyond the picture, the
        result and the plan's weights.

        device: "cpu" (also "auto"), or "cuda": the current GPU, whose memory is meant then.  precision: on a GPU the
        type of images and products, float32, bfloat16 or float16; None is float16 for a float32 plan, else bfloat16.
        Raises ValueError for what does not fit, DeviceError where there is no GPU or the core has no kernels for one.
        """
        if device == "cuda":
            from fastrestore.engine import CudaSession  # imports torch, whose stream its work follows

            return CudaSession(self, precision or "", parse_memory(memory))
        if device not in ("cpu", "auto"):
            raise ValueError(f"device must be cpu, cuda or auto, got {device!r}")
        if precision not in (None, self.precision):
            raise ValueError(f"on the CPU a plan of {self.precision} runs in that precision, not in {precision!r}")
        return Session(self, threads or _C.hardware_threads(), parse_memory(memory))


class Session:
    """Runs a plan on pictures, keeping its working memory between runs."""

    def __init__(self, plan: Plan, threads: int, memory: int):
        self.plan, self.threads, self.memory = plan, threads, memory
        self.halo = plan.halo
        self._session = _C.Session(plan._plan, threads, memory)
        self.report: Any = None  # of the last run: strips, band, working_bytes, non_finite

    @property
    def info(self) -> dict[str, Any]:
        return {
            "device": "cpu",
            "isa": self.plan.isa,
            "precision": self.plan.precision,
            "threads": self.threads,
            "memory": self.memory,
        }

    def again(self, memory: int | str | None, plan: Plan | None = None) -> "Session":
        """Another session like this one, within other memory, of its plan or of another."""
        return (plan or self.plan).session("cpu", self.threads, memory)

    def reset(self) -> None:
        """Forgets the pictures before, where the plan has states; a picture of another size does so too."""
        self._session.reset()

    @property
    def states(self) -> list[np.ndarray | None]:
        """A copy of each state, [H, W, channels] float32 at its stride of the padded picture, as the last run left it;
        None before the first run and after reset.  Assigning others (warped to the next picture, say) replaces them;
        None begins anew.  Raises ValueError for another number of states or channels."""
        return [self._session.state(number) for number in range(len(self.plan.states))]

    @states.setter
    def states(self, images: Sequence[np.ndarray | None]) -> None:
        if len(images) != len(self.plan.states):
            raise ValueError(f"the plan has {len(self.plan.states)} states, got {len(images)}")
        for number, (image, (channels, _)) in enumerate(zip(images, self.plan.states, strict=True)):
            empty = np.empty((0, 0, channels), np.float32)
            self._session.set_state(number, empty if image is None else np.ascontiguousarray(image, np.float32))

    def working_bytes(self, height: int, width: int) -> int:
        """What a run of this size allocates beyond input and output.  Raises MemoryBudgetError if over budget."""
        try:
            return self._session.preview(height, width).working_bytes
        except _C.MemoryBudgetExceeded as error:
            raise MemoryBudgetError(str(error)) from None

    def run(
        self,
        image: np.ndarray,
        sigma: float | None = None,
        strength: float = 1.0,
        clip: bool = True,
        out: np.ndarray | None = None,
        progress: Callable[[float], object] | None = None,
        guide: np.ndarray | None = None,
    ) -> np.ndarray:
        """Restores one image.

        image: [H, W, C] uint8, uint16, float16 or float32, pixels of a row contiguous; C is the model's channel
        count or 1.  Floats are nominally in [0, 1], never clipped on the way in.  sigma: in 0-255 units, given if
        and only if plan.takes_sigma.  strength: 0 gives the input, 1 the restored image, linear in between.
        clip: floats are clipped to [0, 1].  out: written into, of image's shape and dtype, not overlapping it.
        progress: called with the share done; an exception it raises stops the run and is passed on.
        guide: for a plan that takes_guide, another picture of the scene, aligned with the image and of its size: [H, W,
        1 or 3] of any of those types.  It serves this run alone; None: without.
        Returns out.  Raises ValueError or TypeError for what does not fit, ImageError for a guide of another size,
        MemoryBudgetError.
        """
        if guide is not None:
            self.states = [self._guide_state(image, guide)]
            try:
                return self.run(image, sigma, strength, clip, out, progress)
            finally:
                self.reset()
        if out is None:
            out = np.empty(image.shape, image.dtype)
        elif np.shares_memory(image, out):
            raise ValueError("Session.run: out overlaps the image")
        try:
            self.report = self._session.run(image, out, sigma, strength, clip, progress)
        except _C.MemoryBudgetExceeded as error:
            raise MemoryBudgetError(str(error)) from None
        return out

    def _guide_state(self, image: np.ndarray, guide: np.ndarray) -> np.ndarray:
        """The guide as the plan's state: [H, W, channels] of the padded picture, the last channel 1: there is one.

        Raises as run does.
        """
        check_guide(self.plan, image, guide)
        scale = np.iinfo(guide.dtype).max if guide.dtype.kind == "u" else 1
        colours = self.plan.states[0][0] - 1
        planes = np.broadcast_to(guide, (*guide.shape[:2], colours)).astype(np.float32) / np.float32(scale)
        state = np.concatenate([planes, np.ones((*planes.shape[:2], 1), np.float32)], 2)
        return np.pad(state, [*((0, -side % self.plan.multiple_of) for side in image.shape[:2]), (0, 0)], mode="edge")


def check_guide(plan: Plan, image: np.ndarray, guide: np.ndarray) -> None:
    """Raises ValueError where the plan takes no guide, or none of this kind, and ImageError where its size is not the
    image's.  Both are [H, W, channels]."""
    if not plan.takes_guide:
        raise ValueError("Session.run: this plan takes no guide")
    colours = plan.states[0][0] - 1
    if guide.ndim != 3 or guide.shape[2] not in (1, colours):
        raise ValueError(f"Session.run: a guide must be [H, W, 1 or {colours}], got {list(guide.shape)}")
    if guide.dtype.kind not in "uf":
        raise ValueError(f"Session.run: a guide must be of unsigned integers or floats, got {guide.dtype}")
    if guide.shape[:2] != image.shape[:2]:
        of, (height, width) = "{1} x {0}".format(*guide.shape), image.shape[:2]
        raise ImageError(f"a guide of {of} pixels for a picture of {width} x {height}: they must be of one size")
