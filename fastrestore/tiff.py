"""TIFF in and out through tifffile: what it is checked for, and which of its tags are kept."""

import io
import math
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image as PilImage
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from fastrestore.errors import ImageError, MissingDependency

# Compressions whose output is bounded by the segment's size, and what each needs beside tifffile.
COMPRESSIONS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate", 50000: "Zstandard"}
CLASSIC_BYTES = 2**32 - 2**25  # above this a TIFF needs 64-bit offsets
_IN_TIFFFILE = {1, 8, 32773, 32946}
_TEXT_TAGS = {270, 271, 272, 305, 306, 315, 33432}  # description, maker, ..., copyright: kept in the EXIF block
_ORIENTATION, _XMP, _ICC, _EXIF_IFD, _GPS_IFD = 274, 700, 34675, 34665, 34853
# Where the picture lies on the earth (GeoTIFF, GDAL), IPTC and Photoshop blocks: kept as they are in a TIFF.
_KEPT_TAGS = {33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113, 33723, 34377}
_STRUCTURE = {254, 255, *range(256, 260), 262, 263, 266, 273, 277, 278, 279, 280, 281, 282, 283, 284, 296, 317}
_STRUCTURE |= {320, 322, 323, 324, 325, 338, 339, 347, 529, 530, 531, 532, 32997}


@dataclass
class Tiff:
    """One page: pixels [H, W, 1 or 3], alpha [H, W] or None, and what is kept beside them."""

    pixels: np.ndarray
    alpha: np.ndarray | None
    premultiplied: bool
    bits: int
    compressed: bool
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
    with tifffile.TiffFile(file) as tif:
        page = tif.pages[0]
        if not isinstance(page, tifffile.TiffPage):
            raise ImageError("its first page has no picture")
        _check(page, max_pixels, _size(file), max_metadata)
        notices = []
        try:
            tif.pages[1]
            notices.append("only the first of its pages is restored")
        except IndexError:
            pass
        data = page.asarray(maxworkers=1)
        pixels, extra, notes = _arrange(page, data)
        notices += notes
        premultiplied = extra is not None and 1 in page.extrasamples
        dropped = [t.code for t in page.tags if t.code not in _STRUCTURE | _KEPT_TAGS | _TEXT_TAGS]
        dropped = [c for c in dropped if c not in (_ORIENTATION, _XMP, _ICC, _EXIF_IFD, _GPS_IFD)]
        if dropped:
            notices.append(f"tags not kept: {', '.join(map(str, dropped[:8]))}{', ...' if dropped[8:] else ''}")
        icc, xmp = page.tags.valueof(_ICC), page.tags.valueof(_XMP)
        return Tiff(
            pixels=pixels,
            alpha=extra,
            premultiplied=premultiplied,
            bits=page.bitspersample,
            compressed=page.compression != 1,
            icc=bytes(icc) if icc else None,
            exif=_exif(page, file),
            xmp=bytes(xmp) if xmp and not isinstance(xmp, str) else None,
            dpi=_dpi(page),
            tags=[(t.code, int(t.dtype), t.count, t.value) for t in page.tags if t.code in _KEPT_TAGS],
            notices=notices,
        )


def _size(file: BinaryIO) -> int:
    file.seek(0, 2)
    return file.tell()


def _check(page: tifffile.TiffPage, max_pixels: int, file_size: int, max_metadata: int) -> None:
    """Everything that the header says, before anything is decoded."""
    width, height = page.imagewidth, page.imagelength
    if width < 1 or height < 1 or page.imagedepth != 1:
        raise ImageError(f"its size is {width} x {height} x {page.imagedepth}")
    if width * height > max_pixels:
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
        if page.tilewidth < 1 or page.tilelength < 1 or tile > max_pixels:
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
    if page.compression == 7:
        _check_jpeg(page, tile)


