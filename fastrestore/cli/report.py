"""Errors as the command line tells them: the exit code and one line."""

import errno
import os

import typer

from fastrestore.errors import FastrestoreError, ImageError

UsageError = typer.BadParameter.__bases__[0]  # typer has moved it between modules, not its subclass


def exit_code(error: BaseException) -> int:
    """The exit code that says what kind of error ended the whole command."""
    if isinstance(error, typer.Exit | UsageError):
        return error.exit_code
    if isinstance(error, typer.Abort):
        return 130
    if is_resource(error):
        return 4
    if isinstance(error, ImageError) or not isinstance(error, FastrestoreError):
        return 1
    return 3


def is_resource(error: BaseException) -> bool:
    """Whether memory or disk ran out."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return full or isinstance(error, MemoryError)


def describe(error: BaseException) -> str:
    """One line for an error."""
    if isinstance(error, OSError) and error.strerror:
        named = isinstance(error.filename, str | bytes)
        return f"{show_name(error.filename)}: {error.strerror}" if named else error.strerror
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return text or "out of memory"
    if isinstance(error, FastrestoreError | OSError | UsageError):
        return text
    return f"{type(error).__name__}: {text} (fastrestore --debug shows where)"


def show_name(path: str | bytes | os.PathLike) -> str:
    """A path on one line, whatever it holds (as image.show_name, whose module imports the decoders)."""
    text = os.fsdecode(path)
    return text if text.isprintable() else ascii(text)
