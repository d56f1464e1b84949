"""Files that appear whole or not at all, and what tells whether one has changed."""

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


class whole_file:
    """Context: a temporary file beside path, open for reading and writing, that takes path's place at the end.

    On any exception, Ctrl-C included, it is removed and path stays as it was.
    """

    def __init__(self, path: Path):
        self.path = path
        self.temporary = path.with_name(f".fastrestore-{secrets.token_hex(8)}.part")

    def __enter__(self) -> BinaryIO:
        self.file = open(self.temporary, "x+b")
        return self.file

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self.file.flush()
                os.fsync(self.file.fileno())
                self.file.close()
                os.replace(self.temporary, self.path)
                _sync_folder(self.path.parent)
        finally:
            with suppress(OSError):
                self.file.close()
            with suppress(FileNotFoundError):
                os.unlink(self.temporary)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # folders cannot be opened there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stamp(path: str | os.PathLike) -> tuple[int, ...] | None:
    """What changes with a file's content and with its place; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def sha256(path: str | os.PathLike) -> str:
    """Of a file's bytes, in hexadecimal digits.  Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