def _check_jpeg(page: tifffile.TiffPage, expected: int) -> None:
    """The JPEG streams inside have headers of their own, which could ask for 65535 x 65535 pixels."""
    for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        page.parent.filehandle.seek(offset)
        width, height = JpegImageFile(io.BytesIO(page.parent.filehandle.read(size))).size
        if width * height > 4 * expected:
            raise ImageError(f"a JPEG tile of {width} x {height} pixels inside does not fit: the file is damaged")


def _has_imagecodecs() -> bool:
    return hasattr(tifffile.tifffile.imagecodecs, "lzw_decode")


def _arrange(page: tifffile.TiffPage, data: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Pixels [H, W, 1 or 3], the extra sample [H, W], and notices."""
    height, width = page.imagelength, page.imagewidth
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        data = np.moveaxis(data.reshape(page.samplesperpixel, height, width), 0, 2)
    data = data.reshape(height, width, -1)
    data = data.astype(data.dtype.newbyteorder("="), copy=False)
    photometric, bits, notices = page.photometric, page.bitspersample, []
    if data.dtype.kind == "b":
        data = data.view(np.uint8)
    if data.dtype.kind == "f":
        if data.dtype.itemsize == 8:
            notices.append("its 64-bit float samples are rounded to 32 bits")
        with np.errstate(over="ignore"):
            data = data.astype(np.float32, copy=False)
        if not np.isfinite(data).all():
            count = int((~np.isfinite(data)).sum())
            raise ImageError(f"{count} of its float samples are NaN or infinite: replace them first")
    elif data.dtype.kind != "u" or bits > 16:
        raise ImageError(f"samples of type {data.dtype} ({bits} bits) are not supported: 1 to 16 bits or float are")
    if photometric == 3:
        table = np.array(page.colormap, np.uint16).reshape(3, -1).T
        if not (table < 256).all():
            table = (table.astype(np.uint32) * 255 + 32767) // 65535
        if int(data.max()) >= len(table):
            raise ImageError("a pixel is outside its palette: the file is damaged")
        notices.append("a palette picture becomes full colour")
        return table.astype(np.uint8)[data[..., 0]], None, notices
    if data.dtype.kind == "u" and bits not in (8, 16):
        top, full = (1 << bits) - 1, 255 if bits < 8 else 65535
        data = ((data.astype(np.uint32) * full + top // 2) // top).astype(np.uint8 if bits < 8 else np.uint16)
        notices.append(f"its {bits}-bit samples are scaled to {8 if bits < 8 else 16} bits")
    if photometric == 6 and page.compression != 7:
        raise ImageError("YCbCr without JPEG compression is not supported")
    if photometric not in (0, 1, 2, 6):
        raise ImageError(f"colours of the kind {photometric.name} are not supported: grey, RGB and palette are")
    colours = 1 if photometric in (0, 1) else 3
    if data.shape[2] not in (colours, colours + 1):
        raise ImageError(f"{data.shape[2]} samples a pixel do not fit a {photometric.name} picture")
    extra = np.ascontiguousarray(data[..., colours]) if data.shape[2] > colours else None
    pixels = np.ascontiguousarray(data[..., :colours])
    if photometric == 0:  # white is zero
        pixels = (1 - pixels) if pixels.dtype.kind == "f" else ~pixels
    return pixels, extra, notices


def _dpi(page: tifffile.TiffPage) -> tuple[float, float] | None:
    unit = page.tags.valueof(296, default=2)
    x, y = page.tags.valueof(282), page.tags.valueof(283)
    if unit not in (2, 3) or not x or not y or 0 in (*x, *y):
        return None
    scale = 1.0 if unit == 2 else 2.54
    return (x[0] / x[1] * scale, y[0] / y[1] * scale)


def _exif(page: tifffile.TiffPage, file: BinaryIO) -> bytes | None:
    """The texts, the orientation and the EXIF and GPS directories, as an EXIF block like a JPEG's."""
    wanted = _TEXT_TAGS | {_ORIENTATION, _EXIF_IFD, _GPS_IFD}
    if not any(code in wanted for code in (t.code for t in page.tags)):
        return None
    source, kept = PilImage.Exif(), PilImage.Exif()
    source.bigtiff, source.endian = page.parent.is_bigtiff, page.parent.byteorder
    source.load_from_fp(file, page.offset)
    for code in _TEXT_TAGS | {_ORIENTATION}:
        if code in source:
            kept[code] = source[code]
    for code in (_EXIF_IFD, _GPS_IFD):
        if code in source:
            kept.get_ifd(code).update(source.get_ifd(code))
    return kept.tobytes()


def write(
    file: BinaryIO,
    pixels: np.ndarray,
    alpha: np.ndarray | None,
    *,
    premultiplied: bool = False,
    compressed: bool = True,
    icc: bytes | None = None,
    exif: bytes | None = None,
    xmp: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    tags: list[tuple[int, int, int, Any]] = (),
) -> None:
    """Writes one page.  file: open for reading and writing.  Fields as in Tiff; compressed: by deflate."""
    colours = pixels.shape[2]
    data = pixels[..., 0] if colours == 1 else pixels
    if alpha is not None:
        data = np.concatenate([pixels, alpha[..., None]], 2)
    source = PilImage.Exif()
    source.load(exif or b"")
    extra = [(*tag, True) for tag in tags]
    extra += [(code, 2, 0, str(source[code]), True) for code in sorted(_TEXT_TAGS) if code in source]
    if source.get(_ORIENTATION, 1) != 1:
        extra.append((_ORIENTATION, 3, 1, source[_ORIENTATION], True))
    if xmp:
        extra.append((_XMP, 1, len(xmp), xmp, True))
    directories = {code: dict(source.get_ifd(code)) for code in (_EXIF_IFD, _GPS_IFD)}
    directories = {code: entries for code, entries in directories.items() if entries}
    big = data.nbytes + sum(map(len, (icc or b"", exif or b"", xmp or b""))) > CLASSIC_BYTES
    with tifffile.TiffWriter(file, bigtiff=big, byteorder="<") as writer:
        writer.write(
            data,
            photometric="rgb" if colours == 3 else "minisblack",
            planarconfig="contig" if data.ndim == 3 else None,
            extrasamples=None if alpha is None else ["assocalpha" if premultiplied else "unassalpha"],
            compression="deflate" if compressed else None,
            predictor=compressed and data.dtype.kind == "u",
            rowsperstrip=max(1, (1 << 20) // max(1, data[0].nbytes)),
            iccprofile=icc,
            resolution=dpi,
            resolutionunit="inch" if dpi else None,
            metadata=None,
            software=False,
            extratags=extra,
            maxworkers=1,
        )
    if directories:
        _add_directories(file, directories, big)


def _add_directories(file: BinaryIO, directories: dict[int, dict[int, Any]], big: bool) -> None:
    """Adds EXIF and GPS directories, which tifffile cannot write: the page's list of tags moves to the end of the
    file with their entries in it."""
    word, entry = ("<Q", "<HHQQ") if big else ("<I", "<HHII")
    counter = "<Q" if big else "<H"
    place = 8 if big else 4  # in the header, of the offset of the list
    file.seek(0)
    header = file.read(2 * place)
    file.seek(struct.unpack_from(word, header, place)[0])
    count = struct.unpack(counter, file.read(struct.calcsize(counter)))[0]
    size = struct.calcsize(entry)
    listed = [file.read(size) for _ in range(count)]
    following = file.read(struct.calcsize(word))
    for code, entries in directories.items():
        entries.pop(40965, None)  # the interoperability directory: an offset into the file it came from
        directory = ImageFileDirectory_v2(ifh=header)
        for key, value in entries.items():
            directory[key] = value
        offset = _even_end(file)
        file.write(directory.tobytes(offset))
        listed.append(struct.pack(entry, code, 16 if big else 4, 1, offset))
    offset = _even_end(file)
    listed.sort(key=lambda item: struct.unpack_from("<H", item)[0])
    file.write(struct.pack(counter, len(listed)) + b"".join(listed) + following)
    file.seek(place)
    file.write(struct.pack(word, offset))


def _even_end(file: BinaryIO) -> int:
    end = file.seek(0, 2)
    return end + file.write(b"\0" * (end % 2))
