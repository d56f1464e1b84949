"""fastrestore batch: a folder of pictures, unattended."""

import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from fastrestore.cli import options
from fastrestore.cli.report import shares_of_time
from fastrestore.errors import show_name


def batch(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A folder of pictures, searched recursively.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The results' folder, made if missing.")],
    task: options.Task = "denoise",
    model: options.Model = None,
    sigma: options.Sigma = None,
    strength: options.Strength = 1.0,
    include: Annotated[list[str] | None, typer.Option(help='Only these names below IN, such as "2024/*.png".')] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Not these.")] = None,
    name: Annotated[str, typer.Option(help="A result's name below OUT.")] = "{folder}/{stem}{suffix}",
    suffix: Annotated[
        str | None, typer.Option(help="Of results: .png, say, for pictures, or .mkv for clips.  [default: kept]")
    ] = None,
    bursts: Annotated[
        str | None,
        typer.Option(
            metavar="folder|name|time",
            help="One result of pictures in one folder, whose names differ in their last number, or taken within "
            "a second of each other.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out what is done and unchanged.")] = False,
    overwrite: options.Overwrite = False,
    ray: Annotated[
        str | None, typer.Option(metavar="local|ADDRESS", help="Spread the pictures over a Ray cluster.")
    ] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    memory: Annotated[str, typer.Option(help="Budget beyond the pictures in hand, like 64MiB.")] = "1GiB",
    threads: options.Threads = None,
    quality: options.Quality = 95,
    codec: options.Codec = None,
    clip_quality: Annotated[int | None, typer.Option(min=0, max=63, help=options.CLIP_QUALITY)] = None,
    max_mpixel: options.MaxMpixel = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report on stdout as one JSON object a line.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Restores a folder of pictures and clips into another.

    With --bursts, pictures of one scene become one result.  A picture that cannot be restored never stops the rest.
    OUT/manifest.jsonl says of each what was done; --resume goes on after an interruption, whatever it was, and redoes
    what has changed.
    """
    warnings.simplefilter("ignore")
    logging.disable()
    from fastrestore.bulk import batch as run
    from fastrestore.errors import FastrestoreError

    try:
        records = run(
            source, out, task=task, model=model, sigma=sigma, strength=strength, device=device, precision=precision,
            memory=memory, threads=threads, include=include or (), exclude=exclude or (), name=name, suffix=suffix,
            bursts=bursts, quality=quality, codec=codec, clip_quality=clip_quality,
            max_pixels=None if max_mpixel is None else int(max_mpixel * 1e6), resume=resume, overwrite=overwrite,
            ray=ray,
        )  # fmt: skip
    except FastrestoreError:
        raise
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    tally = Tally(len(records))
    try:
        for record in records:
            tally.add(record)
            if as_json:
                print(json.dumps(record), flush=True)
            _say(record, tally, as_json or quiet)
    finally:
        if not quiet and not as_json:
            print(tally.text())
    if tally.failed or tally.damaged:
        raise typer.Exit(1)


class Tally:
    """What has been done, how fast, and which stage the others wait for."""

    def __init__(self, total: int):
        self.total, self.start = total, time.perf_counter()
        self.restored = self.skipped = self.failed = 0
        self.damaged = 0  # clips, of which not all could be decoded
        self.megapixels = 0.0
        self.busy = {"reading": 0.0, "restoring": 0.0, "writing": 0.0}

    def add(self, record: dict[str, Any]) -> None:
        self.failed += not record["ok"]
        self.skipped += record["skipped"]
        self.restored += record["ok"] and not record["skipped"]
        if record["ok"] and not record["skipped"]:
            self.megapixels += record["height"] * record["width"] * record.get("frames", 1) / 1e6
            self.damaged += record.get("damaged", 0) > 0
        for stage, seconds in record["seconds"].items():
            self.busy[stage] += seconds

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def left(self) -> float:
        """Seconds until all are done, if the rest is like what was restored."""
        done = self.restored + self.failed
        return (self.total - done - self.skipped) * self.seconds / done if done else 0.0

    def text(self) -> str:
        parts = [f"{self.restored} restored", f"{self.skipped} left out as done", f"{self.failed} failed"]
        if self.damaged:
            parts.append(f"{self.damaged} clips damaged")
        text = f"{', '.join(parts)}; {self.megapixels:.1f} megapixels in {self.seconds:.1f} s"
        if not self.megapixels:
            return text
        shares = {stage: busy / self.seconds for stage, busy in self.busy.items()}
        return f"{text}: {self.megapixels / self.seconds:.2f} a second; {shares_of_time(shares)}"


def _say(record: dict[str, Any], tally: Tally, silent: bool) -> None:
    if not record["ok"]:
        print(f"fastrestore: {record['error']}", file=sys.stderr)
        return
    if silent or record["skipped"]:
        return
    for notice in record["notices"]:
        print(f"fastrestore: {show_name(record['input'])}: note: {notice}", file=sys.stderr)
    rate = tally.megapixels / tally.seconds
    done = tally.restored + tally.skipped + tally.failed
    minutes, seconds = divmod(round(tally.left()), 60)
    print(f"{done}/{tally.total}  {rate:.2f} megapixels/s, {minutes}:{seconds:02} left  {show_name(record['output'])}")
