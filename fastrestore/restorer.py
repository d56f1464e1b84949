"""Any picture in, the same kind out: the model, the noise level and the machine's path are chosen here.

torch is imported where a network has to be compiled or run by it; a picture's way through a plan that is at hand
(plancache.py) does without.
"""

from __future__ import annotations

import copy
import math
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PilImage

from fastrestore import align, burst, dicom, estimate, files, geo, pieces, plancache, sinks, sources, zoo
from fastrestore import image as images
from fastrestore.errors import DeviceError, ImageError, ModelError, UnsupportedOperator
from fastrestore.guide import GuidedRunner
from fastrestore.plan import Plan, Session, parse_memory
from fastrestore.tiled import TiledModel

if TYPE_CHECKING:
    from torch import Tensor, nn

Progress = Callable[[float], object]

FLOAT_LIMIT = 8.0  # float pictures beyond this are not in [0, 1] at all: 0 to 255, say
WHOLE_BYTES = 32 << 20  # a TIFF of more samples is restored piece by piece
_PIL_MODES = ("L", "LA", "RGB", "RGBA", "I;16", "F")


class Restorer:
    """A model made ready for this machine.  Threads may share it; they take turns.

    model: a name that fastrestore.models() lists, a .safetensors file, a plan's .frp file, an nn.Module, or None
    for the task's default.  device: "auto" (the CPU), "cpu" or "cuda", the current NVIDIA GPU.  precision: "auto"
    (float32; on a GPU float16), "float32" or "bfloat16" (about 60 dB from float32's result, and several times as fast
    on AMX); "float16" on a GPU only; "int8" only for a plan file that was compiled so.  memory: bytes, or a string like
    "1GiB", for the work beyond input and output, on a GPU of its memory; the result does not depend on it.  threads:
    of the CPU, None for all.
    Raises ModelError for a model that is unknown or refused, DeviceError where there is no usable GPU, ValueError for
    other arguments that do not fit.
    """

    def __init__(
        self,
        model: str | os.PathLike | nn.Module | None = None,
        task: str = "denoise",
        device: str = "auto",
        precision: str = "auto",
        memory: int | str | None = None,
        threads: int | None = None,
    ):
        parse_memory(memory)
        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be auto, cpu or cuda, got {device!r}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be 1 or more, got {threads}")
        self._model = zoo.default(task) if model is None else model
        self.name = type(model).__name__ if _is_of_torch(model, "nn", "Module") else os.fspath(self._model)
        self._memory, self._device = memory, device
        self._precision = "float32" if precision == "auto" else precision
        self._stamp: tuple[int, ...] | None = None  # of the model file whose plan may have been kept
        try:
            plan = self._plan()
            if device == "cuda":  # a plan's own precision is the CPU's
                wanted = None if precision == "auto" else precision
                self._runner = plan.session("cuda", memory=memory, precision=wanted)
            else:
                if precision not in ("auto", plan.precision):
                    raise ValueError(f"{self.name} was compiled for {plan.precision}, not for {precision}")
                self._runner = plan.session(device="cpu", threads=threads, memory=memory)
            self._path, self._takes_guide = "plan", plan.takes_guide
            self._channels, self._takes_sigma = plan.channels, plan.takes_sigma
        except UnsupportedOperator as error:
            import torch

            if device == "cuda" and not torch.cuda.is_available():
                raise DeviceError("no usable CUDA device for torch, and no plan can be made: " + str(error)) from None
            self._runner = TiledModel(self._module, memory, "cuda" if device == "cuda" else "cpu")
            self._path, self._takes_guide = f"torch, because {error}", False
            self._channels, self._takes_sigma = self._runner.channels, self._runner.takes_sigma
        self._noise_level: Callable[[np.ndarray], float] = estimate.noise_level
        self._lock = threading.RLock()

    def _plan(self) -> Plan:
        """The model's plan: its file's, or one that is kept, or one that is compiled now.  Raises UnsupportedOperator
        where none can be made."""
        if self.name.endswith(".frp"):
            return Plan.load(self.name)

        def compiled() -> Plan:
            from fastrestore import engine

            return engine.compile(self._module, "float32" if self._device == "cuda" else self._precision)

        path = zoo.path_of(self._model) if isinstance(self._model, str | os.PathLike) else None
        if self._device == "cuda" or path is None or path.suffix in zoo.FOREIGN:
            return compiled()
        self._stamp = files.stamp(path)
        return plancache.plan_of(path, self._precision, compiled)

    @cached_property
    def _module(self) -> nn.Module | None:
        """The network, loaded when it is first asked for; None for a plan file.

        Raises what zoo.load does, and ModelError for a file that is not the one whose plan was taken.
        """
        if not isinstance(self._model, str | os.PathLike):
            return self._model
        if self.name.endswith(".frp"):
            return None
        if self._stamp not in (None, files.stamp(zoo.path_of(self._model))):
            raise ModelError(f"{self.name}: the model file has changed since this restorer was made")
        return zoo.load(self._model)

    @cached_property
    def _fusion(self) -> Plan | stream.StepPlans | None:
        """What a recurrent model needs beside its own plan, for streams and bursts only."""
        from fastrestore import engine, models, stream

        precision = "float32" if self._device == "cuda" else self._precision
        if isinstance(self._module, models.FusionUNet):
            return stream.StepPlans(self._module, precision)
        if isinstance(self._module, models.RecurrentUNet):
            return engine.compile(self._module.fusion, precision)
        return None

    @property
    def info(self) -> dict[str, Any]:
        """The model's name and kind, and the path taken: device, ISA, precision, threads, memory.

        latency: how many frames of a stream must have come after one before its result does.
        """
        about = {"model": self.name, "channels": self._channels, "takes_sigma": self._takes_sigma, "latency": 0}
        about["takes_guide"] = self._takes_guide
        return about | {"path": self._path} | self._runner.info

    def __call__(
        self,
        image: np.ndarray | PilImage.Image | Tensor,
        sigma: float | None = None,
        strength: float = 1.0,
        clip: bool = True,
        progress: Progress | None = None,
        guide: np.ndarray | PilImage.Image | Tensor | None = None,
    ) -> np.ndarray | PilImage.Image | Tensor:
        """Restores one picture, or a batch given as a tensor; the input is not modified.

        image: an array [H, W] or [H, W, C] with C 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGB and alpha), of
        uint8, uint16, float16, float32 or float64, with any strides; a PIL picture of mode L, LA, RGB, RGBA, I;16
        or F; a tensor [N, C, H, W] of uint8 or floats, on any device.  Floats are nominally in [0, 1].  Alpha is
        passed through.  Returns the same kind, shape, dtype and range.
        sigma: the noise level in 0-255 units; None: estimated from the picture if the model takes one.
        strength: 0 (the input) to 1 (fully restored).  clip: False leaves floats outside [0, 1] as they come.
        progress: called with the share done; an exception that it raises stops the work and comes out here.
        guide: for a model that takes one, another picture of the scene, aligned with this one and of its size:
        infrared or under a flash, of any kind that image may be (its alpha is not looked at).  One that does not
        show the picture's detail is left out, with a Python warning.  None: without.
        Raises ImageError for a picture that is empty, not finite or of another kind, and for a guide of another size;
        ValueError for sigma or strength, and for a guide where the model takes none; MemoryBudgetError when the
        budget cannot be kept.
        """
        if guide is not None:
            guided = self._with_guide(guide)
            restored = guided(image, sigma, strength, clip, progress)
            for sentence in guided._runner.notices:
                warnings.warn(sentence, stacklevel=2)
            return restored
        self._check(sigma, strength)
        if _is_of_torch(image, "Tensor"):
            return self._tensor(image, sigma, strength, clip, progress)
        if isinstance(image, PilImage.Image):
            return self._pil(image, sigma, strength, clip, progress)
        if isinstance(image, np.ndarray):
            return self._array(image, sigma, strength, clip, progress)
        raise ImageError(f"a picture must be an ndarray, a PIL image or a tensor, got {type(image).__name__}")

    def _with_guide(self, guide: np.ndarray | PilImage.Image | Tensor) -> Restorer:
        """This restorer for pictures that have a guide.  Raises ValueError for a model that takes none."""
        if not self._takes_guide:
            raise ValueError(f"{self.name} takes no guide")
        guided = copy.copy(self)
        guided._runner = GuidedRunner(self._runner, _colours(guide))
        return guided

    def stream(
        self,
        frames: Iterable[np.ndarray | PilImage.Image | Tensor],
        sigma: float | None = None,
        strength: float = 1.0,
        clip: bool = True,
    ) -> Iterator[np.ndarray | PilImage.Image | Tensor]:
        """Restores the frames of a clip as they come: each result before the next frame is asked for.

        frames: of one size, each of a kind that a call takes (tensors with one picture each).  The other arguments
        and the results are a call's.  A recurrent model restores each frame with what it has seen before, but not
        past a change of scene; every other model restores each by itself.  sigma None: the mean of what some frames
        so far say.  Several streams may run at once, each with a state of its own, whose size depends on the frames'
        size alone.
        Raises what a call does, and ImageError for a frame of another size; frames before it have been restored.
        """
        session = Stream(self)
        for frame in frames:
            yield session(frame, sigma, strength, clip)

    def burst(
        self,
        shots: Sequence[np.ndarray | PilImage.Image | Tensor],
        sigma: float | None = None,
        strength: float = 1.0,
        clip: bool = True,
        *,
        reference: int | None = None,
        notices: list[str] | None = None,
    ) -> np.ndarray | PilImage.Image | Tensor:
        """Restores one picture from several shots of a scene, 1 to 16, in any order.

        shots: each of a kind that a call takes (tensors with one picture each).  The result shows what the reference
        shows and is of its kind: the shot of that index, None for the sharpest.  Others are aligned with it; one of
        another size, or that shows something else, is left out.  notices: gets a sentence for each; None: they are
        Python warnings.  sigma None: estimated.  The other arguments are a call's.
        Raises ValueError for a model that restores single pictures, ImageError for shots that are none.
        """
        restored, _, said = self._burst(shots, sigma, strength, clip, reference)
        for sentence in said:
            warnings.warn(sentence, stacklevel=2) if notices is None else notices.append(sentence)
        return restored

    def burst_files(
        self,
        sources: Sequence[str | os.PathLike],
        target: str | os.PathLike,
        sigma: float | None = None,
        strength: float = 1.0,
        *,
        reference: int | None = None,
        quality: int = 95,
        max_pixels: int = images.MAX_PIXELS,
    ) -> dict[str, Any]:
        """Restores one picture from files with shots of a scene, as `burst`; what else a file holds is the reference's.

        Returns {sigma (as given), height, width, seconds (of the model), reference, notices}.  Raises what image.read,
        burst and image.write do.
        """
        self._check(sigma, strength)
        images.format_of(target)
        pictures = [images.read(source, max_pixels=max_pixels) for source in sources]
        picture, report = self.burst_pictures(pictures, sigma, strength, reference=reference)
        report["notices"] += images.write(target, picture, quality=quality)
        return report

    def burst_pictures(
        self,
        pictures: Sequence[images.Image],
        sigma: float | None = None,
        strength: float = 1.0,
        *,
        reference: int | None = None,
    ) -> tuple[images.Image, dict[str, Any]]:
        """Restores the reference of pictures that image.read gave, in its place; returns it and burst_files' report."""
        self._check(sigma, strength)
        start = time.perf_counter()
        shots = [picture.pixels for picture in pictures]
        restored, reference, notices = self._burst(shots, sigma, strength, True, reference)
        seconds = time.perf_counter() - start
        picture = pictures[reference]
        picture.pixels = restored
        height, width = restored.shape[:2]
        about = {"sigma": sigma, "height": height, "width": width, "seconds": seconds}
        return picture, about | {"reference": reference, "notices": notices + picture.notices}

    @property
    def takes_bursts(self) -> bool:
        """Whether the model makes one picture of several shots."""
        from fastrestore import models, stream

        return isinstance(self._module, models.BurstUNet) or stream.is_recurrent(self._module)

    def _burst(
        self, shots: Sequence[Any], sigma: float | None, strength: float, clip: bool, reference: int | None
    ) -> tuple[Any, int, list[str]]:
        """The restored picture, the index of the reference, and a sentence for each shot that is left out."""
        import torch

        from fastrestore import models

        if not self.takes_bursts:
            raise ValueError(f"{self.name} restores single pictures: a burst needs a model for bursts")
        outlines = [align.outline(_colours(shot)) for shot in shots]
        reference, others, notices = burst.chosen(outlines, reference)
        session = Stream(self)
        if isinstance(self._module, models.BurstUNet) and others:
            where = "cuda" if self._device == "cuda" and torch.cuda.is_available() else "cpu"
            session._runner = burst.BurstRunner(self._module.fusion, self._runner, self._memory, where)
        for index in others:  # what they leave is carried to the reference, which comes last
            session.watch(shots[index], sigma)
        return session(shots[reference], sigma, strength, clip), reference, notices

    def file(
        self,
        source: str | os.PathLike,
        target: str | os.PathLike,
        sigma: float | None = None,
        strength: float = 1.0,
        *,
        quality: int = 95,
        max_pixels: int | None = None,
        progress: Progress | None = None,
        guide: str | os.PathLike | None = None,
    ) -> dict[str, Any]:
        """Restores a picture file into another, whose suffix names the format; see image.read and image.write.

        TIFF and zarr are restored piece by piece into TIFF or zarr, within the memory budget at any size; the bytes are
        those of a run in memory.  Other pictures are decoded whole.  max_pixels: larger ones are refused; None: those
        that would be decoded whole and have more than image.MAX_PIXELS.
        GeoTIFFs with no-data or further bands keep them, band by band; see geo.py.  DICOM becomes DICOM (.dcm).
        Returns {sigma (used, or None), height, width, seconds (of the model), notices}, and piece by piece {stages,
        bottleneck, waited}, see pieces.restore.  A float picture with samples outside [0, 1] is not clipped, by notice.
        guide: a picture file, as a call's guide; the picture is then restored whole.
        Raises what image.read, __call__ and image.write do.
        """
        if guide is not None:
            guided = self._with_guide(images.read(guide, max_pixels=max_pixels).pixels)
            options = {"quality": quality, "max_pixels": max_pixels, "progress": progress}
            report = guided.file(source, target, sigma, strength, **options)
            return report | {"notices": report["notices"] + guided._runner.notices}
        self._check(sigma, strength)
        os.stat(source)  # that it is missing is the more useful message
        source, target, way = Path(source), Path(target), self.way(source, target)
        if way == "pieces":
            with sources.open_image(source, max_pixels=max_pixels) as opened:
                return self.opened(opened, target, sigma, strength, quality=quality, progress=progress)
        if way == "bands":
            return geo.restore(
                source,
                target,
                lambda bands, sink, tick: self._into(sink, bands, target.parent, sigma, strength, tick),
                progress or _nothing,
            )
        if way == "slices":
            return self._slices(source, target, sigma, strength, max_pixels, progress)
        images.format_of(target)
        picture = images.read(source, max_pixels=max_pixels)
        report = self.picture(picture, sigma, strength, progress)
        report["notices"] += images.write(target, picture, quality=quality)
        return report

    def way(self, source: str | os.PathLike, target: str | os.PathLike) -> str:
        """How file() works.  "pieces": into zarr, and with a model that does not look at the whole picture at once into
        TIFF from a zarr or a large TIFF; "bands": with such a model, a GeoTIFF that geo.wanted() speaks of; "slices":
        from DICOM into DICOM; "picture": whole."""
        suffix, local = Path(target).suffix.lower(), self._runner.halo is not None
        if suffix == sources.ZARR:
            return "pieces"
        if suffix == dicom.SUFFIX and dicom.is_dicom(source):
            return "slices"
        if images.format_of(target) != "TIFF" or not local:
            return "picture"
        if geo.wanted(source, target):
            return "bands"
        return "pieces" if os.path.isdir(source) or sources.is_large_tiff(source, WHOLE_BYTES) else "picture"

    def _slices(
        self,
        source: Path,
        target: Path,
        sigma: float | None,
        strength: float,
        max_pixels: int | None,
        progress: Progress | None,
    ) -> dict[str, Any]:
        tick = progress or _nothing
        opened = dicom.Slice(source, images.MAX_PIXELS if max_pixels is None else max_pixels)
        start, frames = time.perf_counter(), []
        for n, frame in enumerate(opened.frames):
            share = 1 / len(opened.frames)
            restored, used = self._restore(
                frame, sigma, strength, True, lambda done, n=n, s=share: tick((n + done) * s)
            )
            sigma = used  # of the first frame: one picture, one level
            frames.append(restored)
        seconds = time.perf_counter() - start
        opened.back(frames)
        opened.write(target)
        height, width = frames[0].shape[:2]
        return {"sigma": sigma, "height": height, "width": width, "seconds": seconds, "notices": []}

    def opened(
        self,
        source: sources.Source,
        target: str | os.PathLike,
        sigma: float | None = None,
        strength: float = 1.0,
        *,
        quality: int = 95,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Restores an opened picture of any size into a TIFF file or a zarr array; see file()."""
        target = Path(target)
        with sinks.create(target, source, quality) as sink:
            return self._into(sink, source, target.parent, sigma, strength, progress or _nothing)

    def _into(
        self,
        sink: sinks.Sink,
        source: sources.Source,
        folder: Path,
        sigma: float | None,
        strength: float,
        tick: Progress,
    ) -> dict[str, Any]:
        how, notices = self.prepared(source, sigma, strength)
        with self._lock:
            report = pieces.restore(lambda segment: self.apart(source, segment, how), sink, source, folder, tick)
        report["notices"] = notices + report["notices"]
        about = {"sigma": how.sigma, "height": source.height, "width": source.width}
        return about | {"seconds": report["stages"]["restoring"]} | report

    def apart(
        self, source: sources.Source, segment: tuple[int, int], how: pieces.How, part_bytes: int | None = None
    ) -> pieces.Pieces:
        """A picture's parts, for a result of these segments; see pieces.Pieces."""
        if isinstance(self._runner, Session):  # gives back its working memory: the budget holds for all
            self._runner = self._runner.again(self._memory)
        memory = parse_memory(self._memory)
        return pieces.Pieces(self._runner, self._window(how), source, segment, memory, how, part_bytes)

    def _window(self, how: pieces.How) -> pieces.Window:
        return lambda pixels: self._restore(pixels, how.sigma, how.strength, how.clip, None)[0]

    def map(self, source: sources.Source, sigma: float | None = None, strength: float = 1.0) -> pieces.Restored:
        """The restored picture, lazily: its windows are computed when they are read; see pieces.Restored.

        sigma: None: estimated from the whole picture, as file() does.  Raises ImageError for a model that sees the
        whole picture at once.
        """
        how, notices = self.prepared(source, sigma, strength)
        restored = pieces.Restored(source, pieces.reach_of(self._runner), self._window(how))
        restored.notices = notices
        return restored

    def prepared(self, source: sources.Source, sigma: float | None, strength: float) -> tuple[pieces.How, list[str]]:
        """What must be known of the whole picture before it is taken apart, and its notices."""
        self._check(sigma, strength)
        if sigma is None and self._takes_sigma:
            sigma = estimate.noise_level(source)
        clip, notices = True, list(source.notices)
        if source.dtype.kind == "f":
            clip = _in_range(*source.range(), notices)
        return pieces.How(sigma, strength, clip), notices

    def picture(
        self, picture: images.Image, sigma: float | None = None, strength: float = 1.0, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Restores a picture that image.read gave, in its place; returns file()'s report."""
        self._check(sigma, strength)
        pixels, notices, clip = picture.pixels, list(picture.notices), True
        if pixels.dtype.kind == "f":
            clip = _in_range(float(pixels.min()), float(pixels.max()), notices)
        start = time.perf_counter()
        restored, used = self._restore(pixels, sigma, strength, clip, progress)
        seconds = time.perf_counter() - start
        height, width = pixels.shape[:2]
        del pixels
        picture.pixels = restored  # from here on the input's pixels need no memory
        return {"sigma": used, "height": height, "width": width, "seconds": seconds, "notices": notices}

    def _check(self, sigma: float | None, strength: float) -> None:
        if sigma is not None:
            if not self._takes_sigma:
                raise ValueError(f"{self.name} takes no noise level: leave sigma out")
            if not (math.isfinite(sigma) and sigma >= 0):
                raise ValueError(f"sigma must be 0 or more, in 0-255 units, got {sigma}")
        if not 0 <= strength <= 1:
            raise ValueError(f"strength must be from 0 to 1, got {strength}")

    def _restore(
        self, pixels: np.ndarray, sigma: float | None, strength: float, clip: bool, progress: Progress | None
    ) -> tuple[np.ndarray, float | None]:
        """The restored pixels, and the noise level used.  pixels: contiguous [H, W, 1 or 3] of an engine dtype."""
        if sigma is None and self._takes_sigma:
            sigma = self._noise_level(pixels)
        pixels = pixels.view(pixels.dtype.type)  # numpy's own dtype object, which is what the engine looks for
        out = np.empty_like(pixels)
        tick = progress or _nothing  # always one, so that Ctrl-C acts while the engine works
        with self._lock:
            if self._channels == 1 and pixels.shape[2] == 3:
                for c in range(3):  # a grey model takes colour plane by plane
                    plane = np.ascontiguousarray(pixels[..., c : c + 1])
                    part = self._runner.run(
                        plane,
                        sigma=sigma,
                        strength=strength,
                        clip=clip,
                        progress=lambda done, c=c: tick((c + done) / 3),
                    )
                    out[..., c : c + 1] = part
            else:
                self._runner.run(pixels, sigma=sigma, strength=strength, clip=clip, out=out, progress=tick)
        return out, sigma

    def _array(
        self, array: np.ndarray, sigma: float | None, strength: float, clip: bool, progress: Progress | None
    ) -> np.ndarray:
        _check_array(array, clip)
        native = array.dtype.newbyteorder("=")
        work = np.dtype(np.float32) if native == np.float64 else native
        data = array[..., None] if array.ndim == 2 else array
        colours = data.shape[2] - (data.shape[2] in (2, 4))
        pixels = np.ascontiguousarray(data[..., :colours], dtype=work)
        restored, _ = self._restore(pixels, sigma, strength, clip, progress)
        if restored.shape == data.shape:
            return restored.astype(array.dtype, copy=False).reshape(array.shape)
        out = np.empty(array.shape, array.dtype)
        out[..., :colours] = restored
        out[..., colours:] = data[..., colours:]
        return out

    def _pil(
        self, picture: PilImage.Image, sigma: float | None, strength: float, clip: bool, progress: Progress | None
    ) -> PilImage.Image:
        if picture.mode not in _PIL_MODES:
            raise ImageError(f"PIL mode {picture.mode!r} is not supported: {', '.join(_PIL_MODES)} are; convert() it")
        if "transparency" in picture.info:
            raise ImageError(f"a PIL picture of mode {picture.mode!r} with a transparent colour: convert('RGBA') it")
        out = PilImage.fromarray(self._array(np.asarray(picture), sigma, strength, clip, progress))
        out.info = dict(picture.info)
        return out

    def _tensor(self, x: Tensor, sigma: float | None, strength: float, clip: bool, progress: Progress | None) -> Tensor:
        import torch

        if x.ndim != 4 or x.shape[1] not in (1, 2, 3, 4):
            raise ImageError(f"a tensor must be [N, C, H, W] with C from 1 to 4, got {list(x.shape)}")
        if not (x.is_floating_point() or x.dtype == torch.uint8):
            raise ImageError(f"a tensor must be uint8 or float, got {x.dtype}")
        if x.numel() == 0:
            raise ImageError(f"the tensor is empty: {list(x.shape)}")
        source = x.detach().cpu()
        if x.dtype == torch.bfloat16:  # numpy has none
            source = source.float()
        out = torch.empty_like(source)
        for n, item in enumerate(source):
            tick = None if progress is None else lambda done, n=n: progress((n + done) / len(source))
            restored = self._array(item.permute(1, 2, 0).numpy(), sigma, strength, clip, tick)
            out[n] = torch.from_numpy(restored).permute(2, 0, 1)
        return out.to(x.device, x.dtype)


class Stream(Restorer):
    """A restorer of the frames of one clip, called with one after the other; see Restorer.stream."""

    def __init__(self, restorer: Restorer):
        from fastrestore import stream

        self._fusion = restorer._fusion  # made once, for all of the restorer's streams
        vars(self).update(vars(restorer))
        self._noise_level = stream.NoiseLevel()
        if isinstance(self._fusion, stream.StepPlans):
            alone = self._runner
            gpu = {"device": "cuda", "precision": alone.precision} if self._device == "cuda" else {}
            self._runner = stream.StepRunner(self._fusion, self._memory, alone.threads, **gpu)
        elif self._fusion is not None:
            self._runner = stream.PlanRunner(self._runner, self._fusion, self._memory)

    def watch(self, image: np.ndarray | PilImage.Image | Tensor, sigma: float | None = None) -> None:
        """Takes note of the next frame of a recurrent model's stream, whose result nobody needs: less work."""
        self._check(sigma, 1.0)
        pixels = _colours(image)
        if sigma is None and self._takes_sigma:
            sigma = self._noise_level(pixels)
        with self._lock:
            self._runner.watch(pixels, sigma)

    def state(self) -> dict[str, np.ndarray]:
        """What goes from frame to frame, by name; a stream that resumes with it goes on to the same bits."""
        from fastrestore import stream

        arrays = {"noise": self._noise_level.array()}
        return arrays | self._runner.arrays() if stream.is_recurrent(self._module) else arrays

    def resume(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on from the state of a stream through the same model."""
        from fastrestore import stream

        self._noise_level.resume(state["noise"])
        if stream.is_recurrent(self._module):
            self._runner.resume(state)


def restore(
    image: np.ndarray | PilImage.Image | Tensor,
    task: str = "denoise",
    model: str | os.PathLike | nn.Module | None = None,
    sigma: float | None = None,
    strength: float = 1.0,
    device: str = "auto",
    precision: str = "auto",
    memory: int | str | None = None,
    clip: bool = True,
    guide: np.ndarray | PilImage.Image | Tensor | None = None,
) -> np.ndarray | PilImage.Image | Tensor:
    """Restores one picture; the arguments are Restorer's and its call's.  Models taken by name stay ready."""
    if model is None or (isinstance(model, str) and model in zoo.names()):
        restorer = _named(model, task, device, precision, memory)
    else:
        restorer = Restorer(model, task, device, precision, memory)
    return restorer(image, sigma, strength, clip, guide=guide)


@lru_cache(maxsize=4)
def _named(model: str | None, task: str, device: str, precision: str, memory: int | str | None) -> Restorer:
    return Restorer(model, task, device, precision, memory)


def _is_of_torch(value: Any, *name: str) -> bool:
    """Whether a value is of this class of torch: never where nobody has imported torch, which this does not do."""
    kind = sys.modules.get("torch")
    for part in name:
        kind = getattr(kind, part, None)
    return kind is not None and isinstance(value, kind)


def _check_array(array: np.ndarray, clip: bool) -> None:
    """Raises ImageError for an array that is no picture."""
    what = f"{array.dtype} {list(array.shape)}"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        raise ImageError(f"a picture must be [H, W] or [H, W, C] with C from 1 to 4, got {what}")
    if array.size == 0:
        raise ImageError(f"the picture is empty: {what}")
    if array.dtype.newbyteorder("=").name not in ("uint8", "uint16", "float16", "float32", "float64"):
        raise ImageError(f"a picture must be uint8, uint16, float16, float32 or float64, got {what}")
    if array.dtype.kind != "f":
        return
    for row in array:  # by rows: no array of its size beside it
        if not np.isfinite(row).all():
            raise ImageError(f"the picture has samples that are NaN or infinite: {what}")
        if clip and row.max() > FLOAT_LIMIT:
            raise ImageError(f"float pictures are in [0, 1], this one reaches {row.max():g}: {what}; or say clip=False")


def _colours(image: np.ndarray | PilImage.Image | Tensor) -> np.ndarray:
    """A picture's colours as an array [H, W, 1 or 3].  Raises ImageError for what is no picture."""
    if isinstance(image, PilImage.Image):
        image = np.asarray(image)
    elif _is_of_torch(image, "Tensor"):
        if image.ndim != 4 or image.shape[0] != 1:
            raise ImageError(f"a shot must be one picture [1, C, H, W], got {list(image.shape)}")
        image = image[0].detach().cpu().permute(1, 2, 0)
        image = (image.float() if str(image.dtype) == "torch.bfloat16" else image).numpy()
    elif not isinstance(image, np.ndarray):
        raise ImageError(f"a picture must be an ndarray, a PIL image or a tensor, got {type(image).__name__}")
    _check_array(image, clip=False)
    data = image[..., None] if image.ndim == 2 else image
    return np.ascontiguousarray(data[..., : data.shape[2] - (data.shape[2] in (2, 4))], data.dtype.newbyteorder("="))


def _in_range(low: float, high: float, notices: list[str]) -> bool:
    """Whether float samples are in [0, 1], so that the result is clipped to it; a notice if not."""
    inside = low >= 0 and high <= 1
    if not inside:
        notices.append(f"its samples go from {low:g} to {high:g}; models expect 0 to 1; nothing is clipped")
    return inside


def _nothing(done: float) -> None:
    pass
