"""fastrestore video: a clip in, a clip out."""

import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from fastrestore.cli import options
from fastrestore.cli.restore import _progress
from fastrestore.errors import show_name


def video(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A clip: MP4, MOV, MKV, WebM, AVI, MPEG and others.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The result: .mp4, .m4v, .mov, .mkv or .webm.")],
    task: options.Task = "denoise",
    model: options.Model = None,
    sigma: options.Sigma = None,
    strength: options.Strength = 1.0,
    codec: options.Codec = None,
    quality: Annotated[int | None, typer.Option(min=0, max=63, help=options.CLIP_QUALITY)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from what a run that was cut off has kept.")] = False,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    memory: Annotated[str, typer.Option(help="Budget beyond two frames, like 512MiB.")] = "1GiB",
    threads: options.Threads = None,
    max_mpixel: Annotated[float, typer.Option(min=0, help="Refuse larger frames.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Report on stdout as one JSON object.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Restores a clip, frame after frame; sound, subtitles and times are kept.

    Models for video remember what they have seen, and begin anew where the scene changes; others restore each frame by
    itself.  What has been restored is kept in OUT.parts until the result is whole: after Ctrl-C or an error it plays as
    a clip beside OUT, and --resume goes on from it.
    """
    warnings.simplefilter("ignore")
    logging.disable()
    from fastrestore import Restorer, zoo
    from fastrestore import video as files
    from fastrestore.errors import FastrestoreError, ImageError

    if target.exists() and not overwrite:
        raise ImageError(f"{show_name(target)}: exists; --overwrite replaces it")
    if target.exists() and source.exists() and target.samefile(source):
        raise typer.BadParameter(f"{show_name(target)} is the input and would be overwritten")
    try:
        restorer = Restorer(
            model or zoo.default(task, "video"),
            task,
            device=device,
            precision=precision,
            memory=memory,
            threads=threads,
        )
        with _progress(quiet or as_json) as bar:
            report = files.restore(
                restorer, source, target, sigma, strength, codec=codec, quality=quality, resume=resume,
                max_pixels=int(max_mpixel * 1e6), progress=_ticker(bar, show_name(source)),
            )  # fmt: skip
    except FastrestoreError:
        _say_kept(files.partial(target))
        raise
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except BaseException:
        _say_kept(files.partial(target))
        raise
    rate = report["frames"] / max(report["seconds"], 1e-9)
    if as_json:
        result = {"input": show_name(source), "output": show_name(target), "path": restorer.info}
        print(json.dumps({"task": task, **result, **report, "frames_per_second": round(rate, 3)}, indent=2))
    elif not quiet:
        for notice in report["notices"]:
            print(f"fastrestore: {show_name(source)}: note: {notice}", file=sys.stderr)
        print(f"{show_name(source)} -> {show_name(target)} ({report['frames']} frames, {rate:.2f} frames/s)")
    if report["damaged"]:
        raise typer.Exit(1)


def _say_kept(partial: Path) -> None:
    if partial.exists():
        print(f"fastrestore: {show_name(partial)} has what is restored so far; --resume goes on", file=sys.stderr)


def _ticker(bar: Any, title: str) -> Any:
    """Shows frames done and frames a second."""
    if bar is None:
        return None
    from rich.markup import escape

    task, start, first = bar.add_task(escape(title), total=None), time.perf_counter(), []

    def tick(done: int, of: int | None) -> None:
        first.append(done - 1) if not first else None
        rate = (done - first[0]) / (time.perf_counter() - start)
        bar.update(task, completed=done, total=of, description=f"{escape(title)} {done} frames, {rate:.2f}/s")

    return tick
