"""A batch on a Ray cluster: whole pictures, bursts and clips, and parts of large pictures, spread over workers.

The machines must see the input and the output folder under the same names; nothing but Ray itself has to run on them.
Every worker process makes one restorer and keeps it.  A task whose worker is lost is run again elsewhere, and gives the
same bytes; the manifest is written by the process that started the batch alone.
"""

import collections
import contextlib
import os
import platform
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastrestore import image as images
from fastrestore import sinks
from fastrestore.bulk import (
    Manifest,
    Rules,
    collected,
    describe_result,
    input_hash,
    is_done,
    model_hash,
    restore_file,
    timed,
)
from fastrestore.errors import FastrestoreError, ImageError, MissingDependency, ModelError
from fastrestore.files import sha256
from fastrestore.flow import Meter, Part
from fastrestore.jobs import KINDS, PICTURE, Job
from fastrestore.pieces import How
from fastrestore.restorer import Restorer
from fastrestore.sources import open_image

RETRIES = 5  # of a task whose worker is lost
PART_BYTES = 128 << 20  # of samples that one task restores, at most


@dataclass
class _Task:
    """One call of a worker's function, and what to do with its answer."""

    job: Job
    call: Callable[[], Any]  # submits it; returns Ray's reference
    done: Callable[[Any], None]


def run(
    address: str, restorers: dict[str, Restorer], out: Path, rules: dict[str, Rules], jobs: list[Job]
) -> Generator[dict[str, Any], None, None]:
    """bulk.batch's records, in the order of names, from workers of as many threads as the rules' restorers have.

    address: "local" starts Ray on this machine, and ends it; else that of a running cluster.  restorers, rules: by the
    kind of job; the restorers are this process's, for what must be known of a large picture before it is taken apart.
    Raises MissingDependency without Ray, ConnectionError if there is no cluster at the address.
    """
    ray = _ray()
    with _Cluster(ray, address), Manifest(out, rules) as manifest:
        manifest.clean(jobs)
        driver = _Driver(ray, restorers, rules, manifest)
        try:
            yield from driver.all(jobs)
        finally:
            driver.cancel()
            manifest.clean(jobs)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingDependency("a cluster needs Ray: pip install 'fastrestore[ray]'") from error
    return ray


class _Cluster(contextlib.AbstractContextManager):
    """The connection; one that this process has already is used, and left as it is."""

    def __init__(self, ray: Any, address: str):
        self.ray, self.ours = ray, not ray.is_initialized()
        if self.ours:
            options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
            if address == "local":
                ray.init(include_dashboard=False, **options)
            else:
                ray.init(address=address, **options)

    def __exit__(self, *_: object) -> None:
        if self.ours:
            self.ray.shutdown()


