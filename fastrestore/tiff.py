"""TIFF in through tifffile, whole or in windows: what it is checked for, and which of its tags are kept."""

import io
import math
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image as PilImage
from PIL.JpegImagePlugin import JpegImageFile

from fastrestore import deflate
from fastrestore.errors import ImageError, MissingDependency

# Compressions whose output is bounded by the segment's size, and what each needs beside tifffile.
COMPRESSIONS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate", 50000: "Zstandard"}
MAX_TILE = 1 << 24  # pixels of a tile
MAX_PAGES = 100  # looked at
SUB_IFDS = 330
_IN_TIFFFILE = {1, 8, 32773, 32946}
TEXT_TAGS = {270, 271, 272, 305, 306, 315, 33432}  # description, maker, ..., copyright: kept in the EXIF block
ORIENTATION, XMP, ICC, EXIF_IFD, GPS_IFD = 274, 700, 34675, 34665, 34853
# Where the picture lies on the earth (GeoTIFF, GDAL), IPTC and Photoshop blocks: kept as they are in a TIFF.
_KEPT_TAGS = {33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113, 33723, 34377}
_STRUCTURE = {254, 255, *range(256, 260), 262, 263, 266, 273, 277, 278, 279, 280, 281, 282, 283, 284, 296, 317}
_STRUCTURE |= {320, 322, 323, 324, 325, 338, 339, 347, 529, 530, 531, 532, 32997}


@dataclass(frozen=True)
class Layout:
    """How a TIFF's samples lie in it: what a result in the same format keeps.  Nothing here depends on a memory
    budget, so the bytes of a file do not either."""

    tile: tuple[int, int] | None = None  # rows and columns; None: strips
    rows: int = 0  # of a strip; 0: about 1 MiB of samples
    compression: int = 8  # a key of COMPRESSIONS
    levels: tuple[tuple[int, int], ...] = ()  # heights and widths of the smaller copies
    beneath: bool = False  # the smaller copies are SubIFDs of the page, not pages of their own


@dataclass
class Tiff:
    """One page: pixels [H, W, 1 or 3], alpha [H, W] or None, and what is kept beside them."""

    pixels: np.ndarray
    alpha: np.ndarray | None
    premultiplied: bool
    bits: int
    layout: Layout
    icc: bytes | None
    exif: bytes | None
    xmp: bytes | None
    dpi: tuple[float, float] | None
    tags: list[tuple[int, int, int, Any]]  # code, type, count, value
    notices: list[str]


def read(file: BinaryIO, *, max_pixels: int, max_metadata: int) -> Tiff:
    """The first page of a TIFF file.

    Samples are uint8, uint16 or float32; 1 to 7 and 9 to 15 bits are scaled to the full range of the next of
    these, by notice.  Raises ImageError for files that are damaged, larger than max_pixels, hold non-finite
    samples, or a kind of picture that is not supported; MissingDependency where imagecodecs is needed.
    """
    with Reader(file, max_pixels=max_pixels, max_metadata=max_metadata) as reader:
        pixels, alpha = reader.read(0, reader.height, 0, reader.width)
        return Tiff(pixels, alpha, **reader.beside)


