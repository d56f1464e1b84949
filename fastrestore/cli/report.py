"""Errors as the command line tells them: the exit code and one line."""

import errno

import typer

from fastrestore import errors
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
    if isinstance(error, UsageError):
        return " ".join(str(error).split())
    expected = isinstance(error, FastrestoreError | OSError | MemoryError)
    return errors.describe(error) + ("" if expected else " (fastrestore --debug shows where)")


def shares_of_time(shares: dict[str, float]) -> str:
    """Which stage the others wait for.  shares: of the time in which each stage was at work; they overlap."""
    each = ", ".join(f"{stage} {100 * share:.0f} %" for stage, share in shares.items())
    return f"{each} of the time; {max(shares, key=shares.get)} is the bottleneck"