class _Driver:
    """Keeps a bounded number of tasks under way and hands out the records in order."""

    def __init__(self, ray: Any, restorers: dict[str, Restorer], rules: dict[str, Rules], manifest: Manifest):
        self.ray, self.restorers, self.rules, self.manifest = ray, restorers, rules, manifest
        self.threads = next(iter(rules.values())).arguments["threads"]
        self.running: dict[Any, _Task] = {}
        self.finished: set[int] = set()  # jobs, by id()
        self.large: _Large | None = None  # the one in hand
        options = {"num_cpus": self.threads, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}
        self.remote_file = ray.remote(_restore_whole).options(**options)
        self.remote_part = ray.remote(_restore_part).options(**options)

    def all(self, jobs: list[Job]) -> Iterator[dict[str, Any]]:
        waiting = collections.deque(jobs)  # their records are to be yielded yet
        for task in self._tasks(jobs):
            while len(self.running) >= self._at_once():
                self._collect()
                yield from self._in_order(waiting)
            self.running[task.call()] = task
        while self.running:
            self._collect()
            yield from self._in_order(waiting)
        yield from self._in_order(waiting)

    def cancel(self) -> None:
        for reference in self.running:
            self.ray.cancel(reference, force=True)
        if self.large and self.large.left:
            self.large.abandon()

    def _in_order(self, waiting: collections.deque[Job]) -> Iterator[dict[str, Any]]:
        while waiting and id(waiting[0]) in self.finished:
            yield waiting.popleft().record

    def _at_once(self) -> int:
        """Twice as many tasks as there are workers now: the next one is there when one is done."""
        return 2 * max(1, int(self.ray.cluster_resources().get("CPU", 1)) // self.threads)

    def _collect(self) -> None:
        """Waits for a task and takes its answer."""
        (reference,), _ = self.ray.wait(list(self.running))
        task = self.running.pop(reference)
        try:
            answer = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError:  # not an error of the picture's: ours
            raise
        except self.ray.exceptions.RayError as error:
            words = f"its workers were lost: {str(error).strip().splitlines()[-1]}"
            answer = {"ok": False, "error": f"{images.show_name(task.job.source)}: {words}"}
        task.done(answer)

    def _end(self, job: Job) -> None:
        self.finished.add(id(job))
        self.manifest.end(job)

    def _tasks(self, jobs: list[Job]) -> Iterator[_Task]:
        for job in jobs:
            self.manifest.begin_record(job)
            with collected(job):
                self.manifest.check_place(job)
                job.whole = job.kind != PICTURE or self.restorers[PICTURE].way(job.source, job.target) != "pieces"
            if not job.record["ok"]:
                self._end(job)
            elif job.whole:
                yield self._whole(job)
            else:
                yield from self._parts(job)

    def _whole(self, job: Job) -> _Task:
        def done(answer: dict[str, Any]) -> None:
            job.fault = answer.pop("fault", None)
            job.record |= answer
            self._end(job)

        self.manifest.begin(job)
        call = self.remote_file.remote
        arguments = (self.rules[job.kind], job, self.manifest.before(job))
        return _Task(job, lambda: call(*arguments), done)

    def _parts(self, job: Job) -> Iterator[_Task]:
        """The tasks of a large picture."""
        while self.large and self.large.left:  # one at a time: its result lies open here
            self._collect()
        self.large = None
        rules = self.rules[PICTURE]
        large = _Large(job, rules, self.restorers[PICTURE], self._end)
        with collected(job):
            job.record["input_sha256"] = sha256(job.source)
            job.record["skipped"] = self.manifest.is_done(job)
            if not job.record["skipped"]:
                job.target.parent.mkdir(parents=True, exist_ok=True)
                self.manifest.begin(job)
                self.large = large
                large.open(PART_BYTES)
        for part in large.parts if job.record["ok"] else ():
            if not job.record["ok"]:  # a part could not be restored: the others need not
                large.put(None)
                continue
            call = self.remote_part.remote
            arguments = (rules, job.source, part, large.segment, large.pack, large.how)
            yield _Task(job, lambda call=call, arguments=arguments: call(*arguments), large.put)
        if not large.parts:
            self._end(job)


class _Large:
    """A picture whose parts are restored elsewhere and put together here."""

    def __init__(self, job: Job, rules: Rules, restorer: Restorer, end: Callable[[Job], None]):
        self._job, self._rules, self._restorer, self._end = job, rules, restorer, end
        self.parts: list[Part] = []
        self.left = 0  # parts that are not done

    def open(self, part_bytes: int) -> None:
        settings = self._rules.settings
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(open_image(self._job.source, max_pixels=self._rules.max_pixels))
            self.how, notices = self._restorer.prepared(source, settings["sigma"], settings["strength"])
            sink = stack.enter_context(sinks.create(self._job.target, source, settings["quality"]))
            work = self._restorer.apart(source, sink.segment, self.how, part_bytes)
            if work.scratch:
                sink = stack.enter_context(sinks.Scratch(sink, self._job.target.parent, source))
            self.segment, self.pack, self._sink = sink.segment, sink.pack, sink
            self._report = {"sigma": self.how.sigma, "height": source.height, "width": source.width, "notices": notices}
            self.parts, self.left = work.parts, len(work.parts)
            self._held = stack.pop_all()

    def put(self, answer: dict[str, Any] | None) -> None:
        """A part's answer; None: nobody has restored it, for another part failed."""
        job, record = self._job, self._job.record
        self.left -= 1
        with collected(job):
            if answer and not answer["ok"]:
                raise answer.get("fault") or ImageError(answer["error"])
            if answer and record["ok"]:
                for stage, seconds in answer["seconds"].items():
                    record["seconds"][stage] += seconds
                with timed(job, "writing"):
                    for top, left, payload in answer["payloads"]:
                        self._sink.put(top, left, payload)
        if self.left:
            return
        with collected(job), timed(job, "writing"):
            if record["ok"]:
                self._sink.finish()
                self._held.close()
                self._report["notices"] += self._sink.notices
                record["output_sha256"] = sha256(job.target)
                describe_result(job, self._report, self._restorer)
        if not record["ok"]:
            self.abandon()
        self._end(job)

    def abandon(self) -> None:
        """Leaves nothing of the result behind, unless it is complete."""
        if self.parts:
            self._held.__exit__(InterruptedError, InterruptedError(), None)


def _restorer(rules: Rules) -> Restorer:
    """This process's, for jobs of a kind.  Raises ModelError if the model's file is another one on this machine."""
    return _made(tuple(rules.arguments.items()), rules.model_sha256)


@lru_cache(maxsize=len(KINDS))
def _made(arguments: tuple[tuple[str, Any], ...], model_sha256: str) -> Restorer:
    restorer = Restorer(**dict(arguments))
    if model_hash(restorer, dict(arguments)["model"]) != model_sha256:
        raise ModelError(f"{restorer.name} on {platform.node()} is not the model of the machine that started the batch")
    return restorer


def _restore_whole(rules: Rules, job: Job, before: dict[str, Any] | None) -> dict[str, Any]:
    """In a worker: one picture, burst or clip from file to file.  Returns the record, with its fault."""
    record = job.record
    with collected(job):
        with timed(job, "reading"):
            record["input_sha256"] = input_hash(job)
        if is_done(before, job):
            return record | {"skipped": True}
        restorer = _restorer(rules)
        job.target.parent.mkdir(parents=True, exist_ok=True)
        report = restore_file(restorer, job, rules)
        with timed(job, "writing"):
            record["output_sha256"] = sha256(job.target)
        describe_result(job, report, restorer)
    return record | {"fault": job.fault}


def _restore_part(
    rules: Rules,
    path: Path,
    part: Part,
    segment: tuple[int, int],
    pack: Callable[[Any], Any],
    how: How,
) -> dict[str, Any]:
    """In a worker: one part of a large picture, packed."""
    payloads, meter = [], Meter()

    def emit(top: int, left: int, samples: Any) -> None:
        payloads.extend((y, x, pack(piece)) for y, x, piece in sinks.split(top, left, samples, segment))

    try:
        with open_image(path) as source:
            work = _restorer(rules).apart(source, segment, how, PART_BYTES)
            work.restore(part, emit, meter)
    except (FastrestoreError, MemoryError, OSError) as error:
        return {"ok": False, "error": str(error), "fault": error}
    return {"ok": True, "payloads": payloads, "seconds": meter.busy}
