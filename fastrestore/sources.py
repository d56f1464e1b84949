"""Pictures that are read a window at a time: TIFF and zarr, and whatever image.read takes, whole.

What a source is, its content says.  sinks.py writes what is made of it.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from fastrestore import image as images
from fastrestore import tiff
from fastrestore.errors import ImageError, MissingDependency

ZARR = ".zarr"
_LOOKED_AT = 1 << 20  # pixels of one window, about, where all are looked at


class Source:
    """A picture on disk.  source[y0:y1, x0:x1] is an array [rows, columns, colours] of it, without its alpha.

    height, width, colours, dtype (uint8, uint16 or float32); alpha: whether it has a sample beside the colours; block:
    rows and columns that are decoded together; notices: a sentence for whatever is converted.  Windows are read from
    the file anew each time.  Use it in a `with`, or close() it.  Not for several threads at once.
    """

    ndim = 3

    def __init__(
        self, path: Path, height: int, width: int, colours: int, dtype: np.dtype, alpha: bool, block: tuple[int, int]
    ):
        self.path = path
        self.height, self.width, self.colours = height, width, colours
        self.dtype, self.alpha, self.block = np.dtype(dtype), alpha, block
        self.notices: list[str] = []

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.colours

    def __getitem__(self, index: Any) -> np.ndarray:
        rows, columns = _span(index, self.shape)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return np.empty((len(rows), len(columns), self.colours), self.dtype)
        return self.read(rows.start, rows.stop, columns.start, columns.stop)[0]

    def read(self, top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Pixels [rows, columns, colours] and alpha [rows, columns], or None, of a window within the picture."""
        raise NotImplementedError

    def range(self) -> tuple[float, float]:
        """The lowest and the highest sample of the colours.  Reads the whole picture."""
        low, high, (rows, columns) = math.inf, -math.inf, self.block
        columns *= max(1, _LOOKED_AT // (rows * columns))
        for top in range(0, self.height, rows):
            for left in range(0, self.width, columns):
                window = top, min(top + rows, self.height), left, min(left + columns, self.width)
                pixels, _ = self.read(*window)
                low, high = min(low, float(pixels.min())), max(high, float(pixels.max()))
        return low, high

    def close(self) -> None:
        """The file is not needed any more."""

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_image(path: str | os.PathLike, *, max_pixels: int | None = None) -> Source:
    """Opens a picture of any size for windowed reads: a TIFF file or a zarr array from the disk as they are asked for;
    PNG, JPEG, WebP and BMP files are decoded whole, if they have at most max_pixels (None: image.MAX_PIXELS).

    Raises what image.read does; MissingDependency for zarr.
    """
    path = Path(path)
    with images.naming(images.show_name(path)):
        if path.is_dir():
            return ZarrSource(path)
        with images.open_file(path) as file:
            head = file.read(32)
        if head and images.kind_of(head) == "TIFF":
            return TiffSource(path, max_pixels)
    return WholeSource(path, max_pixels)


def is_large_tiff(path: str | os.PathLike, size: int) -> bool:
    """Whether it is a TIFF file whose first page has more than `size` bytes of samples, by its header."""
    with images.open_file(path) as file:
        head = file.read(32)
    try:
        if not head or images.kind_of(head) != "TIFF":
            return False
        with TiffSource(Path(path)) as source:
            return source.height * source.width * (source.colours + source.alpha) * source.dtype.itemsize > size
    except Exception:  # whoever reads it will say what is wrong
        return False


class TiffSource(Source):
    """The first page of a TIFF file."""

    def __init__(self, path: Path, max_pixels: int | None = None):
        self._file = images.open_file(path)
        try:
            self.page = tiff.Reader(self._file, max_pixels=max_pixels, max_metadata=images.MAX_METADATA)
        except BaseException:
            self._file.close()
            raise
        page = self.page
        super().__init__(path, page.height, page.width, page.colours, page.dtype, page.alpha, page.block)
        self.notices = list(page.beside["notices"])

    def read(self, top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray | None]:
        with images.naming(images.show_name(self.path)):
            return self.page.read(top, bottom, left, right)

    def close(self) -> None:
        self._file.close()


class WholeSource(Source):
    """A picture in memory: of a format without windows."""

    def __init__(self, path: Path, max_pixels: int | None):
        self.picture = images.read(path, max_pixels=max_pixels)
        pixels = self.picture.pixels
        super().__init__(path, *pixels.shape, pixels.dtype, self.picture.alpha is not None, pixels.shape[:2])
        self.notices = list(self.picture.notices)

    def read(self, top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray | None]:
        window = slice(top, bottom), slice(left, right)
        alpha = self.picture.alpha
        return self.picture.pixels[window], None if alpha is None else alpha[window]


class ZarrSource(Source):
    """A zarr array [H, W] or [H, W, 1 to 4], or the largest of an OME-Zarr group."""

    def __init__(self, path: Path):
        opened = zarr_module().open(path, mode="r")
        if not hasattr(opened, "shape"):
            levels = opened.attrs.get("multiscales") or opened.attrs.get("ome", {}).get("multiscales")
            if not levels:
                raise ImageError("is a zarr group without a picture")
            opened = opened[levels[0]["datasets"][0]["path"]]
        self.array = opened
        shape, chunks = opened.shape, opened.chunks
        samples = shape[2] if len(shape) == 3 else 1
        if len(shape) not in (2, 3) or not 1 <= samples <= 4 or 0 in shape:
            raise ImageError(f"is an array of the shape {list(shape)}: [H, W] and [H, W, 1 to 4] are pictures")
        if opened.dtype.name not in ("uint8", "uint16", "float32"):
            raise ImageError(f"samples of type {opened.dtype} are not supported: uint8, uint16 and float32 are")
        alpha = samples in (2, 4)
        super().__init__(path, *shape[:2], samples - alpha, np.dtype(opened.dtype.name), alpha, chunks[:2])

    def read(self, top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray | None]:
        with images.naming(images.show_name(self.path)):
            data = np.asarray(self.array[top:bottom, left:right]).astype(self.dtype, copy=False)
            if data.dtype.kind == "f" and not np.isfinite(data).all():
                raise ImageError("some of its samples are NaN or infinite: replace them first")
        data = data[..., None] if data.ndim == 2 else data
        pixels = np.ascontiguousarray(data[..., : self.colours])
        return pixels, np.ascontiguousarray(data[..., self.colours]) if self.alpha else None

    def attributes(self) -> dict[str, Any]:
        """What the array says of itself, as JSON values."""
        return json.loads(json.dumps(dict(self.array.attrs)))


def zarr_module() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise MissingDependency("zarr arrays need zarr: pip install 'fastrestore[zarr]'") from error
    return zarr


def _span(index: Any, shape: tuple[int, int, int]) -> tuple[range, range]:
    """The rows and columns that an index of slices asks for.  Raises IndexError for steps and single positions."""
    index = index if isinstance(index, tuple) else (index,)
    spans = []
    for axis in range(2):
        part = index[axis] if axis < len(index) else slice(None)
        if not isinstance(part, slice) or part.step not in (None, 1):
            raise IndexError("a window is two slices without steps: picture[y0:y1, x0:x1]")
        spans.append(range(*part.indices(shape[axis])))
    if len(index) > 2:
        raise IndexError("a window has rows and columns; it holds all colours")
    return spans[0], spans[1]
