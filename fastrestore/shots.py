"""Which pictures of an archive are shots of one scene: those of a folder, of a name, or of a moment."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path, PurePosixPath

from PIL import Image as PilImage

from fastrestore import image as images
from fastrestore.tiff import EXIF_IFD

PAUSE = 1.0  # seconds between two shots of a burst, at most; many cameras tell whole seconds only
_TAKEN, _TAKEN_PART, _MAKER, _CAMERA = 36867, 37521, 271, 272  # EXIF: when, its fraction of a second, by what
_NUMBER = re.compile(r"[-_. ]*\d+$")


@dataclass(frozen=True)
class Group:
    """Shots of one scene.  Paths below the archive's folder have slashes."""

    name: str  # of the group, which stays when shots come to it: a pattern, or its first shot's
    folder: str  # and stem: of its result
    stem: str
    shots: tuple[tuple[Path, str], ...]  # files, and their paths below the folder; in the order of names or times


def alone(file: tuple[Path, str]) -> Group:
    """A file that is no shot among others."""
    path = PurePosixPath(file[1])
    return Group(file[1], path.parent.as_posix(), path.stem, (file,))


def by_folder(files: list[tuple[Path, str]]) -> list[Group]:
    """All pictures of a folder are shots of one scene, which is named after the folder.  Those of the archive's own
    folder are not."""
    return _by_pattern(files, lambda path: path.parent / "*" if path.parent.name else path, lambda path: path.parent)


def by_name(files: list[tuple[Path, str]]) -> list[Group]:
    """Pictures of a folder whose names differ in a number at their end only: night.jpg, night-1.jpg and night-2.jpg."""

    def stem(path: PurePosixPath) -> str:
        return _NUMBER.sub("", path.stem) or path.stem

    return _by_pattern(
        files,
        lambda path: path.with_name(f"{stem(path)}*{path.suffix}"),
        lambda path: path.with_name(stem(path)),
    )


def by_time(files: list[tuple[Path, str]]) -> list[Group]:
    """Pictures of a folder, a camera and a kind of file, each taken at most PAUSE seconds after the one before, by
    EXIF.  The scene is named after the first."""
    groups: list[Group] = []
    series: dict[tuple[str, str, str], list[tuple[float, str, Path]]] = {}
    for file in files:
        path, when = PurePosixPath(file[1]), taken(file[0])
        if when is None:
            groups.append(alone(file))
            continue
        seconds, camera = when
        series.setdefault((str(path.parent), camera, path.suffix.lower()), []).append((seconds, file[1], file[0]))
    for shots in series.values():
        shots.sort(key=lambda shot: shot[:2])
        begins = [n for n, shot in enumerate(shots) if n == 0 or shot[0] - shots[n - 1][0] > PAUSE]
        for begin, end in pairwise([*begins, len(shots)]):
            several = tuple((file, below) for _, below, file in shots[begin:end])
            groups.append(replace(alone(several[0]), shots=several))
    return groups


RULES: dict[str, Callable[[list[tuple[Path, str]]], list[Group]]] = {
    "folder": by_folder,
    "name": by_name,
    "time": by_time,
}


def _by_pattern(
    files: list[tuple[Path, str]],
    pattern: Callable[[PurePosixPath], PurePosixPath],
    result: Callable[[PurePosixPath], PurePosixPath],
) -> list[Group]:
    """Groups of those with one pattern.  result: of a path, what the scene's result is called, without a suffix."""
    found: dict[str, list[tuple[Path, str]]] = {}
    for file in files:
        found.setdefault(pattern(PurePosixPath(file[1])).as_posix(), []).append(file)
    groups = []
    for name, shots in found.items():
        path = result(PurePosixPath(shots[0][1]))
        several = Group(name, path.parent.as_posix(), path.name, tuple(shots))
        groups.append(several if len(shots) > 1 else alone(shots[0]))
    return groups


def taken(path: Path) -> tuple[float, str] | None:
    """When a picture was taken, in seconds of its camera's clock, and by which camera; None if its EXIF block does not
    say, or is no block.  Reads no pixels."""
    try:
        with images.open_file(path) as file:
            kind = images.kind_of(file.read(32))
            file.seek(0)
            if kind == "TIFF":
                exif = PilImage.Exif()
                exif.load_from_fp(file)
            else:
                exif = PilImage.open(file, formats=[kind]).getexif()
            fields = exif.get_ifd(EXIF_IFD)
            moment = datetime.strptime(str(fields[_TAKEN]).strip("\0 "), "%Y:%m:%d %H:%M:%S")
            part = float("0." + (str(fields.get(_TAKEN_PART, "")).strip("\0 ") or "0"))
            camera = f"{exif.get(_MAKER, '')} {exif.get(_CAMERA, '')}"
    except Exception:  # whoever reads it will say what is wrong
        return None
    return (moment - datetime(1970, 1, 1)).total_seconds() + part, camera
