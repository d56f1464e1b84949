"""Folders of pictures, restored unattended: reading, restoring and writing at once, a manifest, and resumption."""

import contextlib
import errno
import fnmatch
import hashlib
import json
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fastrestore import image as images
from fastrestore import zoo
from fastrestore.errors import FastrestoreError, ImageError
from fastrestore.restorer import Restorer

MANIFEST = "manifest.jsonl"  # in the output folder: one JSON object a line, the last one of an input counts
AHEAD = 2  # pictures that wait between two stages: what bounds the memory
NAME = "{folder}/{stem}{suffix}"  # of a result, in the output folder

_FATAL = errno.ENOSPC, errno.EDQUOT, errno.EROFS  # no later picture would fare better


@dataclass
class Job:
    source: Path
    name: str  # of the source below the input folder, with slashes
    target: Path
    fault: Exception | None = None  # known before it is read
    picture: images.Image | None = None
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
    max_pixels: int = images.MAX_PIXELS,
    resume: bool = False,
    overwrite: bool = False,
) -> Iterator[dict[str, Any]]:
    """Restores many pictures into a folder; yields a record of each as it is finished, in the order of names.

    inputs: a folder, searched recursively for PNG, JPEG, TIFF, WebP and BMP files, or a list of files.  Links to
    folders are not followed, nor are links to files outside the folder.  include, exclude: patterns of names below
    the folder, such as "2024/*.png".  name: a result's name in `out`, of {folder}, {stem}, {suffix}; suffix: ".png",
    say, instead of the input's.  resume: leaves out what the manifest says is done, if the input, the model, the
    settings and the result are still those; overwrite: replaces results that exist.  The other arguments are
    Restorer's, Restorer.__call__'s and image.write's.

    Records: {input, output, ok, skipped, error, input_sha256, output_sha256, model_sha256, settings, path, height,
    width, sigma, seconds {reading, restoring, writing}, notices, time}.  Each is a line of out/manifest.jsonl too,
    flushed to disk behind its result, so a process killed at any moment loses the pictures in hand and nothing else.
    A picture that fails is a record that is not ok and never stops the rest; a full disk ends the run with OSError
    after what is finished has been yielded.  Besides the engine's memory up to 6 pictures are held.
    Raises ImageError for folders that do not fit or are in use by another batch, ModelError, ValueError.
    """
    restorer = Restorer(model, task, device, precision, memory, threads)
    if sigma is not None and not restorer.info["takes_sigma"]:
        raise ValueError(f"{restorer.name} takes no noise level: leave sigma out")
    out = Path(out)
    jobs = find(inputs, out, include, exclude, name, suffix)
    settings = {"task": task, "model": restorer.name, "sigma": sigma, "strength": strength, "quality": quality}
    settings["precision"] = restorer.info["precision"]
    model_file = restorer.name if restorer.name.endswith(".frp") else zoo.path_of(model or restorer.name)
    run = _Run(restorer, out, settings, _sha256(Path(model_file)), max_pixels, resume, overwrite)
    return run.all(jobs)


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
            if path.suffix.lower() in images.SUFFIXES and not file.startswith(".fastrestore-"):
                found.append((path, path.relative_to(folder).as_posix()))
    return found


def _same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and os.path.samefile(a, b)


def _target(out: Path, below: str, name: str, suffix: str | None) -> Path:
    path = Path(below)
    try:
        text = name.format(folder=path.parent.as_posix(), stem=path.stem, suffix=suffix or path.suffix)
    except (KeyError, IndexError, ValueError) as error:
        raise ImageError(f"the name {name!r} may hold {{folder}}, {{stem}} and {{suffix}}") from error
    target = Path(os.path.normpath(out / text))
    if not target.is_relative_to(Path(os.path.normpath(out))):
        raise ImageError(f"{images.show_name(target)} would lie outside of {images.show_name(out)}")
    images.format_of(target)
    return target


