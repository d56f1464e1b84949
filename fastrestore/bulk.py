"""Folders of pictures, restored unattended: reading, restoring and writing at once, a manifest, and resumption.

On this machine here; cluster.py spreads the same jobs over the workers of a Ray cluster.
"""

import contextlib
import errno
import fnmatch
import hashlib
import json
import os
import queue
import shutil
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fastrestore import dicom, raw, zoo
from fastrestore import image as images
from fastrestore.errors import FastrestoreError, ImageError, describe
from fastrestore.restorer import Restorer

MANIFEST = "manifest.jsonl"  # in the output folder: one JSON object a line, the last one of an input counts
AHEAD = 2  # pictures that wait between two stages: what bounds the memory
STAGES = "reading", "restoring", "writing"
NAME = "{folder}/{stem}{suffix}"  # of a result, in the output folder

_INPUTS = {*images.SUFFIXES, *raw.SUFFIXES, dicom.SUFFIX}
_FATAL = errno.ENOSPC, errno.EDQUOT, errno.EROFS  # no later picture would fare better


@dataclass
class Job:
    source: Path
    name: str  # of the source below the input folder, with slashes
    target: Path
    fault: Exception | None = None  # known before it is read
    picture: images.Image | None = None
    whole: bool = True  # decoded, restored and encoded at once, not piece by piece
    record: dict[str, Any] = field(default_factory=dict)


def batch(
    inputs: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    task: str = "denoise",
    model: str | os.PathLike | None = None,
    sigma: float | None = None,
    strength: float = 1.0,
    device: str = "auto",
    precision: str = "auto",
    memory: int | str | None = None,
    threads: int | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    name: str = NAME,
    suffix: str | None = None,
    quality: int = 95,
    max_pixels: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    ray: str | None = None,
) -> "Batch":
    """Restores many pictures into a folder; yields a record of each as it is finished, in the order of names.

    inputs: a folder, searched recursively for PNG, JPEG, TIFF, WebP, BMP, DICOM and raw files, or a list of files.
    Links to folders are not followed, nor are links to files outside the folder.  include, exclude: patterns of names
    below the folder, such as "2024/*.png".  name: a result's name in `out`, of {folder}, {stem}, {suffix}; suffix:
    ".png", say, instead of the input's.  resume: leaves out what the manifest says is done, if the input, the model,
    the settings and the result are still those; overwrite: replaces results that exist.  ray: "local", or the address
    of a Ray cluster, see cluster.py.  The other arguments are Restorer's, Restorer.file's and image.write's; threads
    are each worker's there.  The iterator knows its length.

    Records: {input, output, ok, skipped, error, input_sha256, output_sha256, model_sha256, settings, path, height,
    width, sigma, seconds {reading, restoring, writing}, notices, time}.  Each is a line of out/manifest.jsonl too,
    flushed to disk behind its result, so a process killed at any moment loses the pictures in hand and nothing else.
    A picture that fails is a record that is not ok and never stops the rest; a full disk ends the run with OSError
    after what is finished has been yielded.  Besides the engine's memory up to 6 pictures are held; a large TIFF goes
    piece by piece within it, as in Restorer.file.  Raises ImageError for folders that do not fit or are in use by
    another batch, ModelError, ValueError.
    """
    arguments = {"model": model, "task": task, "device": device, "precision": precision, "memory": memory}
    restorer = Restorer(**arguments, threads=threads if ray is None else threads or 1)
    if sigma is not None and not restorer.info["takes_sigma"]:
        raise ValueError(f"{restorer.name} takes no noise level: leave sigma out")
    out = Path(out)
    jobs = find(inputs, out, include, exclude, name, suffix)
    settings = {"task": task, "model": restorer.name, "sigma": sigma, "strength": strength, "quality": quality}
    settings["precision"] = restorer.info["precision"]
    rules = Rules(settings, model_hash(restorer, model), max_pixels, resume, overwrite)
    if ray is None:
        return Batch(len(jobs), _Run(restorer, out, rules).all(jobs))
    from fastrestore import cluster

    return Batch(len(jobs), cluster.run(ray, arguments, threads or 1, restorer, out, rules, jobs))


class Batch(Iterator[dict[str, Any]]):
    """The records of a batch as they are finished; len() says how many there will be, close() ends it early."""

    def __init__(self, count: int, records: Generator[dict[str, Any], None, None]):
        self._count, self._records = count, records

    def __len__(self) -> int:
        return self._count

    def __next__(self) -> dict[str, Any]:
        return next(self._records)

    def close(self) -> None:
        self._records.close()


