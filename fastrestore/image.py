"""Pictures in and out of files: the one door for outside bytes.

What a file is, its content says, never its name.  Everything that a header states is checked against limits
before anything is decoded.  Results appear whole or not at all, and what cannot be kept is said in a notice.
"""

import io
import os
import stat
import struct
import zlib
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image as PilImage
from PIL import ImageCms, ImageFile, PngImagePlugin
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.WebPImagePlugin import WebPImageFile

from fastrestore import png, raw, tiff, tiffwriter
from fastrestore.errors import FastrestoreError, ImageError, show_name
from fastrestore.files import whole_file

MAX_PIXELS = 200_000_000
MAX_METADATA = 16 << 20  # bytes of text, profile and other chunks
MAX_SCANS = 100  # of a progressive JPEG
SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WebP",
    ".bmp": "BMP",
}
_PLUGINS = {"PNG": PngImagePlugin.PngImageFile, "JPEG": JpegImageFile, "WebP": WebPImageFile, "BMP": BmpImageFile}
_STRIP_BYTES = 1 << 18  # of pixels taken from Pillow at a time
_EXIF_HEAD = b"Exif\0\0"
_XMP_KEY = b"XML:com.adobe.xmp\0\0\0\0\0"
_TURNS = {  # EXIF orientation -> the transposition that shows the picture upright
    2: PilImage.Transpose.FLIP_LEFT_RIGHT,
    3: PilImage.Transpose.ROTATE_180,
    4: PilImage.Transpose.FLIP_TOP_BOTTOM,
    5: PilImage.Transpose.TRANSPOSE,
    6: PilImage.Transpose.ROTATE_270,
    7: PilImage.Transpose.TRANSVERSE,
    8: PilImage.Transpose.ROTATE_90,
}


@dataclass
class Image:
    """A picture and everything that belongs to it.

    Pixels stand as stored in the file; the EXIF orientation is kept beside them, so that a result in the same
    format displays the same.  write() turns them upright when the format changes.
    """

    pixels: np.ndarray  # [H, W, 1 or 3] grey or RGB; uint8, uint16, or float32 nominally in [0, 1]
    alpha: np.ndarray | None = None  # [H, W] of the same dtype, never touched
    premultiplied: bool = False  # the colours are multiplied by alpha already
    format: str = "PNG"  # of the file it came from
    bits: int = 8  # a sample, as stored
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    chunks: list[tuple[bytes, bytes]] = field(default_factory=list)  # of a PNG, kept in a PNG
    tags: list[tuple[int, int, int, Any]] = field(default_factory=list)  # of a TIFF, kept in a TIFF
    layout: tiff.Layout | None = None  # of a TIFF, kept in a TIFF
    notices: list[str] = field(default_factory=list)  # a sentence for whatever was lost or converted

    @property
    def orientation(self) -> int:
        """The EXIF orientation, 1 (upright) to 8."""
        place = _orientation_place(self.exif)
        return struct.unpack_from(place[1], self.exif, place[0])[0] if place else 1


def read(source: str | os.PathLike | bytes, *, max_pixels: int | None = None) -> Image:
    """Reads a PNG, JPEG, TIFF, WebP, BMP or raw picture from a path or from the bytes of a file.

    max_pixels: larger ones are refused; None: MAX_PIXELS.
    Of an animated or multi-page file the first picture is taken, by notice; palettes, CMYK and samples of
    less than 8 bits are converted, by notice.  Raises ImageError, in one sentence that begins with the file's
    name, for whatever is damaged, cut short, above a limit or of another kind; OSError if the file cannot be
    opened; MissingDependency if an optional package is needed.
    """
    name = f"<{len(source)} bytes>" if isinstance(source, bytes) else show_name(source)
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    with naming(name), open_file(source) as file:
        if not isinstance(source, bytes) and raw.is_raw(source):
            return Image(raw.develop(source, limit), format="raw", bits=16, notices=[raw.NOTICE])
        return _read(file, limit)


