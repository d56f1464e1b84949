"""fastrestore video: a clip in, a clip out."""

import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from fastrestore.cli.restore import _progress
from fastrestore.errors import show_name


def video(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A clip: MP4, MOV, MKV, WebM, AVI, MPEG and others.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The result: .mp4, .m4v, .mov, .mkv or .webm.")],
    task: Annotated[str, typer.Option(help="What to remove: denoise, demoire or deblur.")] = "denoise",
    model: Annotated[
        str | None,
        typer.Option(
            help="A named model, a .safetensors file or a plan (.frp).  [default: the task's]", show_default=False
        ),
    ] = None,
    sigma: Annotated[
        float | None, typer.Option(min=0, max=255, help="Noise level in 0-255 units.  [default: estimated]")
    ] = None,
    strength: Annotated[float, typer.Option(min=0, max=1, help="0 keeps the input, 1 restores fully.")] = 1.0,
    codec: Annotated[
        str | None,
        typer.Option(help="h264, h265, av1, vp9, prores or ffv1 (without loss).  [default: h264, vp9 for .webm]"),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(min=0, max=63, help="Constant rate factor, smaller is better.  [default: the codec's]"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from what a run that was cut off has kept.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that exists.")] = False,
    device: Annotated[str, typer.Option(help="auto or cpu.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto (float32), float32 or bfloat16.")] = "auto",
    memory: Annotated[str, typer.Option(help="Budget beyond two frames, like 512MiB.")] = "1GiB",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads.  [default: all]", show_default=False)] = None,
    max_mpixel: Annotated[float, typer.Option(min=0, help="Refuse larger frames.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Report on stdout as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
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
