"""The exceptions a user can catch, and how any error is told in one line.

Each message is one sentence that says what came and what was wanted.
"""

import os


class FastrestoreError(Exception):
    """Base of every error that fastrestore raises on purpose."""


class ImageError(FastrestoreError, ValueError):
    """A picture cannot be read, is not of a supported kind, or exceeds a limit."""


class ModelError(FastrestoreError, ValueError):
    """A model file, recipe or configuration is refused; nothing from it was run."""


class UnsupportedOperator(FastrestoreError, NotImplementedError):
    """A module holds an operator that no plan can express; the message names it and its path."""


class MemoryBudgetError(FastrestoreError, MemoryError):
    """The work does not fit into the memory budget; the message states the number that would be needed."""


class MissingDependency(FastrestoreError, ImportError):
    """An optional package is needed; the message says what to install."""


class DeviceError(FastrestoreError, RuntimeError):
    """The device that was asked for is not there, or this build has no kernels for it."""


def describe(error: BaseException) -> str:
    """One line for an error, with the file's name where the system gives one."""
    if isinstance(error, OSError) and error.strerror:
        named = isinstance(error.filename, str | bytes)
        return f"{show_name(error.filename)}: {error.strerror}" if named else error.strerror
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return text or "out of memory"
    if isinstance(error, FastrestoreError | OSError):
        return text
    return f"{type(error).__name__}: {text}"


def show_name(path: str | bytes | os.PathLike) -> str:
    """A path for a message: on one line, whatever characters it holds."""
    text = os.fsdecode(path)
    return text if text.isprintable() else ascii(text)