class naming:
    """Context: whatever a decoder raises becomes an ImageError in one sentence that begins with the file's name."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception) or isinstance(error, MemoryError | RecursionError):
            return
        if isinstance(error, FastrestoreError):
            raise type(error)(f"{self.name}: {error}") from error
        if isinstance(error, OSError) and error.errno is not None:
            return
        # decoders raise nearly every type for damaged files
        raise ImageError(f"{self.name}: cannot be decoded: {error or type(error).__name__}") from error


def write(path: str | os.PathLike, image: Image, *, quality: int = 95) -> list[str]:
    """Writes a picture in the format that the path's suffix names; returns a notice for whatever was lost.

    The file appears whole or not at all: it is written beside its place, flushed to disk and renamed, and an
    old file stays until then.  A symbolic link is replaced, not followed.  JPEG is written at the given quality
    with colour at full resolution, WebP without loss, float samples as 16 bits where the format has no float.
    Raises ImageError if the format or the place is not suitable, OSError if writing fails.
    """
    path = Path(path)
    kind = format_of(path)
    if path.exists() and not path.is_file():
        raise ImageError(f"{show_name(path)}: exists and is not a plain file")
    notices: list[str] = []
    image = _fit(image, kind, notices)
    with whole_file(path) as file:
        try:
            _encode(file, image, kind, quality, notices)
        except OSError as error:
            if error.errno is not None:
                raise
            raise ImageError(f"{show_name(path)}: cannot be written as {kind}: {error}") from error
        except (ValueError, struct.error) as error:
            raise ImageError(f"{show_name(path)}: cannot be written as {kind}: {error}") from error
    return notices


def format_of(path: str | os.PathLike) -> str:
    """The format that a result of this name has.  Raises ImageError for an unknown suffix."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ImageError(f"{show_name(path)}: no picture format has the suffix {suffix!r}: {', '.join(SUFFIXES)} do")
    return SUFFIXES[suffix]


def open_file(source: str | os.PathLike | bytes) -> BinaryIO:
    """A plain file, open for reading, or its bytes.  Raises ImageError for a pipe, a folder or a device."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    # A FIFO would block in open() until somebody writes: O_NONBLOCK, then look at what was opened.
    flags = getattr(os, "O_NONBLOCK", 0)
    file = open(source, "rb", opener=lambda path, mode: os.open(path, mode | flags))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ImageError("is not a plain file")
    return file


def _read(file: BinaryIO, max_pixels: int) -> Image:
    head = file.read(32)
    if not head:
        raise ImageError("is empty")
    kind = kind_of(head)
    file.seek(0)
    if kind == "TIFF":
        page = tiff.read(file, max_pixels=max_pixels, max_metadata=MAX_METADATA)
        return Image(format="TIFF", **vars(page))
    if kind == "WebP":  # its decoder allocates the canvas on opening
        _check_size(*_webp_size(head), max_pixels)
    chunks = []
    if kind == "PNG":
        if head[8:16] != b"\0\0\0\rIHDR":
            raise ImageError("cannot be decoded: it does not begin with its IHDR chunk")
        _check_size(*struct.unpack_from(">II", head, 16), max_pixels)
        chunks = list(png.chunks(file, max_ancillary=MAX_METADATA))
    if kind == "JPEG":
        _check_scans(file)
    file.seek(0)
    with closing(_PLUGINS[kind](file)) as picture:
        _check_size(*picture.size, max_pixels)
        image = _decode(picture, kind, file, chunks)
    return image


def kind_of(head: bytes) -> str:
    """The format of a file with these first 32 bytes.  Raises ImageError for others."""
    if head.startswith(png.SIGNATURE):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM":
        return "BMP"
    raise ImageError("is not a PNG, JPEG, TIFF, WebP or BMP picture")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"its size is {width} x {height}")
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} pixels are above the limit of {max_pixels / 1e6:g} Mpixel")


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height from the first chunk, by the container's specification."""
    head = head.ljust(32, b"\0")
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        packed = int.from_bytes(head[21:25], "little")
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    return (int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF)