class _Run:
    """Three stages, each in a thread: reading, restoring (the caller's thread, so that Ctrl-C acts), writing."""

    def __init__(
        self,
        restorer: Restorer,
        out: Path,
        settings: dict[str, Any],
        model_sha256: str,
        max_pixels: int,
        resume: bool,
        overwrite: bool,
    ):
        self.restorer, self.out, self.settings, self.model_sha256 = restorer, out, settings, model_sha256
        self.max_pixels, self.resume, self.overwrite = max_pixels, resume, overwrite
        self.read: queue.Queue[Job | None] = queue.Queue(AHEAD)
        self.restored: queue.Queue[Job | None] = queue.Queue(AHEAD)
        self.finished: queue.SimpleQueue[Job | BaseException | None] = queue.SimpleQueue()
        self.stop = threading.Event()

    def all(self, jobs: list[Job]) -> Iterator[dict[str, Any]]:
        self.out.mkdir(parents=True, exist_ok=True)
        with open(self.out / MANIFEST, "a+b") as manifest:
            _lock(manifest, self.out)
            self.done, self.ours = _read_manifest(manifest)
            for job in jobs:  # left by a killed run; nobody else writes here while the lock is held
                if job.target.parent.is_dir():
                    for rest in job.target.parent.glob(".fastrestore-*.part"):
                        rest.unlink(missing_ok=True)
            stages = [
                threading.Thread(target=self._guarded, args=(self._read_all, jobs, self.read), daemon=True),
                threading.Thread(target=self._guarded, args=(self._write_all, manifest, None), daemon=True),
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

    def _guarded(self, stage: Any, work: Any, after: queue.Queue | None) -> None:
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
            start = time.perf_counter()
            record = job.record
            record |= {"input": job.name, "output": job.target.relative_to(self.out).as_posix(), "ok": True}
            record |= {"skipped": False, "error": None, "settings": self.settings, "model_sha256": self.model_sha256}
            with _collected(job):
                if job.fault:
                    raise job.fault
                if not job.source.is_file():  # a pipe would wait for ever
                    raise ImageError(f"{images.show_name(job.source)}: is not a plain file")
                record["input_sha256"] = _sha256(job.source)
                if self.resume and self._is_done(job):
                    record["skipped"] = True
                else:
                    if job.target.exists() and not self.overwrite and not self._is_ours(job):
                        name = images.show_name(job.target)
                        raise ImageError(f"{name}: exists; --resume or --overwrite goes on")
                    job.picture = images.read(job.source, max_pixels=self.max_pixels)
            record["seconds"] = {"reading": time.perf_counter() - start}
            self._put(self.read, job)

    def _is_done(self, job: Job) -> bool:
        before = self.done.get(job.name)
        keys = ("input_sha256", "model_sha256", "settings", "output")
        if not before or not before.get("ok") or any(before.get(key) != job.record[key] for key in keys):
            return False
        return job.target.is_file() and _sha256(job.target) == before.get("output_sha256")

    def _is_ours(self, job: Job) -> bool:
        """Whether an earlier run made the result, so that resuming may replace it."""
        return self.resume and (job.name, job.record["output"]) in self.ours

    def _restore(self, job: Job) -> None:
        if job.picture is None:
            return
        start = time.perf_counter()
        with _collected(job):
            report = self.restorer.picture(job.picture, self.settings["sigma"], self.settings["strength"])
            job.record |= {key: report[key] for key in ("sigma", "height", "width", "notices")}
            job.record["path"] = {key: self.restorer.info.get(key) for key in ("path", "device", "isa", "precision")}
        job.record["seconds"] |= {"restoring": time.perf_counter() - start}

    def _write_all(self, manifest: Any) -> None:
        while (job := self._take(self.restored)) is not None:
            start = time.perf_counter()
            record = job.record
            if record["ok"] and not record["skipped"]:
                with _collected(job):
                    job.target.parent.mkdir(parents=True, exist_ok=True)
                    # Said beforehand, so that a result without its record is known for ours after a kill.
                    self._note(manifest, {"input": job.name, "output": record["output"], "ok": False, "begun": True})
                    record["notices"] += images.write(job.target, job.picture, quality=self.settings["quality"])
                    record["output_sha256"] = _sha256(job.target)
            job.picture = None
            record["seconds"] |= {"writing": time.perf_counter() - start}
            record["time"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
            if not record["skipped"]:
                self._note(manifest, record)
                os.fsync(manifest.fileno())
            self.finished.put(job)
            if isinstance(job.fault, OSError) and job.fault.errno in _FATAL:
                raise job.fault

    @staticmethod
    def _note(manifest: Any, record: dict[str, Any]) -> None:
        manifest.write(json.dumps(record).encode() + b"\n")
        manifest.flush()


class _collected:
    """Context: an error of the picture becomes its record's."""

    def __init__(self, job: Job):
        self.job = job

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, FastrestoreError | MemoryError | OSError):
            return False
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            text = f"{images.show_name(error.filename or self.job.source)}: {error.strerror}"
        name = images.show_name(self.job.source)
        self.job.record |= {"ok": False, "error": text if name in text else f"{name}: {text}"}
        self.job.fault, self.job.picture = error, None
        return True


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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