class Reader:
    """The first page of a TIFF file, read a window at a time.  What is refused, and when: as read().

    height, width, colours (1 or 3), dtype; alpha: whether it has a sample beside the colours; block: rows and columns
    that are decoded together; beside: the fields of Tiff beside its pixels.  Not for several threads at once.
    """

    def __init__(self, file: BinaryIO, *, max_pixels: int | None, max_metadata: int):
        self._file = file
        self._tif = tifffile.TiffFile(file)
        page = self._tif.pages[0]
        if not isinstance(page, tifffile.TiffPage):
            raise ImageError("its first page has no picture")
        _check(page, max_pixels, _size(file), max_metadata)
        self._page = page
        self.height, self.width = page.imagelength, page.imagewidth
        self.colours, self.dtype, notices = _kind(page)
        self.alpha = page.photometric != 3 and page.samplesperpixel > self.colours
        plain = page.fillorder == 1 and page.dtype.itemsize * 8 == page.bitspersample
        self._raw = plain and page.compression == 1 and page.predictor == 1
        # By ourselves: tifffile takes zlib unless there is imagecodecs, which is twice as long.
        self._deflated = plain and COMPRESSIONS[page.compression] == "deflate" and page.predictor in (1, 2)
        self._deflated = self._deflated and (page.predictor == 1 or page.dtype.kind == "u")
        if page.is_tiled:
            self.block = page.tilelength, page.tilewidth
        else:
            self.block = (16 if self._raw else min(page.rowsperstrip, self.height)), self.width
        self._row_shape = self.block[1], page.samplesperpixel if page.planarconfig == 1 else 1  # of a strip or tile
        self.beside = self._beside(notices)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._tif.close()

    def read(self, top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Pixels [rows, columns, 1 or 3] and alpha [rows, columns], or None, of a window within the picture."""
        page = self._page
        planes = page.samplesperpixel if page.planarconfig == 2 else 1
        data = np.empty((bottom - top, right - left, page.samplesperpixel), page.dtype)
        height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, self.width)
        height = min(height, self.height) if not page.is_tiled else height
        across = math.ceil(self.width / width)
        count = across * math.ceil(self.height / height)
        for plane in range(planes):
            target = data[..., plane : plane + 1] if planes > 1 else data
            for row in range(top // height, math.ceil(bottom / height)):
                for column in range(left // width, math.ceil(right / width)):
                    y, x = row * height, column * width
                    y0, y1 = max(top, y), min(bottom, y + height)
                    x0, x1 = max(left, x), min(right, x + width)
                    part = self._segment(plane * count + row * across + column, y0 - y, y1 - y)
                    target[y0 - top : y1 - top, x0 - left : x1 - left] = part[:, x0 - x : x1 - x]
        return _arrange(page, data)

    def _segment(self, index: int, first: int, last: int) -> np.ndarray:
        """Rows first to last of a strip or tile: [rows, columns, samples]."""
        page, handle = self._page, self._tif.filehandle
        offset, size = page.dataoffsets[index], page.databytecounts[index]
        row = math.prod(self._row_shape) * page.dtype.itemsize
        if self._raw:
            handle.seek(offset + first * row)
            data = handle.read((last - first) * row)
            if len(data) != (last - first) * row or size < last * row:
                raise ImageError("a strip or tile is cut short")
            return self._rows(data)
        handle.seek(offset)
        data = handle.read(size)
        if self._deflated:
            data = memoryview(deflate.decompress(data, self.block[0] * row))
            if len(data) < last * row:
                raise ImageError("a strip or tile is cut short")
            part = self._rows(data[first * row : last * row])
            return np.cumsum(part, 1, dtype=page.dtype) if page.predictor == 2 else part
        if page.compression == 7:
            expected = page.tilewidth * page.tilelength if page.is_tiled else self.width * self.block[0]
            _check_jpeg(data, expected)
        part, _, _ = page.decode(data, index, jpegtables=page.jpegtables)
        if part is None:
            raise ImageError("a strip or tile is empty")
        if len(part[0]) < last:
            raise ImageError("a strip or tile is cut short")
        return part[0, first:last]

    def _rows(self, data: bytes | memoryview) -> np.ndarray:
        """Stored samples as [rows, columns, samples]."""
        stored = self._page.dtype.newbyteorder(self._page.parent.byteorder)
        return np.frombuffer(data, stored).reshape(-1, *self._row_shape)

    def _beside(self, notices: list[str]) -> dict[str, Any]:
        page = self._page
        levels, beneath, others = _levels(self._tif, page)
        if others:
            notices.append("only the first of its pages is restored")
        dropped = [t.code for t in page.tags if t.code not in _STRUCTURE | _KEPT_TAGS | TEXT_TAGS]
        dropped = [c for c in dropped if c not in (ORIENTATION, XMP, ICC, EXIF_IFD, GPS_IFD)]
        if levels and beneath:
            dropped = [c for c in dropped if c != SUB_IFDS]
        if dropped:
            notices.append(f"tags not kept: {', '.join(map(str, dropped[:8]))}{', ...' if dropped[8:] else ''}")
        icc, xmp = page.tags.valueof(ICC), page.tags.valueof(XMP)
        tile = (page.tilelength, page.tilewidth) if page.is_tiled else None
        return {
            "premultiplied": self.alpha and 1 in page.extrasamples,
            "bits": page.bitspersample,
            "layout": Layout(tile, 0 if tile else page.rowsperstrip, int(page.compression), levels, beneath),
            "icc": bytes(icc) if icc else None,
            "exif": _exif(page, self._file),
            "xmp": bytes(xmp) if xmp and not isinstance(xmp, str) else None,
            "dpi": _dpi(page),
            "tags": [(t.code, int(t.dtype), t.count, t.value) for t in page.tags if t.code in _KEPT_TAGS],
            "notices": notices,
        }


def _levels(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> tuple[tuple[tuple[int, int], ...], bool, bool]:
    """Sizes of the page's smaller copies, whether they are SubIFDs, and whether there are pages of other kinds."""
    if page.subifds:
        beneath, candidates = True, (page.pages[n] for n in range(MAX_PAGES))
    else:
        beneath, candidates = False, (tif.pages[n] for n in range(1, MAX_PAGES + 1))
    levels, others, before = [], False, (page.imagelength, page.imagewidth)
    try:
        for smaller in candidates:
            size = (smaller.imagelength, smaller.imagewidth)
            factor = round(before[0] / max(1, size[0]))
            halved = factor in (2, 4, 8) and all(
                abs(b - s * factor) < factor for b, s in zip(before, size, strict=True)
            )
            if halved and (beneath or int(smaller.subfiletype) & 1):
                levels.append(size)
                before = size
            else:
                others = True
    except IndexError:
        pass
    if beneath:
        try:
            tif.pages[1]
            others = True
        except IndexError:
            pass
    return tuple(levels), beneath, others


def _size(file: BinaryIO) -> int:
    file.seek(0, 2)
    return file.tell()


def _check(page: tifffile.TiffPage, max_pixels: int | None, file_size: int, max_metadata: int) -> None:
    """Everything that the header says, before anything is decoded."""
    width, height = page.imagewidth, page.imagelength
    if width < 1 or height < 1 or page.imagedepth != 1:
        raise ImageError(f"its size is {width} x {height} x {page.imagedepth}")
    if max_pixels is not None and width * height > max_pixels:
        raise ImageError(f"{width} x {height} pixels are above the limit of {max_pixels / 1e6:g} Mpixel")
    if page.compression not in COMPRESSIONS:
        raise ImageError(f"TIFF compression {page.compression} is not supported")
    if (page.compression not in _IN_TIFFFILE or page.predictor == 3) and not _has_imagecodecs():
        name = COMPRESSIONS[page.compression]
        raise MissingDependency(f"TIFF compression {name} needs imagecodecs: pip install 'fastrestore[codecs]'")
    if page.predictor not in (1, 2, 3):
        raise ImageError(f"TIFF predictor {page.predictor} is not supported")
    if page.samplesperpixel > 4:
        raise ImageError(f"{page.samplesperpixel} samples a pixel are not supported, 1 to 4 are")
    for tag in page.tags:
        if tag.valuebytecount > max_metadata and tag.code not in (273, 279, 324, 325):
            raise ImageError(f"its tag {tag.code} of {tag.valuebytecount} bytes is above the limit of {max_metadata}")
    if page.is_tiled:
        tile = page.tilewidth * page.tilelength
        if page.tilewidth < 1 or page.tilelength < 1 or tile > MAX_TILE:
            raise ImageError(f"its tiles are {page.tilewidth} x {page.tilelength}")
        count = math.ceil(width / page.tilewidth) * math.ceil(height / page.tilelength)
    else:
        if page.rowsperstrip < 1:
            raise ImageError("its strips have no rows")
        rows = min(page.rowsperstrip, height)
        tile, count = width * rows, math.ceil(height / rows)
    samples = page.samplesperpixel
    if page.planarconfig == 2:
        count, samples = count * samples, 1
    expected = math.ceil(tile * samples * max(8, page.bitspersample) / 8)
    offsets, sizes = page.dataoffsets, page.databytecounts
    if len(offsets) != count or len(sizes) != count:
        raise ImageError(f"it lists {len(offsets)} strips or tiles where {count} belong: the file is damaged")
    for offset, size in zip(offsets, sizes, strict=True):
        if offset < 1 or size < 1 or offset + size > file_size:
            raise ImageError("a strip or tile lies outside the file: it is cut short or damaged")
        if page.compression != 1 and size > 2 * expected + 65536:
            raise ImageError("a strip or tile is larger than its pixels can be: the file is damaged")


def _check_jpeg(data: bytes, expected: int) -> None:
    """A JPEG stream inside has a header of its own, which could ask for 65535 x 65535 pixels."""
    width, height = JpegImageFile(io.BytesIO(data)).size
    if width * height > 4 * expected:
        raise ImageError(f"a JPEG tile of {width} x {height} pixels inside does not fit: the file is damaged")


def _has_imagecodecs() -> bool:
    return hasattr(tifffile.tifffile.imagecodecs, "lzw_decode")


def _kind(page: tifffile.TiffPage) -> tuple[int, np.dtype, list[str]]:
    """Colours, the dtype that samples are read as, and a notice for whatever is converted.  Raises ImageError."""
    photometric, bits, dtype, notices = page.photometric, page.bitspersample, page.dtype, []
    if dtype is None or dtype.kind not in "buf" or (dtype.kind == "u" and bits > 16):
        raise ImageError(f"samples of type {dtype} ({bits} bits) are not supported: 1 to 16 bits or float are")
    if photometric == 3:
        if page.samplesperpixel != 1 or dtype.kind == "f":
            raise ImageError("a palette picture with further samples is not supported")
        return 3, np.dtype(np.uint8), ["a palette picture becomes full colour"]
    if photometric == 6 and page.compression != 7:
        raise ImageError("YCbCr without JPEG compression is not supported")
    if photometric not in (0, 1, 2, 6):
        raise ImageError(f"colours of the kind {photometric.name} are not supported: grey, RGB and palette are")
    colours = 1 if photometric in (0, 1) else 3
    if page.samplesperpixel not in (colours, colours + 1):
        raise ImageError(f"{page.samplesperpixel} samples a pixel do not fit a {photometric.name} picture")
    if dtype.kind == "f":
        if dtype.itemsize == 8:
            notices.append("its 64-bit float samples are rounded to 32 bits")
        return colours, np.dtype(np.float32), notices
    if bits not in (8, 16):
        notices.append(f"its {bits}-bit samples are scaled to {8 if bits < 8 else 16} bits")
    return colours, np.dtype(np.uint8 if bits <= 8 else np.uint16), notices


def _arrange(page: tifffile.TiffPage, data: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels [H, W, 1 or 3] and the extra sample [H, W] of a window's samples [H, W, S]."""
    data = data.astype(data.dtype.newbyteorder("="), copy=False)
    bits = page.bitspersample
    if data.dtype.kind == "b":
        data = data.view(np.uint8)
    if data.dtype.kind == "f":
        with np.errstate(over="ignore"):
            data = data.astype(np.float32, copy=False)
        if not np.isfinite(data).all():
            count = int((~np.isfinite(data)).sum())
            raise ImageError(f"{count} of its float samples are NaN or infinite: replace them first")
    if page.photometric == 3:
        table = np.array(page.colormap, np.uint16).reshape(3, -1).T
        if not (table < 256).all():
            table = (table.astype(np.uint32) * 255 + 32767) // 65535
        if int(data.max()) >= len(table):
            raise ImageError("a pixel is outside its palette: the file is damaged")
        return table.astype(np.uint8)[data[..., 0]], None
    if data.dtype.kind == "u" and bits not in (8, 16):
        top, full = (1 << bits) - 1, 255 if bits < 8 else 65535
        data = ((data.astype(np.uint32) * full + top // 2) // top).astype(np.uint8 if bits < 8 else np.uint16)
    colours = 1 if page.photometric in (0, 1) else 3
    extra = np.ascontiguousarray(data[..., colours]) if data.shape[2] > colours else None
    pixels = np.ascontiguousarray(data[..., :colours])
    if page.photometric == 0:  # white is zero
        pixels = (1 - pixels) if pixels.dtype.kind == "f" else ~pixels
    return pixels, extra


def _dpi(page: tifffile.TiffPage) -> tuple[float, float] | None:
    unit = page.tags.valueof(296, default=2)
    x, y = page.tags.valueof(282), page.tags.valueof(283)
    if unit not in (2, 3) or not x or not y or 0 in (*x, *y):
        return None
    scale = 1.0 if unit == 2 else 2.54
    return (x[0] / x[1] * scale, y[0] / y[1] * scale)


def _exif(page: tifffile.TiffPage, file: BinaryIO) -> bytes | None:
    """The texts, the orientation and the EXIF and GPS directories, as an EXIF block like a JPEG's."""
    wanted = TEXT_TAGS | {ORIENTATION, EXIF_IFD, GPS_IFD}
    if not any(code in wanted for code in (t.code for t in page.tags)):
        return None
    source, kept = PilImage.Exif(), PilImage.Exif()
    source.bigtiff, source.endian = page.parent.is_bigtiff, page.parent.byteorder
    source.load_from_fp(file, page.offset)
    for code in TEXT_TAGS | {ORIENTATION}:
        if code in source:
            kept[code] = source[code]
    for code in (EXIF_IFD, GPS_IFD):
        if code in source:
            kept.get_ifd(code).update(source.get_ifd(code))
    return kept.tobytes()