def _check_scans(file: BinaryIO) -> None:
    """Counts start-of-scan markers; a scan costs a pass over all pixels, so thousands would take hours."""
    file.seek(0)
    scans, last = 0, b""
    while block := file.read(1 << 20):
        scans += (last + block).count(b"\xff\xda")
        last = block[-1:]
    if scans > MAX_SCANS:
        raise ImageError(f"more than {MAX_SCANS} progressive scans")


def _decode(picture: ImageFile.ImageFile, kind: str, file: BinaryIO, chunks: list[tuple[bytes, bytes]]) -> Image:
    notices, bits, info = [], 8, picture.info
    if getattr(picture, "is_animated", False):
        notices.append(f"only the first of its {picture.n_frames} frames is restored")
    if "mp" in info or "photoshop" in info or "comment" in info:
        words = {"mp": "further pictures", "photoshop": "IPTC and Photoshop data", "comment": "comment"}
        notices.append(f"not kept: {', '.join(word for key, word in words.items() if key in info)}")
    kept = [c for c in chunks if c[0] in png.KEPT and not (c[0] == b"iTXt" and c[1].startswith(_XMP_KEY[:17]))]
    if kind == "PNG" and chunks[0][1][8] == 16:
        bits = 16
        pixels, alpha = png.read16(file, png.CHANNELS[chunks[0][1][9]], dict(chunks).get(b"tRNS"))
    else:
        pixels, alpha = _split(_to_plain(picture, notices))
    dropped = {k for k, _ in chunks} - png.CRITICAL - png.KEPT - {b"iCCP", b"eXIf", b"pHYs", b"tRNS", b"sBIT"}
    if dropped:
        notices.append(f"chunks not kept: {', '.join(sorted(k.decode('latin1') for k in dropped))}")
    dpi = info.get("dpi")
    cmyk = picture.mode == "CMYK"
    return Image(
        pixels=pixels,
        alpha=alpha,
        format=kind,
        bits=bits,
        icc=None if cmyk else info.get("icc_profile") or None,
        exif=_EXIF_HEAD + info["exif"].removeprefix(_EXIF_HEAD) if info.get("exif") else None,
        xmp=info.get("xmp") or None,
        dpi=(float(dpi[0]), float(dpi[1])) if dpi and dpi[0] > 0 and dpi[1] > 0 else None,
        chunks=kept,
        notices=notices,
    )


def _to_plain(picture: PilImage.Image, notices: list[str]) -> PilImage.Image:
    """The picture as L, LA, RGB or RGBA."""
    mode, transparent = picture.mode, "transparency" in picture.info
    picture.load()
    if mode == "P":
        notices.append("a palette picture becomes full colour")
        return picture.convert("RGBA" if transparent else "RGB")
    if mode == "1":
        notices.append("its 1-bit samples become 8 bits")
        return picture.convert("L")
    if mode == "CMYK":
        notices.append("CMYK is converted to RGB")
        return _cmyk_to_rgb(picture)
    if mode in ("L", "RGB") and transparent:
        return picture.convert("LA" if mode == "L" else "RGBA")
    if mode not in ("L", "LA", "RGB", "RGBA"):
        raise ImageError(f"pixels of the kind {mode} are not supported")
    return picture


