"""TIFF out: strips or tiles in any order, packed as the layout says, with smaller copies and the tags that are kept.

tifffile writes segments in their order only, which a picture restored in columns, or by several machines, has not.
"""

import math
import os
import struct
import tempfile
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image as PilImage
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from fastrestore import deflate
from fastrestore.tiff import EXIF_IFD, GPS_IFD, ICC, ORIENTATION, SUB_IFDS, TEXT_TAGS, XMP, Layout

CLASSIC_BYTES = 2**32 - 2**25  # above this a TIFF needs 64-bit offsets
STRIP_BYTES = 1 << 20  # of samples, where a strip is not as the input's
WIDEST_STRIP = 1 << 15  # pixels: wider pictures are written in tiles, so that columns of them can be written alone
TILE = 512, 512
_GROWTH = 1.5  # what LZW can add to samples that do not compress
# Byte counts of TIFF's field types, and struct's codes.
_TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d"}
_TYPES |= {13: "I", 16: "Q", 17: "q", 18: "Q"}


@dataclass(frozen=True)
class Codec:
    """How one strip or tile is packed.  Plain values, so that other processes can pack for a Writer."""

    rows: int
    columns: int
    samples: int
    dtype: str
    compression: int
    tiled: bool
    quality: int  # of JPEG

    def pack(self, part: np.ndarray) -> bytes:
        """part: [rows, columns, samples], smaller at the picture's edges."""
        if self.tiled and part.shape[:2] != (self.rows, self.columns):
            missing = [(0, self.rows - part.shape[0]), (0, self.columns - part.shape[1]), (0, 0)]
            part = np.pad(part, missing, mode="edge")
        if self.compression == 7:
            colours = "YCBCR" if self.samples == 3 else None
            part = part if self.samples > 1 else part[..., 0]
            return _codecs().jpeg8_encode(part, level=self.quality, outcolorspace=colours, subsampling="444")
        if self.differs:
            part = np.concatenate([part[:, :1], part[:, 1:] - part[:, :-1]], 1)  # wraps, as it should
        data = np.ascontiguousarray(part, np.dtype(self.dtype).newbyteorder("<")).tobytes()
        if self.compression == 8:
            return deflate.compress(data)
        return {1: bytes, 5: _lzw, 50000: _zstandard}[self.compression](data)

    def unpack(self, data: bytes, rows: int, columns: int) -> np.ndarray:
        """What pack() was given: [rows, columns, samples]."""
        if self.compression == 7:
            part = _codecs().jpeg8_decode(data)
        else:
            data = {1: bytes, 5: _unlzw, 8: deflate.decompress, 50000: _unzstandard}[self.compression](data)
            part = np.frombuffer(data, np.dtype(self.dtype).newbyteorder("<")).astype(self.dtype, copy=False)
        part = part.reshape(-1, self.columns, self.samples)
        if self.differs:
            part = np.cumsum(part, 1, dtype=part.dtype)
        return part[:rows, :columns]

    @property
    def differs(self) -> bool:
        """Whether integers are stored as differences of neighbours: TIFF's predictor 2."""
        return self.compression in (5, 8, 50000) and np.dtype(self.dtype).kind == "u"


