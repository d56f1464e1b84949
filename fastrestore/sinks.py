"""Where a restored picture goes piece by piece: a TIFF file or a zarr array, whole or not at all.

What of its source is kept stands in the sink: layout, tags and profiles of a TIFF, chunks and attributes of a zarr.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastrestore import image as images
from fastrestore.errors import ImageError
from fastrestore.sources import ZARR, Source, TiffSource, ZarrSource, zarr_module
from fastrestore.tiff import Layout
from fastrestore.tiffwriter import Writer

CHUNK = 512  # pixels a side, of a zarr whose source has none
SCRATCH = 64, 256  # rows and columns that are put into a scratch file at once


class Sink:
    """segment: rows and columns that are packed together; pack: makes a segment's payload from its samples
    [rows, columns, colours + alpha], a function that other processes can call; put() takes the payloads in any order,
    for positions that are multiples of the segment's sides.  A `with` that is left by an exception leaves nothing
    behind; notices: what could not be kept."""

    segment: tuple[int, int]
    pack: Callable[[np.ndarray], Any]
    notices: list[str]

    def put(self, top: int, left: int, payload: Any) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """All segments are there."""

    def emit(self, top: int, left: int, samples: np.ndarray) -> None:
        """Packs and puts samples that begin and end where segments do, or at the picture's edges."""
        for y, x, part in split(top, left, samples, self.segment):
            self.put(y, x, self.pack(part))

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        raise NotImplementedError


def split(top: int, left: int, samples: np.ndarray, segment: tuple[int, int]) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields (top, left, samples) of each segment within samples."""
    rows, columns = segment
    for y in range(0, samples.shape[0], rows):
        for x in range(0, samples.shape[1], columns):
            yield top + y, left + x, samples[y : y + rows, x : x + columns]


def create(path: str | os.PathLike, source: Source, quality: int = 95) -> Sink:
    """A sink of the kind that the path's suffix names, for a picture like the source.  Raises ImageError."""
    path = Path(path)
    if path.suffix.lower() == ZARR:
        return ZarrSink(path, source)
    if images.format_of(path) != "TIFF":
        raise ImageError(f"{images.show_name(path)}: only TIFF and zarr are written piece by piece")
    if path.exists() and not path.is_file():
        raise ImageError(f"{images.show_name(path)}: exists and is not a plain file")
    return TiffSink(path, source, quality)


class TiffSink(Sink):
    def __init__(self, path: Path, source: Source, quality: int):
        beside: dict[str, Any] = {}
        if isinstance(source, TiffSource):
            kept = ("premultiplied", "layout", "icc", "exif", "xmp", "dpi", "tags")
            beside = {key: source.page.beside[key] for key in kept}
        elif isinstance(source, ZarrSource):
            # TIFF's tiles have sides that are multiples of 16
            beside = {"layout": Layout(tile=tuple(max(16, side // 16 * 16) for side in source.block))}
        self._whole = images.whole_file(path)
        file = self._whole.__enter__()
        shape = source.height, source.width, source.colours, source.dtype
        self._writer = Writer(file, *shape, folder=path.parent, alpha=source.alpha, quality=quality, **beside)
        codec = self._writer.codec
        self.segment, self.pack, self.notices = (codec.rows, codec.columns), codec.pack, self._writer.notices

    def put(self, top: int, left: int, payload: bytes) -> None:
        self._writer.write(top // self.segment[0], left // self.segment[1], payload)

    def finish(self) -> None:
        self._writer.finish()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._writer.close()
        self._whole.__exit__(kind, error, trace)


class ZarrSink(Sink):
    """Written beside its place, and renamed at the end.  A zarr that is there already stays until then."""

    def __init__(self, path: Path, source: Source):
        if path.exists() and not path.is_dir():
            raise ImageError(f"{images.show_name(path)}: exists and is not a folder")
        self._path = path
        self._temporary = path.with_name(f".fastrestore-{secrets.token_hex(8)}.part")
        chunks = source.block if isinstance(source, ZarrSource) else (CHUNK, CHUNK)
        chunks = tuple(min(a, b) for a, b in zip(chunks, source.shape, strict=False))
        samples = source.colours + source.alpha
        # In the order of the input's array, if it is one: [H, W] stays so.
        self._flat = samples == 1 and (not isinstance(source, ZarrSource) or source.array.ndim == 2)
        shape = source.shape[:2] if self._flat else (*source.shape[:2], samples)
        self.segment, self.pack, self.notices = chunks, np.ascontiguousarray, []
        zarr = zarr_module()
        options: dict[str, Any] = {}
        if isinstance(source, ZarrSource):
            options = {"attributes": source.attributes(), "zarr_format": source.array.metadata.zarr_format}
            if source.array.compressors:
                options["compressors"] = source.array.compressors
        elif isinstance(source, TiffSource):
            lost = {key: source.page.beside[key] for key in ("icc", "exif", "xmp", "tags")}
            if any(lost.values()):
                self.notices.append(f"not kept: {', '.join(k for k, v in lost.items() if v)}: zarr holds none")
        whole = chunks if self._flat else (*chunks, samples)
        self._array = zarr.create_array(
            self._temporary, shape=shape, chunks=whole, dtype=source.dtype, fill_value=0, **options
        )

    def put(self, top: int, left: int, payload: np.ndarray) -> None:
        rows, columns = payload.shape[:2]
        self._array[top : top + rows, left : left + columns] = payload[..., 0] if self._flat else payload

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if kind is None:
                old = None
                if self._path.exists():
                    old = self._path.with_name(f".fastrestore-{secrets.token_hex(8)}.part")
                    os.rename(self._path, old)
                os.rename(self._temporary, self._path)
                if old:
                    shutil.rmtree(old)
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)


class Scratch(Sink):
    """Samples of any columns in a raw file beside the result, for a sink whose segments are as wide as the picture.
    The sink is to be left after it, by a `with` of its own."""

    def __init__(self, sink: Sink, folder: Path, source: Source):
        self._sink, self._height, self._width = sink, source.height, source.width
        self._samples, self._dtype = source.colours + source.alpha, source.dtype
        self._pixel = self._samples * self._dtype.itemsize
        self.segment, self.pack, self.notices = SCRATCH, np.ascontiguousarray, sink.notices
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115

    def put(self, top: int, left: int, payload: np.ndarray) -> None:
        for y, row in enumerate(payload, top):
            self._file.seek((y * self._width + left) * self._pixel)
            data = memoryview(np.ascontiguousarray(row)).cast("B")
            while data:
                data = data[self._file.write(data) :]

    def finish(self) -> None:
        rows = self._sink.segment[0]
        for top in range(0, self._height, rows):
            count = min(rows, self._height - top)
            self._file.seek(top * self._width * self._pixel)
            data = bytearray()
            while len(data) < count * self._width * self._pixel:
                data += self._file.read(count * self._width * self._pixel - len(data))
            samples = np.frombuffer(data, self._dtype).reshape(count, self._width, self._samples)
            self._sink.emit(top, 0, samples)
        self._sink.finish()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._file.close()
