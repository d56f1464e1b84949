"""Folders of pictures, bursts and clips, restored unattended: reading, restoring and writing at once, a manifest, and
resumption.

On this machine here; cluster.py spreads the same jobs (jobs.py) over the workers of a Ray cluster.
"""

import contextlib
import errno
import hashlib
import json
import os
import queue
import shutil
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fastrestore import image as images
from fastrestore import video, zoo
from fastrestore.errors import FastrestoreError, ImageError, describe
from fastrestore.files import sha256
from fastrestore.jobs import BURST, CLIP, NAME, PICTURE, Job, find
from fastrestore.restorer import Restorer, Stream

MANIFEST = "manifest.jsonl"  # in the output folder: one JSON object a line, the last one of an input counts
AHEAD = 2  # pictures or bursts that wait between two stages: what bounds the memory
STAGES = "reading", "restoring", "writing"

_INPUT = {PICTURE: "image", BURST: "burst", CLIP: "video"}  # in zoo's words
_FATAL = errno.ENOSPC, errno.EDQUOT, errno.EROFS  # no later picture would fare better


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
    bursts: str | None = None,
    quality: int = 95,
    codec: str | None = None,
    clip_quality: int | None = None,
    max_pixels: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    ray: str | None = None,
) -> "Batch":
    """Restores many pictures, bursts and clips into a folder; yields a record of each as it is finished, in order.

    inputs: a folder, searched recursively for PNG, JPEG, TIFF, WebP, BMP, DICOM and raw files and for clips, or a list
    of files.  Links to folders are not followed, nor are links to files outside the folder.  include, exclude: patterns
    of names below the folder, such as "2024/*.png".  name: a result's name in `out`, of {folder}, {stem}, {suffix};
    suffix: instead of the input's, ".png", say, for pictures, or ".mkv" for clips.  bursts: a rule of shots.RULES:
    pictures that it finds to be shots of one scene become one result; None: each picture is one.  model None: the
    task's for pictures, bursts and clips.  resume: leaves out what the manifest says is done, if the input, the model,
    the settings and the result are still those, and goes on within a clip; overwrite: replaces results that exist.
    ray: "local", or the address of a Ray cluster, see cluster.py.  codec, clip_quality: video.restore's.  The other
    arguments are Restorer's, Restorer.file's and image.write's; threads are each worker's there.  The iterator knows
    its length.

    Records: {input, output, kind (picture, burst or clip), ok, skipped, error, input_sha256, output_sha256,
    model_sha256, settings, path, height, width, sigma, seconds {reading, restoring, writing}, notices, time}, of a
    burst also {shots, reference}, of a clip {frames, damaged}.  Each is a line of out/manifest.jsonl too, flushed to
    disk behind its result, so a process killed at any moment loses the pictures in hand and nothing else.
    A picture that fails is a record that is not ok and never stops the rest; a full disk ends the run with OSError
    after what is finished has been yielded.  Besides the engine's memory up to 6 pictures or bursts are held; a large
    TIFF goes piece by piece within it, as in Restorer.file, and a clip frame by frame.  Raises ImageError for folders
    that do not fit or are in use by another batch, ModelError, ValueError.
    """
    out = Path(out)
    jobs = find(inputs, out, include, exclude, name, suffix, bursts)
    for job in jobs:
        if job.kind == CLIP:
            video.chosen(job.target, codec, clip_quality)
    how = {
        "device": device,
        "precision": precision,
        "memory": memory,
        "threads": threads if ray is None else threads or 1,
    }
    rules, restorers = {}, {}
    for kind in dict.fromkeys([job.kind for job in jobs] or [PICTURE]):
        arguments = {"model": model or zoo.default(task, _INPUT[kind]), "task": task, **how}
        restorer = next((r for k, r in restorers.items() if rules[k].arguments == arguments), None)
        restorers[kind] = restorer = restorer or Restorer(**arguments)
        if sigma is not None and not restorer.info["takes_sigma"]:
            raise ValueError(f"{restorer.name} takes no noise level: leave sigma out")
        if kind == BURST and not restorer.takes_bursts:
            raise ValueError(f"{restorer.name} restores single pictures: a burst needs a model for bursts")
        settings = {"task": task, "model": restorer.name, "sigma": sigma, "strength": strength}
        settings |= {"codec": codec, "quality": clip_quality} if kind == CLIP else {"quality": quality}
        settings["precision"] = restorer.info["precision"]
        hashed = model_hash(restorer, arguments["model"])
        rules[kind] = Rules(arguments, settings, hashed, max_pixels, resume, overwrite)
    if ray is None:
        return Batch(len(jobs), _Run(restorers, out, rules).all(jobs))
    from fastrestore import cluster

    return Batch(len(jobs), cluster.run(ray, restorers, out, rules, jobs))


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
    """What holds for every job of a kind."""

    arguments: dict[str, Any]  # Restorer's
    settings: dict[str, Any]  # part of every record: what the result depends on
    model_sha256: str
    max_pixels: int | None
    resume: bool
    overwrite: bool