class Writer:
    """One page and its smaller copies.

    file: open for reading and writing, empty.  dtype: uint8, uint16 or float32.  alpha: beside the colours, the last
    sample; premultiplied, icc, exif, xmp, dpi and tags as in tiff.Tiff.  quality: where the layout says JPEG.
    Strips or tiles come by write(), in any order, and lie in the file in theirs, so that its bytes do not depend on
    who restored what when: those that come early wait in a temporary file in `folder`.  finish() makes the smaller
    copies and the file whole; close() ends the use of the temporary file.  notices: what could not be kept.
    """

    def __init__(
        self,
        file: BinaryIO,
        height: int,
        width: int,
        colours: int,
        dtype: np.dtype,
        *,
        folder: str | os.PathLike | None = None,
        alpha: bool = False,
        premultiplied: bool = False,
        layout: Layout | None = None,
        quality: int = 95,
        icc: bytes | None = None,
        exif: bytes | None = None,
        xmp: bytes | None = None,
        dpi: tuple[float, float] | None = None,
        tags: list[tuple[int, int, int, Any]] = (),
    ):
        layout = layout or Layout()
        self.notices: list[str] = []
        samples, dtype = colours + alpha, np.dtype(dtype)
        tile = TILE if layout.tile is None and width > WIDEST_STRIP else layout.tile
        if tile is not layout.tile:
            self.notices.append(f"its strips become tiles of {TILE[0]} x {TILE[1]} pixels")
        row = width * samples * dtype.itemsize
        rows = layout.rows if 0 < layout.rows * row <= STRIP_BYTES else max(1, STRIP_BYTES // row)
        rows, columns = tile or (min(rows, height), width)
        compression = {32946: 8, 32773: 8}.get(layout.compression, layout.compression)
        if compression == 7 and (dtype != np.uint8 or alpha):
            self.notices.append("JPEG tiles cannot hold its samples: deflate")
            compression = 8
        self.codec = Codec(rows, columns, samples, dtype.name, compression, tile is not None, quality)
        self._file, self._colours, self._alpha, self._premultiplied = file, colours, alpha, premultiplied
        self._levels = [_Level(self.codec, height, width), *(_Level(self.codec, *size) for size in layout.levels)]
        self._beneath = layout.beneath
        self._beside = {"icc": icc, "exif": exif, "xmp": xmp, "dpi": dpi, "tags": tags}
        bytes_at_most = sum(level.height * level.width for level in self._levels) * samples * dtype.itemsize * _GROWTH
        self._big = bytes_at_most + sum(map(len, (icc or b"", exif or b"", xmp or b""))) > CLASSIC_BYTES
        self._header = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) if self._big else struct.pack("<2sHI", b"II", 42, 0)
        self._file.write(self._header)
        self._folder, self._early, self._next = folder, None, 0
        self._waiting = np.zeros((2, len(self._levels[0].offsets)), np.uint64)  # offsets and sizes in the early file

    def write(self, row: int, column: int, data: bytes) -> None:
        """Strip or tile number `column` of row number `row`, packed by self.codec."""
        page = self._levels[0]
        index = row * page.across + column
        if index != self._next:
            self._early = self._early or tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            self._waiting[:, index] = self._early.seek(0, 2), len(data)
            self._early.write(data)
            return
        while True:
            self._put(page, index, data)
            index += 1
            if index == self._waiting.shape[1] or not self._waiting[1, index]:
                break
            self._early.seek(int(self._waiting[0, index]))
            data = self._early.read(int(self._waiting[1, index]))
        self._next = index

    def close(self) -> None:
        if self._early:
            self._early.close()

    def finish(self) -> None:
        for above, level in zip(self._levels, self._levels[1:], strict=False):
            self._shrink(above, level)
        beneath = [self._directory(level, {}) for level in self._levels[1:]] if self._beneath else []
        pages = self._levels[:1] if self._beneath else self._levels
        place = 8 if self._big else 4  # where the offset of the next directory stands
        for level in pages:
            further = self._described() if level is pages[0] else {}
            if beneath and level is pages[0]:
                further[SUB_IFDS] = (16 if self._big else 4, beneath)
            offset = self._directory(level, further)
            self._file.seek(place)
            self._file.write(struct.pack("<Q" if self._big else "<I", offset))
            place = offset + self._next_place

    def _put(self, level: "_Level", index: int, data: bytes) -> None:
        offset = _even_end(self._file)
        self._file.write(data)
        level.offsets[index], level.sizes[index] = offset, len(data)

    def _get(self, level: "_Level", row: int, column: int) -> np.ndarray:
        index = row * level.across + column
        self._file.seek(int(level.offsets[index]))
        return level.codec.unpack(self._file.read(int(level.sizes[index])), *level.size(row, column))

    def _shrink(self, above: "_Level", level: "_Level") -> None:
        """The smaller copy: means of squares of pixels, a strip or tile at a time."""
        factor = max(round(above.height / level.height), round(above.width / level.width))
        for row in range(level.down):
            for column in range(level.across):
                rows = range(row * factor, min((row + 1) * factor, above.down))
                columns = range(column * factor, min((column + 1) * factor, above.across))
                part = np.concatenate([np.concatenate([self._get(above, y, x) for x in columns], 1) for y in rows])
                for _ in range(factor.bit_length() - 1):
                    part = _halved(part)
                height, width = level.size(row, column)
                self._put(level, row * level.across + column, level.codec.pack(part[:height, :width]))

    def _directory(self, level: "_Level", further: dict[int, tuple[int, Any]]) -> int:
        """Writes the list of a page's tags; returns its offset."""
        codec, long = self.codec, 16 if self._big else 4
        kind = 3 if codec.dtype == "float32" else 1
        photometric = 1 if self._colours == 1 else 6 if codec.compression == 7 else 2
        entries: dict[int, tuple[int, Any]] = {
            254: (4, [0 if level is self._levels[0] else 1]),
            256: (4, [level.width]),
            257: (4, [level.height]),
            258: (3, [8 * np.dtype(codec.dtype).itemsize] * codec.samples),
            259: (3, [codec.compression]),
            262: (3, [photometric]),
            277: (3, [codec.samples]),
            284: (3, [1]),
            339: (3, [kind] * codec.samples),
        }
        if codec.tiled:
            entries |= {322: (4, [level.codec.columns]), 323: (4, [codec.rows])}
            entries |= {324: (long, level.offsets), 325: (long, level.sizes)}
        else:
            entries |= {273: (long, level.offsets), 278: (4, [codec.rows]), 279: (long, level.sizes)}
        if codec.differs:
            entries[317] = (3, [2])
        if photometric == 6:
            entries[530] = (3, [1, 1])
        if self._alpha:
            entries[338] = (3, [1 if self._premultiplied else 2])
        entries |= further
        offset_code, inline = ("<Q", 8) if self._big else ("<I", 4)
        packed = []
        for code, (field, values) in sorted(entries.items()):
            count, data = _field(field, values)
            if len(data) > inline:
                place = _even_end(self._file)
                self._file.write(data)
                data = struct.pack(offset_code, place)
            packed.append(struct.pack("<HHQ" if self._big else "<HHI", code, field, count) + data.ljust(inline, b"\0"))
        offset = _even_end(self._file)
        head = struct.pack("<Q" if self._big else "<H", len(packed))
        self._next_place = len(head) + sum(map(len, packed))
        self._file.write(head + b"".join(packed) + struct.pack(offset_code, 0))
        return offset

    def _described(self) -> dict[int, tuple[int, Any]]:
        """The tags that say what the picture is of: kept from the input."""
        icc, exif, xmp, dpi, tags = self._beside.values()
        source = PilImage.Exif()
        source.load(exif or b"")
        entries = {code: (field, value) for code, field, _, value in tags}
        entries |= {code: (2, str(source[code])) for code in TEXT_TAGS if code in source}
        if source.get(ORIENTATION, 1) != 1:
            entries[ORIENTATION] = (3, [source[ORIENTATION]])
        if xmp:
            entries[XMP] = (1, xmp)
        if icc:
            entries[ICC] = (7, icc)
        if dpi:
            ratios = [Fraction(value).limit_denominator(1 << 20) for value in dpi]
            entries |= {code: (5, [r.numerator, r.denominator]) for code, r in zip((282, 283), ratios, strict=True)}
            entries[296] = (3, [2])
        for code in (EXIF_IFD, GPS_IFD):
            values = dict(source.get_ifd(code))
            values.pop(40965, None)  # the interoperability directory: an offset into the file it came from
            if values:
                entries[code] = (16 if self._big else 4, [self._foreign(values)])
        return entries

    def _foreign(self, values: dict[int, Any]) -> int:
        """Writes a directory of EXIF or GPS entries; returns its offset."""
        directory = ImageFileDirectory_v2(ifh=self._header)
        for key, value in values.items():
            directory[key] = value
        offset = _even_end(self._file)
        self._file.write(directory.tobytes(offset))
        return offset