@dataclass(frozen=True)
class Rules:
    """What holds for every picture of a batch."""

    settings: dict[str, Any]  # part of every record: what the result depends on
    model_sha256: str
    max_pixels: int | None
    resume: bool
    overwrite: bool


def find(
    inputs: str | os.PathLike | Sequence[str | os.PathLike],
    out: Path,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    name: str = NAME,
    suffix: str | None = None,
) -> list[Job]:
    """The pictures to restore and where each result goes; see batch.

    Raises ImageError for a folder that is not there, two inputs with one result, and a result that is an input.
    """
    if suffix is not None:
        images.format_of(f"x{suffix}")
    single = isinstance(inputs, str | os.PathLike)
    if single and not Path(inputs).is_dir():
        raise ImageError(f"{images.show_name(inputs)}: no such folder")
    sources = _walk(Path(inputs), out) if single else [(Path(path), Path(path).name) for path in inputs]
    jobs, taken = [], {}
    for source, below in sources:
        if (include and not any(fnmatch.fnmatch(below, pattern) for pattern in include)) or any(
            fnmatch.fnmatch(below, pattern) for pattern in exclude
        ):
            continue
        job = Job(source, below, _target(out, below, name, suffix))
        key = os.path.normcase(job.target)
        if key in taken:
            both = f"{images.show_name(taken[key].source)} and {images.show_name(source)}"
            raise ImageError(f"{both} would both become {images.show_name(job.target)}")
        taken[key] = job
        if single and source.is_symlink() and not source.resolve().is_relative_to(Path(inputs).resolve()):
            job.fault = ImageError(f"{images.show_name(source)}: a link out of the folder, not followed")
        jobs.append(job)
    originals = {os.path.realpath(job.source) for job in jobs}
    for job in jobs:
        if os.path.realpath(job.target) in originals:
            raise ImageError(f"{images.show_name(job.target)} is an input and would be overwritten")
    return jobs


def _walk(folder: Path, out: Path) -> list[tuple[Path, str]]:
    found = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(f for f in folders if not _same(here / f, out))  # links to folders are not followed
        for file in sorted(files):
            path = here / file
            if path.suffix.lower() in _INPUTS and not file.startswith(".fastrestore-"):
                found.append((path, path.relative_to(folder).as_posix()))
    return found


def _same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and os.path.samefile(a, b)


def _target(out: Path, below: str, name: str, suffix: str | None) -> Path:
    path = Path(below)
    suffix = suffix or (".tif" if raw.is_raw(path) else path.suffix)
    try:
        text = name.format(folder=path.parent.as_posix(), stem=path.stem, suffix=suffix)
    except (KeyError, IndexError, ValueError) as error:
        raise ImageError(f"the name {name!r} may hold {{folder}}, {{stem}} and {{suffix}}") from error
    target = Path(os.path.normpath(out / text))
    if not target.is_relative_to(Path(os.path.normpath(out))):
        raise ImageError(f"{images.show_name(target)} would lie outside of {images.show_name(out)}")
    if target.suffix.lower() != dicom.SUFFIX:
        images.format_of(target)
    return target