def _cmyk_to_rgb(picture: PilImage.Image) -> PilImage.Image:
    profile = picture.info.get("icc_profile")
    if not profile:
        return picture.convert("RGB")
    try:
        return ImageCms.profileToProfile(picture, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError as error:
        raise ImageError(f"its CMYK colour profile cannot be applied: {error}") from error


def _to_array(picture: PilImage.Image) -> np.ndarray:
    """What np.array gives, in a third of the time and one picture less of memory: Pillow copies it three times on the
    way, and strips of rows stay in the cache meanwhile.
    """
    width, height = picture.size
    bands = len(picture.getbands())
    out = np.empty((height, width, bands) if bands > 1 else (height, width), np.uint8)
    rows = max(1, _STRIP_BYTES // (width * bands))
    for top in range(0, height, rows):
        out[top : top + rows] = np.asarray(picture.crop((0, top, width, min(height, top + rows))))
    return out


def _split(picture: PilImage.Image) -> tuple[np.ndarray, np.ndarray | None]:
    data = _to_array(picture)
    if data.ndim == 2:
        return data[..., None], None
    if picture.mode in ("LA", "RGBA"):
        return np.ascontiguousarray(data[..., :-1]), np.ascontiguousarray(data[..., -1])
    return data, None


def _fit(image: Image, kind: str, notices: list[str]) -> Image:
    """The picture with samples, alpha, orientation and metadata that the format can hold."""
    if kind != image.format and image.orientation != 1:
        image = _upright(image)
    if image.premultiplied and kind != "TIFF":
        image = _divide_alpha(image)
    wanted = {"PNG": (np.uint8, np.uint16), "TIFF": (np.uint8, np.uint16, np.float32)}.get(kind, (np.uint8,))
    if image.pixels.dtype not in wanted:
        notices.append(f"{image.pixels.dtype} samples become {np.dtype(wanted[-1])}: {kind} holds no others")
        alpha = None if image.alpha is None else convert(image.alpha, wanted[-1])
        image = replace(image, pixels=convert(image.pixels, wanted[-1]), alpha=alpha)
    if kind in ("JPEG", "BMP") and image.alpha is not None:
        notices.append(f"transparency is not kept: {kind} has none")
        image = replace(image, alpha=None)
    if kind == "BMP":
        lost = {"colour profile": image.icc, "EXIF": image.exif, "XMP": image.xmp}
        if any(lost.values()):
            notices.append(f"not kept: {', '.join(k for k, v in lost.items() if v)}: BMP holds none")
    if kind == "WebP" and image.dpi is not None:
        notices.append("the resolution is not kept: WebP holds none")
    if kind != "PNG" and image.chunks:
        names = sorted({k.decode("latin1") for k, _ in image.chunks})
        notices.append(f"not kept: the PNG chunks {', '.join(names)}")
    if kind != "TIFF" and image.tags:
        notices.append(f"not kept: the TIFF tags {', '.join(str(tag[0]) for tag in image.tags)}")
    return image


def convert(samples: np.ndarray, dtype: type) -> np.ndarray:
    """Samples in another of uint8, uint16 and float32: integers rounded, floats clipped to [0, 1]; any shape."""
    if samples.dtype == dtype:
        return samples
    out = np.empty(samples.shape, dtype)
    full = {"uint8": 255.0, "uint16": 65535.0}
    factor = full.get(out.dtype.name, 1.0) / full.get(samples.dtype.name, 1.0)
    for row in range(len(samples)):  # by rows: no whole picture in float beside it
        values = samples[row].astype(np.float64) * factor
        out[row] = values if out.dtype.kind == "f" else np.rint(np.clip(values, 0, full[out.dtype.name]))
    return out


def _upright(image: Image) -> Image:
    turn = _TURNS[image.orientation]
    place = _orientation_place(image.exif)
    exif = bytearray(image.exif)
    struct.pack_into(place[1], exif, place[0], 1)
    dpi = image.dpi[::-1] if image.dpi and image.orientation >= 5 else image.dpi
    alpha = None if image.alpha is None else _turn(image.alpha, turn)
    return replace(image, pixels=_turn(image.pixels, turn), alpha=alpha, exif=bytes(exif), dpi=dpi)


def _turn(samples: np.ndarray, turn: PilImage.Transpose) -> np.ndarray:
    """What PIL's transpose does, for any dtype: [H, W, ...]."""
    swap = turn.name in ("TRANSPOSE", "TRANSVERSE", "ROTATE_90", "ROTATE_270")
    flip_rows = turn.name in ("FLIP_TOP_BOTTOM", "ROTATE_180", "ROTATE_90", "TRANSVERSE")
    flip_columns = turn.name in ("FLIP_LEFT_RIGHT", "ROTATE_180", "ROTATE_270", "TRANSVERSE")
    out = samples.swapaxes(0, 1) if swap else samples
    return np.ascontiguousarray(out[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def _divide_alpha(image: Image) -> Image:
    full = {"uint8": 255, "uint16": 65535}.get(image.pixels.dtype.name, 1)
    opacity = np.maximum(image.alpha.astype(np.float64) / full, 1e-12)[..., None]
    pixels = np.where(image.alpha[..., None] > 0, np.minimum(image.pixels / opacity, full), 0)
    pixels = pixels if full == 1 else np.rint(pixels)
    return replace(image, pixels=pixels.astype(image.pixels.dtype), premultiplied=False)


def _orientation_place(exif: bytes | None) -> tuple[int, str] | None:
    """Where in an EXIF block the orientation stands, and how it is packed; None if it has none in 1 to 8."""
    start = 6 if exif and exif.startswith(b"Exif\0\0") else 0
    if not exif or len(exif) < start + 10:
        return None
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[start : start + 4])
    if order is None:
        return None
    first = start + struct.unpack_from(order + "I", exif, start + 4)[0]
    count = struct.unpack_from(order + "H", exif, first)[0] if first + 2 <= len(exif) else 0
    for entry in range(first + 2, min(first + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, number, value = struct.unpack_from(order + "HHIH", exif, entry)
        if tag == 0x0112:
            return (entry + 8, order + "H") if kind == 3 and number == 1 and 1 <= value <= 8 else None
    return None


def _encode(file: BinaryIO, image: Image, kind: str, quality: int, notices: list[str]) -> None:
    if kind == "TIFF":
        beside = {"icc": image.icc, "exif": image.exif, "xmp": image.xmp, "dpi": image.dpi, "tags": image.tags}
        beside |= {"premultiplied": image.premultiplied, "layout": image.layout, "quality": quality}
        notices += tiffwriter.write(file, image.pixels, image.alpha, **beside)
        return
    if kind == "PNG":
        png.write(file, image.pixels, image.alpha, _png_chunks(image))
        return
    options: dict[str, Any] = {}
    if kind == "JPEG":
        options = {"quality": quality, "subsampling": 0}
    elif kind == "WebP":
        options = {"lossless": True, "exact": True}
    if kind in ("JPEG", "WebP") and image.xmp:
        options["xmp"] = image.xmp
    if kind != "BMP":
        options |= {"icc_profile": image.icc, "exif": image.exif or b""}
    if kind != "WebP" and image.dpi:
        options["dpi"] = image.dpi
    if kind == "JPEG":
        for name, limit in (("exif", 65533), ("xmp", 65504)):
            if len(options.get(name) or b"") > limit:
                notices.append(f"not kept: {name.upper()} of {len(options[name])} bytes: JPEG holds {limit}")
                options.pop(name)
    _to_pil(image).save(_Checked(file), format=kind.upper(), **options)


class _Checked:
    """A file without its descriptor: Pillow writes to a descriptor itself, and takes a short write for a whole one."""

    def __init__(self, file: BinaryIO):
        self.write, self.flush, self.seek, self.tell = file.write, file.flush, file.seek, file.tell


def _png_chunks(image: Image) -> list[tuple[bytes, bytes]]:
    chunks = []
    if image.icc:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(image.icc)))
    chunks += image.chunks
    if image.dpi:
        x, y = (round(value / 0.0254) for value in image.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", x, y, 1)))
    if image.exif:
        chunks.append((b"eXIf", image.exif.removeprefix(_EXIF_HEAD)))
    if image.xmp:
        chunks.append((b"iTXt", _XMP_KEY + image.xmp))
    return chunks


def _to_pil(image: Image) -> PilImage.Image:
    data = image.pixels
    if image.alpha is not None:
        data = np.concatenate([data, image.alpha[..., None]], 2)
    return PilImage.fromarray(data[..., 0] if data.shape[2] == 1 else data)