class _Level:
    """Where the strips or tiles of the page, or of a smaller copy, lie."""

    def __init__(self, codec: Codec, height: int, width: int):
        self.height, self.width = height, width
        self.codec = codec if codec.tiled else replace(codec, columns=width)
        self.down, self.across = math.ceil(height / codec.rows), math.ceil(width / self.codec.columns)
        self.offsets = np.zeros(self.down * self.across, np.uint64)
        self.sizes = np.zeros(self.down * self.across, np.uint64)

    def size(self, row: int, column: int) -> tuple[int, int]:
        """Rows and columns of a strip or tile that lie within the picture."""
        rows, columns = self.codec.rows, self.codec.columns
        return min(rows, self.height - row * rows), min(columns, self.width - column * columns)


def write(
    file: BinaryIO, pixels: np.ndarray, alpha: np.ndarray | None, *, layout: Layout | None = None, **options: Any
) -> list[str]:
    """Writes a picture that is whole in memory, to the bytes that one in pieces would have; options: Writer's.

    pixels: [H, W, 1 or 3]; alpha: [H, W].  Returns the notices.
    """
    height, width, colours = pixels.shape
    writer = Writer(file, height, width, colours, pixels.dtype, alpha=alpha is not None, layout=layout, **options)
    rows, columns = writer.codec.rows, writer.codec.columns
    for y in range(0, height, rows):
        for x in range(0, width, columns):
            part = pixels[y : y + rows, x : x + columns]
            if alpha is not None:
                part = np.concatenate([part, alpha[y : y + rows, x : x + columns, None]], 2)
            writer.write(y // rows, x // columns, writer.codec.pack(part))
    writer.finish()  # nothing came early: there is nothing to close
    return writer.notices


def _halved(part: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; an odd last row or column stands for two."""
    part = np.pad(part, [(0, part.shape[0] % 2), (0, part.shape[1] % 2), (0, 0)], mode="edge")
    wide = np.float32 if part.dtype.kind == "f" else np.uint32
    total = sum(part[y::2, x::2].astype(wide) for y in (0, 1) for x in (0, 1))
    return (total / 4 if wide is np.float32 else (total + 2) // 4).astype(part.dtype)


def _field(field: int, values: Any) -> tuple[int, bytes]:
    """Count and bytes of a tag's value."""
    if isinstance(values, str):
        values = values.encode() + b"\0"
    if isinstance(values, bytes):
        return len(values), values
    code = _TYPES[field]
    values = np.atleast_1d(values).tolist()
    return len(values) // len(code), struct.pack(f"<{len(values)}{code[0]}", *values)


def _even_end(file: BinaryIO) -> int:
    end = file.seek(0, 2)
    return end + file.write(b"\0" * (end % 2))


def _codecs() -> Any:
    return tifffile.tifffile.imagecodecs  # there, or the input could not have been read


def _lzw(data: bytes) -> bytes:
    return _codecs().lzw_encode(data)


def _unlzw(data: bytes) -> bytes:
    return _codecs().lzw_decode(data)


def _zstandard(data: bytes) -> bytes:
    return _codecs().zstd_encode(data)


def _unzstandard(data: bytes) -> bytes:
    return _codecs().zstd_decode(data)