class Manifest:
    """The records of an output folder, locked for one batch.  A `with`: the lock goes with it, or with the process."""

    def __init__(self, out: Path, rules: Rules):
        self._out, self._rules = out, rules
        self._writing = threading.Lock()

    def __enter__(self) -> "Manifest":
        self._out.mkdir(parents=True, exist_ok=True)
        self._file = open(self._out / MANIFEST, "a+b")
        try:
            _lock(self._file, self._out)
            self._done, self._ours = _read_manifest(self._file)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def clean(self, jobs: list[Job]) -> None:
        """Removes what a killed run left; nobody else writes here while the lock is held."""
        for folder in {job.target.parent for job in jobs}:
            for rest in folder.glob(".fastrestore-*.part"):
                shutil.rmtree(rest) if rest.is_dir() else rest.unlink(missing_ok=True)

    def begin_record(self, job: Job) -> None:
        """The first entries of a record."""
        record = job.record
        record |= {"input": job.name, "output": job.target.relative_to(self._out).as_posix(), "ok": True}
        record |= {"skipped": False, "error": None, "settings": self._rules.settings}
        record |= {"model_sha256": self._rules.model_sha256, "seconds": dict.fromkeys(STAGES, 0.0)}

    def check_place(self, job: Job) -> None:
        """Raises ImageError for an input that is no plain file, and a result that is there and not ours to replace."""
        if job.fault:
            raise job.fault
        if not job.source.is_file():  # a pipe would wait for ever
            raise ImageError(f"{images.show_name(job.source)}: is not a plain file")
        if job.target.exists() and not self._rules.overwrite and not self._is_ours(job):
            raise ImageError(f"{images.show_name(job.target)}: exists; --resume or --overwrite goes on")

    def is_done(self, job: Job) -> bool:
        """Whether resuming leaves it out: by its input's hash, which the record holds already."""
        return self._rules.resume and is_done(self._done.get(job.name), job)

    def before(self, job: Job) -> dict[str, Any] | None:
        """The record of an earlier run, if this one resumes."""
        return self._done.get(job.name) if self._rules.resume else None

    def _is_ours(self, job: Job) -> bool:
        """Whether an earlier run made the result, so that resuming may replace it."""
        return self._rules.resume and (job.name, job.record["output"]) in self._ours

    def begin(self, job: Job) -> None:
        """Says beforehand that a result is being made, so that one without its record is known for ours after a kill;
        if an earlier record says so, that one must stay the last: it may turn out that the result is done."""
        if not self._is_ours(job):
            self._note({"input": job.name, "output": job.record["output"], "ok": False, "begun": True})

    def end(self, job: Job) -> None:
        """A finished record, flushed to disk."""
        record = job.record
        record["time"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        if not record["skipped"]:
            self._note(record)
            os.fsync(self._file.fileno())
        if isinstance(job.fault, OSError) and job.fault.errno in _FATAL:
            raise job.fault

    def _note(self, record: dict[str, Any]) -> None:
        with self._writing:
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()


def is_done(before: dict[str, Any] | None, job: Job) -> bool:
    """Whether a record of an earlier run says of the same input, model and settings what the result still is."""
    keys = ("input_sha256", "model_sha256", "settings", "output")
    if not before or not before.get("ok") or any(before.get(key) != job.record[key] for key in keys):
        return False
    return job.target.is_file() and sha256(job.target) == before.get("output_sha256")


class _Run:
    """Three stages, each in a thread: reading, restoring (the caller's thread, so that Ctrl-C acts), writing."""

    def __init__(self, restorer: Restorer, out: Path, rules: Rules):
        self.restorer, self.rules = restorer, rules
        self.manifest = Manifest(out, rules)
        self.read: queue.Queue[Job | None] = queue.Queue(AHEAD)
        self.restored: queue.Queue[Job | None] = queue.Queue(AHEAD)
        self.finished: queue.SimpleQueue[Job | BaseException | None] = queue.SimpleQueue()
        self.stop = threading.Event()

    def all(self, jobs: list[Job]) -> Generator[dict[str, Any], None, None]:
        with self.manifest:
            self.manifest.clean(jobs)
            stages = [
                threading.Thread(target=self._guarded, args=(self._read_all, jobs, self.read), daemon=True),
                threading.Thread(target=self._guarded, args=(self._write_all, None, None), daemon=True),
            ]
            for stage in stages:
                stage.start()
            try:
                while (job := self._take(self.read)) is not None:
                    self._restore(job)
                    self._put(self.restored, job)
                    yield from self._yielded(False)
                self._put(self.restored, None)
                yield from self._yielded(True)
            finally:
                self.stop.set()
                for stage in stages:
                    stage.join()

    def _guarded(self, stage: Any, work: list[Job] | None, after: queue.Queue | None) -> None:
        """A stage in its thread: what goes wrong with the run itself comes out in the caller's."""
        try:
            stage(work)
        except BaseException as error:
            self.finished.put(error)
            self.stop.set()
        finally:
            if after is not None:
                self._put(after, None)
            else:
                self.finished.put(None)

    def _put(self, where: queue.Queue, job: Job | None) -> None:
        while True:
            with contextlib.suppress(queue.Full):
                return where.put(job, timeout=0.1)
            if self.stop.is_set():
                return None

    def _take(self, where: queue.Queue) -> Job | None:
        while True:
            with contextlib.suppress(queue.Empty):
                return where.get(timeout=0.1)
            if self.stop.is_set():
                return None

    def _yielded(self, wait: bool) -> Iterator[dict[str, Any]]:
        while wait or not self.finished.empty():
            job = self.finished.get()
            if job is None:
                return
            if isinstance(job, BaseException):
                raise job
            yield job.record

    def _read_all(self, jobs: list[Job]) -> None:
        for job in jobs:
            if self.stop.is_set():
                return
            self.manifest.begin_record(job)
            with collected(job), timed(job, "reading"):
                self.manifest.check_place(job)
                job.record["input_sha256"] = sha256(job.source)
                job.record["skipped"] = self.manifest.is_done(job)
                job.whole = self.restorer.way(job.source, job.target) == "picture"
                if job.whole and not job.record["skipped"]:
                    job.picture = images.read(job.source, max_pixels=self.rules.max_pixels)
            self._put(self.read, job)

    def _restore(self, job: Job) -> None:
        if not job.record["ok"] or job.record["skipped"]:
            return
        settings = self.rules.settings
        with collected(job):
            if job.whole:
                with timed(job, "restoring"):
                    report = self.restorer.picture(job.picture, settings["sigma"], settings["strength"])
            else:
                self._prepare(job)
                report = restore_file(self.restorer, job, self.rules)
            describe_result(job, report, self.restorer)

    def _prepare(self, job: Job) -> None:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        self.manifest.begin(job)

    def _write_all(self, _: None) -> None:
        while (job := self._take(self.restored)) is not None:
            record = job.record
            if record["ok"] and not record["skipped"]:
                with collected(job), timed(job, "writing"):
                    if job.whole:
                        self._prepare(job)
                        quality = self.rules.settings["quality"]
                        record["notices"] += images.write(job.target, job.picture, quality=quality)
                    record["output_sha256"] = sha256(job.target)
            job.picture = None
            try:
                self.manifest.end(job)
            finally:
                self.finished.put(job)


def restore_file(restorer: Restorer, job: Job, rules: Rules) -> dict[str, Any]:
    """Restores a job's file from its place to the result's; returns Restorer.file's report."""
    how = rules.settings
    limits = {"quality": how["quality"], "max_pixels": rules.max_pixels}
    report = restorer.file(job.source, job.target, how["sigma"], how["strength"], **limits)
    for stage, seconds in report.get("stages", {}).items():
        job.record["seconds"][stage] += seconds
    return report


def describe_result(job: Job, report: dict[str, Any], restorer: Restorer) -> None:
    """What a restorer's report says, in the record."""
    job.record |= {key: report[key] for key in ("sigma", "height", "width", "notices")}
    job.record["path"] = {key: restorer.info.get(key) for key in ("path", "device", "isa", "precision")}


@contextlib.contextmanager
def timed(job: Job, stage: str) -> Iterator[None]:
    """Adds to the seconds of a stage."""
    start = time.perf_counter()
    try:
        yield
    finally:
        job.record["seconds"][stage] += time.perf_counter() - start


@contextlib.contextmanager
def collected(job: Job) -> Iterator[None]:
    """An error of the picture becomes its record's."""
    try:
        yield
    except (FastrestoreError, MemoryError, OSError) as error:
        name, text = images.show_name(job.source), describe(error)
        job.record |= {"ok": False, "error": text if name in text else f"{name}: {text}"}
        job.fault, job.picture = error, None


def _lock(manifest: Any, out: Path) -> None:
    """One batch at a time writes to a folder; the lock goes with the process, however it ends."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return
    try:
        fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return  # a file system without locks
        raise ImageError(f"{images.show_name(out)}: another batch writes there") from error


def _read_manifest(manifest: Any) -> tuple[dict[str, dict[str, Any]], set[tuple[str, str]]]:
    """The last record of each input that was written or begun, and all their (input, output) pairs.

    A line that a killed process left unfinished is ended.
    """
    manifest.seek(0)
    done, ours, line = {}, set(), b"\n"
    for line in manifest:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            if isinstance(record, dict) and (record.get("ok") or record.get("begun")):
                done[record["input"]] = record
                ours.add((record["input"], record["output"]))
    if not line.endswith(b"\n"):
        manifest.write(b"\n")
    return done, ours


def model_hash(restorer: Restorer, model: str | os.PathLike | None) -> str:
    """Of the file that a restorer's model came from."""
    return sha256(Path(restorer.name if restorer.name.endswith(".frp") else zoo.path_of(model or restorer.name)))


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
