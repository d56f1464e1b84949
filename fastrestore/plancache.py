"""Compiled plans, kept from one process to the next, so that only the first pays for torch and for compiling.

A plan's file is named after all that the plan follows from: the model file's bytes, the precision and the code that
compiles it.  Nothing here fails or warns: what cannot be read is compiled, and what cannot be written is not kept.
"""

import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from fastrestore.core import _C, IMPORTED
from fastrestore.errors import ModelError
from fastrestore.files import sha256
from fastrestore.plan import Plan

MOST_BYTES = 256 << 20  # kept in all; the plans that were not used for the longest time go
PACKAGE = Path(__file__).parent
# What decides, beside torch, which plan a model file becomes.
SOURCES = ("__init__", "checkpoint", "engine", "lower*", "plan", "layers/*", "models/*", "ops/*")


def plan_of(model: Path, precision: str, compiled: Callable[[], Plan]) -> Plan:
    """The plan of a model file: the one that is kept, or else compiled(), which is kept if that is possible.

    Raises what compiled() does, and ValueError for an instruction set that this CPU lacks.
    """
    place, key = folder(), _key(model, precision)
    if place is None or key is None:
        return compiled()
    plan = _read(place, key)
    if plan is None:
        plan = compiled()
        if _key(model, precision) == key and _is_current():  # of this file and code, not of what took their place
            _keep(place, key, plan)
    return plan


def folder() -> Path | None:
    """Where plans are kept: below $FASTRESTORE_CACHE, $XDG_CACHE_HOME/fastrestore or ~/.cache/fastrestore.

    None: nowhere, because FASTRESTORE_CACHE is empty or there is no home.
    """
    chosen = os.environ.get("FASTRESTORE_CACHE")
    if chosen is None:
        base = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(base):  # then it is to be ignored, says its specification
            base = os.path.expanduser("~/.cache")
        chosen = os.path.join(base, "fastrestore") if os.path.isabs(base) else ""
    return Path(chosen, "plans") if chosen else None


def _key(model: Path, precision: str) -> str | None:
    """None: no plan of it is kept."""
    try:
        status = os.stat(model)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
            return None
        core = os.stat(_C.__file__)
        parts = sha256(model), precision, _code(), str(core.st_size), str(core.st_mtime_ns)
    except (OSError, ValueError):  # ValueError: something that is no package poses as torch
        return None
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@lru_cache(maxsize=1)
def _code() -> str:
    """Checksum of the code that compiles: ours, and torch's version, which is not imported for it."""
    return hashlib.sha256("\n".join(map(sha256, _sources())).encode()).hexdigest()


def _sources() -> list[Path]:
    paths = [path for pattern in SOURCES for path in sorted(PACKAGE.glob(f"{pattern}.py"))]
    torch = find_spec("torch")
    if torch is not None and torch.origin is not None:
        paths.append(Path(torch.origin).with_name("version.py"))
    return paths


def _is_current() -> bool:
    """Whether this process runs the code that lies on the disk: nobody has edited it since."""
    try:
        return all(path.stat().st_mtime < IMPORTED for path in _sources())
    except OSError:
        return False


def _file(place: Path, key: str) -> Path:
    return place / f"{key}.frp"


def _is_safe(place: Path) -> bool:
    """Whether nobody but this user, or the system's, writes there."""
    if os.name == "nt":
        return True
    status = os.stat(place)
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022


def _read(place: Path, key: str) -> Plan | None:
    """The plan that is kept for a key; None where there is none, or a file that is damaged or another's."""
    try:
        if not _is_safe(place):
            return None
        plan = Plan.load(_file(place, key))
    except (ModelError, OSError):
        return None
    if plan.card.get("key") != key:
        return None
    with suppress(OSError):
        os.utime(_file(place, key))  # used just now
    return plan


def _keep(place: Path, key: str, plan: Plan) -> None:
    with suppress(ModelError, OSError):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_safe(place):
            Plan(plan._plan, plan.card | {"key": key}).save(_file(place, key))
            _bound(place)


def _bound(place: Path) -> None:
    """Deletes the oldest files beyond MOST_BYTES, what killed processes left behind among them."""
    total = 0
    found = ((path, path.stat()) for pattern in ("*.frp", ".fastrestore-*.part") for path in place.glob(pattern))
    for path, status in sorted(found, key=lambda entry: entry[1].st_mtime, reverse=True):
        total += status.st_size
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)
