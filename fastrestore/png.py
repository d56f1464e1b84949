"""PNG where Pillow is not enough: the chunk check, reading 16 bits a sample (Pillow opens those as 8), and writing,
which takes Pillow seven times as long.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import cv2
import numpy as np

from fastrestore import deflate
from fastrestore.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
# Say how the samples are to be shown, or are words about the picture: valid whatever the pixels are.
KEPT = {b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tEXt", b"zTXt", b"iTXt"}
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
MAX_CHUNKS = 1_000_000
_BAND_BYTES = 1 << 20


def chunks(file: BinaryIO, *, max_ancillary: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields (type, data) of every chunk of a PNG file; data is empty for IDAT.

    Checks lengths and checksums to the end.  Raises ImageError for a file that is cut or damaged, or whose
    chunks other than the pixels exceed max_ancillary bytes in all.
    """
    file.seek(0, 2)
    end = file.tell()
    file.seek(len(SIGNATURE))
    total = 0
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            raise ImageError("the file is cut short: it ends before its IEND chunk")
        length, kind = struct.unpack(">I4s", head)
        if length > end - file.tell() - 4:
            raise ImageError(f"the file is cut short: a chunk of {length} bytes reaches past its end")
        if kind != b"IDAT":
            total += length
            if total > max_ancillary:
                raise ImageError(f"its text, profile and other extra chunks exceed {max_ancillary} bytes")
        checksum, data = zlib.crc32(kind), b""
        for start in range(0, length, _BAND_BYTES):
            piece = file.read(min(_BAND_BYTES, length - start))
            checksum = zlib.crc32(piece, checksum)
            data = b"" if kind == b"IDAT" else data + piece
        if file.read(4) != struct.pack(">I", checksum):
            raise ImageError(f"a checksum is wrong (chunk {kind!r}): the file is damaged")
        yield kind, data
        if kind == b"IEND":
            return
    raise ImageError(f"more than {MAX_CHUNKS} chunks")


def read16(file: BinaryIO, channels: int, key: bytes | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels [H, W, 1 or 3] and alpha [H, W] or None, uint16, of a PNG with 16 bits a sample.

    channels: as stored, 1 to 4.  key: data of its tRNS chunk, the colour that is transparent.
    Raises ImageError if the pixels cannot be decoded.
    """
    decoded = cv2.imdecode(np.frombuffer(_essential(file), np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        raise ImageError("its pixel data is damaged")
    if decoded.ndim == 2:
        alpha = None
        if key is not None and len(key) == 2:
            alpha = np.where(decoded == int.from_bytes(key, "big"), 0, 65535).astype(np.uint16)
        return decoded[..., None], alpha
    alpha = np.ascontiguousarray(decoded[..., 3]) if decoded.shape[2] == 4 else None
    if channels == 2:  # grey with alpha comes back as colour
        return np.ascontiguousarray(decoded[..., :1]), alpha
    if alpha is None:
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, decoded), None
    return cv2.cvtColor(decoded, cv2.COLOR_BGRA2RGB), alpha


def _essential(file: BinaryIO) -> bytearray:
    """The file without its profile, text and other chunks, which the decoder would parse and complain about."""
    kept = bytearray(SIGNATURE)
    file.seek(len(SIGNATURE))
    while head := file.read(8):
        length, kind = struct.unpack(">I4s", head)
        body = file.read(length + 4)
        if kind in CRITICAL or kind == b"tRNS":
            kept += head + body
    return kept


def write(file: BinaryIO, pixels: np.ndarray, alpha: np.ndarray | None, extra: list[tuple[bytes, bytes]]) -> None:
    """Writes uint8 or uint16 pixels [H, W, 1 or 3] and alpha [H, W], row band by row band.

    extra: chunks (type, data) that stand before the pixels.
    """
    height, width, colours = pixels.shape
    channels, bits = colours + (alpha is not None), 8 * pixels.itemsize
    colour_type = (2 if colours == 3 else 0) | (4 if alpha is not None else 0)
    file.write(SIGNATURE)
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    for kind, data in extra:
        _write_chunk(file, kind, data)
    packer = deflate.packer()
    row_bytes = width * channels * pixels.itemsize
    rows = max(1, _BAND_BYTES // row_bytes)
    above = np.zeros(row_bytes, np.uint8)
    for top in range(0, height, rows):
        band = pixels[top : top + rows]
        if alpha is not None:
            band = np.concatenate([band, alpha[top : top + rows, :, None]], 2)
        band = np.ascontiguousarray(band, band.dtype.newbyteorder(">")).reshape(len(band), -1).view(np.uint8)
        # 2: each row less the one above.  Of photographs this is as small as what Pillow chooses row by row.
        filtered = np.full((len(band), 1 + band.shape[1]), 2, np.uint8)
        filtered[0, 1:] = band[0] - above
        np.subtract(band[1:], band[:-1], out=filtered[1:, 1:])
        above = band[-1]
        if piece := packer.compress(filtered):
            _write_chunk(file, b"IDAT", piece)
    _write_chunk(file, b"IDAT", packer.flush())
    _write_chunk(file, b"IEND", b"")


def _write_chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind + data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
