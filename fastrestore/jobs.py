"""What a batch is to do: pictures, bursts and clips of a folder, and where each result goes."""

import fnmatch
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastrestore import burst, dicom, raw, shots, video
from fastrestore import image as images
from fastrestore.errors import ImageError

NAME = "{folder}/{stem}{suffix}"  # of a result, in the output folder
PICTURE, BURST, CLIP = KINDS = "picture", "burst", "clip"

_PICTURES = {*images.SUFFIXES, *raw.SUFFIXES, dicom.SUFFIX}
_CLIP_SUFFIX = ".mkv"  # of a result whose input's container cannot be written


@dataclass
class Job:
    sources: tuple[Path, ...]  # one file, or the shots of a burst
    name: str  # of the source below the input folder, with slashes; of a burst see shots.Group
    target: Path
    kind: str = PICTURE
    fault: Exception | None = None  # known before it is read
    pictures: list[images.Image] = field(default_factory=list)  # as read; then the restored one
    whole: bool = True  # decoded, restored and encoded at once, not piece by piece
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        return self.sources[0]


def find(
    inputs: str | os.PathLike | Sequence[str | os.PathLike],
    out: Path,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    name: str = NAME,
    suffix: str | None = None,
    bursts: str | None = None,
) -> list[Job]:
    """What there is to restore and where each result goes; see bulk.batch.

    Raises ImageError for a folder that is not there, two inputs with one result, and a result that is an input;
    ValueError for a rule that is not there.
    """
    if suffix is not None and suffix.lower() not in video.CONTAINERS:
        images.format_of(f"x{suffix}")
    if bursts is not None and bursts not in shots.RULES:
        raise ValueError(f"bursts by {bursts!r:.50}: the rules are {', '.join(shots.RULES)}")
    single = isinstance(inputs, str | os.PathLike)
    if single and not Path(inputs).is_dir():
        raise ImageError(f"{images.show_name(inputs)}: no such folder")
    files, errors = _walk(Path(inputs), out) if single else ([(Path(path), Path(path).name) for path in inputs], [])
    files = [file for file in files if _wanted(file[1], include, exclude)]
    found = []
    for group, kind in _groups(files, bursts):
        target = _target(out, group, kind, name, _suffix(group.shots[0][0], kind, suffix))
        job = Job(tuple(path for path, _ in group.shots), group.name, target, kind)
        for source in job.sources if single else ():
            if source.is_symlink() and not source.resolve().is_relative_to(Path(inputs).resolve()):
                job.fault = ImageError(f"{images.show_name(source)}: a link out of the folder, not followed")
        if kind == BURST and len(job.sources) > burst.MOST:  # else all would be read first
            job.fault = ImageError(f"{job.name}: a burst is 1 to {burst.MOST} shots, got {len(job.sources)}")
        found.append(job)
    for error in errors:
        below = Path(error.filename).relative_to(inputs)
        found.append(Job((Path(inputs, below),), below.as_posix(), out / below, fault=error))
    _check_places(found)
    return found


def is_clip(path: Path) -> bool:
    return path.suffix.lower() in video.SUFFIXES


def _walk(folder: Path, out: Path) -> tuple[list[tuple[Path, str]], list[OSError]]:
    """The files that may be wanted, with their paths below the folder, and errors of folders that cannot be read."""
    found, errors = [], []
    for place, folders, files in os.walk(folder, onerror=errors.append):
        here = Path(place)
        folders[:] = sorted(f for f in folders if not _same(here / f, out))  # links to folders are not followed
        for file in sorted(files):
            path = here / file
            if (path.suffix.lower() in _PICTURES or is_clip(path)) and not file.startswith(".fastrestore-"):
                found.append((path, path.relative_to(folder).as_posix()))
    return found, errors


def _same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and os.path.samefile(a, b)


def _wanted(below: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    if include and not any(fnmatch.fnmatch(below, pattern) for pattern in include):
        return False
    return not any(fnmatch.fnmatch(below, pattern) for pattern in exclude)


def _groups(files: list[tuple[Path, str]], bursts: str | None) -> Iterator[tuple[shots.Group, str]]:
    """What is restored together, and its kind, in the order of the first files."""
    single, several = [], []
    for file in files:
        together = bursts is not None and not is_clip(file[0]) and file[0].suffix.lower() != dicom.SUFFIX
        (several if together else single).append(file)
    groups = [shots.alone(file) for file in single] + (shots.RULES[bursts](several) if several else [])
    place = {below: n for n, (_, below) in enumerate(files)}
    for group in sorted(groups, key=lambda group: place[group.shots[0][1]]):
        yield group, BURST if len(group.shots) > 1 else CLIP if is_clip(group.shots[0][0]) else PICTURE


def _suffix(source: Path, kind: str, wanted: str | None) -> str:
    """Of the result: the wanted one where it names a format of this kind."""
    own = source.suffix
    if kind == CLIP:
        written = wanted if wanted and wanted.lower() in video.CONTAINERS else own
        return written if written.lower() in video.CONTAINERS else _CLIP_SUFFIX
    if wanted and wanted.lower() not in video.CONTAINERS:
        return wanted
    return ".tif" if raw.is_raw(source) else own


def _target(out: Path, group: shots.Group, kind: str, name: str, suffix: str) -> Path:
    try:
        text = name.format(folder=group.folder, stem=group.stem, suffix=suffix)
    except (KeyError, IndexError, ValueError) as error:
        raise ImageError(f"the name {name!r} may hold {{folder}}, {{stem}} and {{suffix}}") from error
    target = Path(os.path.normpath(out / text))
    if not target.is_relative_to(Path(os.path.normpath(out))):
        raise ImageError(f"{images.show_name(target)} would lie outside of {images.show_name(out)}")
    if kind == CLIP and target.suffix.lower() not in video.CONTAINERS:
        raise ImageError(f"{images.show_name(target)}: a clip needs one of the suffixes {', '.join(video.CONTAINERS)}")
    if kind != CLIP and target.suffix.lower() != dicom.SUFFIX:
        images.format_of(target)
    return target


def _check_places(jobs: list[Job]) -> None:
    """Raises ImageError for two results of one name, and for one that is an input."""
    taken: dict[str, Job] = {}
    for job in jobs:
        key = os.path.normcase(job.target)
        if key in taken:
            both = f"{images.show_name(taken[key].source)} and {images.show_name(job.source)}"
            raise ImageError(f"{both} would both become {images.show_name(job.target)}")
        taken[key] = job
    originals = {os.path.realpath(source) for job in jobs for source in job.sources}
    for job in jobs:
        if os.path.realpath(job.target) in originals:
            raise ImageError(f"{images.show_name(job.target)} is an input and would be overwritten")