class Manifest:
    """The records of an output folder, locked for one batch.  A `with`: the lock goes with it, or with the process."""

    def __init__(self, out: Path, rules: dict[str, Rules]):
        """rules: by the kind of job."""
        self._out, self._rules = out, rules
        first = next(iter(rules.values()))
        self._resume, self._overwrite = first.resume, first.overwrite
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
        record, rules = job.record, self._rules[job.kind]
        record |= {"input": job.name, "output": job.target.relative_to(self._out).as_posix(), "kind": job.kind}
        record |= {"ok": True, "skipped": False, "error": None, "settings": rules.settings}
        record |= {"model_sha256": rules.model_sha256, "seconds": dict.fromkeys(STAGES, 0.0)}
        if job.kind == BURST:
            record["shots"] = [source.name for source in job.sources]

    def check_place(self, job: Job) -> None:
        """Raises ImageError for an input that is no plain file, and a result that is there and not ours to replace."""
        if job.fault:
            raise job.fault
        for source in job.sources:
            if not source.is_file():  # a pipe would wait for ever
                raise ImageError(f"{images.show_name(source)}: is not a plain file")
        if job.target.exists() and not self._overwrite and not self._is_ours(job):
            raise ImageError(f"{images.show_name(job.target)}: exists; --resume or --overwrite goes on")

    def is_done(self, job: Job) -> bool:
        """Whether resuming leaves it out: by its input's hash, which the record holds already."""
        return self._resume and is_done(self._done.get(job.name), job)

    def before(self, job: Job) -> dict[str, Any] | None:
        """The record of an earlier run, if this one resumes."""
        return self._done.get(job.name) if self._resume else None

    def _is_ours(self, job: Job) -> bool:
        """Whether an earlier run made the result, so that resuming may replace it."""
        return self._resume and (job.name, job.record["output"]) in self._ours

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

    def __init__(self, restorers: dict[str, Restorer], out: Path, rules: dict[str, Rules]):
        self.restorers, self.rules = restorers, rules
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
                job.record["input_sha256"] = input_hash(job)
                job.record["skipped"] = self.manifest.is_done(job)
                restorer, limit = self.restorers[job.kind], self.rules[job.kind].max_pixels
                way = restorer.way(job.source, job.target) if job.kind == PICTURE else job.kind
                job.whole = way in ("picture", BURST)
                if job.whole and not job.record["skipped"]:
                    job.pictures = [images.read(source, max_pixels=limit) for source in job.sources]
            self._put(self.read, job)

    def _restore(self, job: Job) -> None:
        if not job.record["ok"] or job.record["skipped"]:
            return
        restorer, rules = self.restorers[job.kind], self.rules[job.kind]
        given = rules.settings["sigma"], rules.settings["strength"]
        with collected(job):
            if not job.whole:
                self._prepare(job)
                report = restore_file(restorer, job, rules)
            elif job.kind == BURST:
                with timed(job, "restoring"):
                    picture, report = restorer.burst_pictures(job.pictures, *given)
                    job.pictures = [picture]
            else:
                with timed(job, "restoring"):
                    report = restorer.picture(job.pictures[0], *given)
            describe_result(job, report, restorer)

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
                        quality = self.rules[job.kind].settings["quality"]
                        record["notices"] += images.write(job.target, job.pictures[0], quality=quality)
                    record["output_sha256"] = sha256(job.target)
            job.pictures.clear()
            try:
                self.manifest.end(job)
            finally:
                self.finished.put(job)


def restore_file(restorer: Restorer, job: Job, rules: Rules) -> dict[str, Any]:
    """Restores a job's files from their place to the result's; returns the report of what did it."""
    how, limit = rules.settings, rules.max_pixels
    given = job.target, how["sigma"], how["strength"]
    if job.kind == CLIP:
        with timed(job, "restoring"):
            return _restore_clip(restorer, job, rules)
    if job.kind == BURST:
        limits = {} if limit is None else {"max_pixels": limit}
        with timed(job, "restoring"):
            return restorer.burst_files(job.sources, *given, quality=how["quality"], **limits)
    start = time.perf_counter()
    report = restorer.file(job.source, *given, quality=how["quality"], max_pixels=limit)
    stages = report.get("stages", {"restoring": time.perf_counter() - start})
    for stage, seconds in stages.items():
        job.record["seconds"][stage] += seconds
    return report


def _restore_clip(restorer: Restorer, job: Job, rules: Rules) -> dict[str, Any]:
    how = rules.settings
    limits = {} if rules.max_pixels is None else {"max_pixels": rules.max_pixels}
    options = {"codec": how["codec"], "quality": how["quality"], "resume": None if rules.resume else False}
    try:
        return video.restore(restorer, job.source, job.target, how["sigma"], how["strength"], **options, **limits)
    except (FastrestoreError, MemoryError, OSError):
        raise
    except Exception as error:  # FFmpeg's errors are of many types
        raise ImageError(describe(error)) from error


def describe_result(job: Job, report: dict[str, Any], restorer: Restorer) -> None:
    """What a restorer's report says, in the record."""
    job.record["sigma"] = report.get("sigma", job.record["settings"]["sigma"])
    kept = ("height", "width", "notices", "reference", "frames", "damaged")
    job.record |= {key: report[key] for key in kept if key in report}
    info = restorer.info if job.kind == PICTURE else Stream(restorer).info
    job.record["path"] = {key: info.get(key) for key in ("path", "device", "isa", "precision")}


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
        job.fault = error
        job.pictures.clear()


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


def input_hash(job: Job) -> str:
    """Of the file, or of the list of the shots' hashes."""
    each = [sha256(source) for source in job.sources]
    return each[0] if len(each) == 1 else hashlib.sha256("\n".join(each).encode()).hexdigest()
