"""Deflate of what is written: by ISA-L where it is installed, else by zlib.

ISA-L at level 2 packs differences of noisy 16-bit samples, as TIFF has them, to 0.960 of their size at 800 MB/s; zlib
at level 1 to 0.963 at 48 MB/s and at level 6 to 0.962 at 45 MB/s; of smooth 8-bit ones: 0.34 at 415 MB/s, 0.36 at 93,
0.29 at 12.
"""

from typing import Any, Protocol

try:
    from isal import isal_zlib as _library
except ImportError:  # no wheel for this platform
    import zlib as _library

_LEVEL = 1 if _library.__name__ == "zlib" else 2


class Packer(Protocol):
    def compress(self, data: Any) -> bytes: ...

    def flush(self) -> bytes: ...


def compress(data: bytes) -> bytes:
    """A zlib stream (RFC 1950)."""
    return _library.compress(data, _LEVEL)


def decompress(data: bytes) -> bytes:
    return _library.decompress(data)


def packer() -> Packer:
    """Of a zlib stream that is made piece by piece."""
    return _library.compressobj(_LEVEL)
