"""fastrestore denoise, demoire and deblur: pictures in, pictures out."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from fastrestore.cli import options
from fastrestore.cli.report import describe, is_resource, shares_of_time
from fastrestore.errors import show_name


def _command(task: str, does: str) -> Callable[..., None]:
    """The subcommand of a task."""

    def run(
        inputs: Annotated[
            list[Path], typer.Argument(metavar="INPUT...", help="PNG, JPEG, TIFF, WebP or BMP pictures.")
        ],
        output: Annotated[
            Path, typer.Option("--output", "-o", help="The result; for several inputs a folder, made if missing.")
        ],
        model: options.Model = None,
        sigma: options.Sigma = None,
        strength: options.Strength = 1.0,
        device: options.Device = "auto",
        precision: options.Precision = "auto",
        memory: Annotated[
            str, typer.Option(help="Budget beyond input and output, like 64MiB; the result does not depend on it.")
        ] = "1GiB",
        threads: options.Threads = None,
        quality: options.Quality = 95,
        max_mpixel: options.MaxMpixel = None,
        burst: Annotated[bool, typer.Option("--burst", help="The inputs are shots of one scene: one result.")] = False,
        reference: Annotated[
            int | None,
            typer.Option(min=1, help="With --burst, the shot that the result shows.  [default: the sharpest]"),
        ] = None,
        guide: Annotated[
            Path | None,
            typer.Option(
                metavar="FILE", help="Another picture of the scene, for models that take one: infrared or flash."
            ),
        ] = None,
        overwrite: options.Overwrite = False,
        as_json: Annotated[bool, typer.Option("--json", help="Report on stdout as one JSON object.")] = False,
        quiet: options.Quiet = False,
    ) -> None:
        machine = {"device": device, "precision": precision, "memory": memory, "threads": threads}
        if guide is not None and (burst or len(inputs) > 1):
            raise typer.BadParameter("--guide is of one picture")
        if burst:
            chosen = sigma, strength, quality, max_mpixel, reference
            _restore_burst(task, inputs, output, model, machine, *chosen, overwrite, as_json, quiet)
            return
        if reference is not None:
            raise typer.BadParameter("--reference is of a --burst")
        targets = _targets(inputs, output)
        given = sigma, strength, guide, quality, max_mpixel
        _restore_all(task, targets, model, machine, *given, overwrite, as_json, quiet)

    run.__name__ = task
    run.__doc__ = f"""{does}

    The suffix of -o names the format; in a folder each result has its input's name.  Bit depth, alpha, colour
    profile, EXIF and resolution are kept; what cannot be kept is said.  Inputs are never modified, and a result
    that exists is left alone unless --overwrite is given.  With --burst all inputs are shots of one scene and become
    one picture; a shot that does not fit the others is left out.
    """
    return run


def _targets(inputs: list[Path], output: Path) -> list[tuple[Path, Path]]:
    """(input, result) pairs.  Raises BadParameter where a result would overwrite an input or another result."""
    zarr = output.suffix.lower() == ".zarr"  # a folder that is a picture
    folder = len(inputs) > 1 or (output.is_dir() and not zarr) or str(output).endswith(os.sep)
    if not folder and not output.suffix:
        raise typer.BadParameter(f"{show_name(output)}: a result needs a suffix like .png, or be an existing folder")
    if folder and output.exists() and not output.is_dir():
        raise typer.BadParameter(f"{show_name(output)}: for several inputs the output must be a folder")
    if not folder and not output.parent.is_dir():
        raise typer.BadParameter(f"{show_name(output.parent)}: no such folder")
    pairs = [(source, output / source.name if folder else output) for source in inputs]
    seen: dict[str, Path] = {}
    for source, target in pairs:
        key = os.path.normcase(target)
        if key in seen:
            raise typer.BadParameter(
                f"{show_name(seen[key])} and {show_name(source)} would both become {show_name(target)}"
            )
        seen[key] = source
    for _, target in pairs:
        for source in inputs:
            if target.exists() and source.exists() and os.path.samefile(target, source):
                raise typer.BadParameter(f"{show_name(target)} is an input and would be overwritten")
    if folder:
        output.mkdir(parents=True, exist_ok=True)
    return pairs


def _restore_all(
    task: str,
    targets: list[tuple[Path, Path]],
    model: str | None,
    machine: dict[str, Any],
    sigma: float | None,
    strength: float,
    guide: Path | None,
    quality: int,
    max_mpixel: float | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from fastrestore import zoo

    if guide is not None and model is None:
        model = zoo.default(task, "guided")
    restorer = _restorer(task, model, machine, sigma)
    if guide is not None and not restorer.info["takes_guide"]:
        raise typer.BadParameter(f"{restorer.info['model']} takes no guide: leave --guide out")
    from fastrestore.errors import ImageError, MissingDependency

    results, failures = [], []
    with _progress(quiet or as_json) as bar:
        for number, (source, target) in enumerate(targets, 1):
            result: dict[str, Any] = {"input": show_name(source), "output": show_name(target)}
            results.append(result)
            try:
                if target.exists() and not overwrite:
                    raise ImageError(f"{show_name(target)}: exists; --overwrite replaces it")
                report = restorer.file(
                    source,
                    target,
                    sigma,
                    strength,
                    quality=quality,
                    max_pixels=None if max_mpixel is None else int(max_mpixel * 1e6),
                    progress=_ticker(bar, f"{show_name(source)} ({number} of {len(targets)})"),
                    guide=guide,
                )
                result |= {"ok": True, **report}
            except (ImageError, MissingDependency, MemoryError, OSError) as error:
                if isinstance(error, BrokenPipeError):
                    raise
                failures.append(error)
                text = describe(error)
                named = result["input"] in text or result["output"] in text
                result |= {"ok": False, "error": text if named else f"{result['input']}: {text}"}
            _say(result, as_json, quiet)
    if as_json:
        print(json.dumps({"task": task, "path": restorer.info, "results": results}, indent=2))
    if failures:
        raise typer.Exit(4 if any(is_resource(error) for error in failures) else 1)


def _restore_burst(
    task: str,
    inputs: list[Path],
    output: Path,
    model: str | None,
    machine: dict[str, Any],
    sigma: float | None,
    strength: float,
    quality: int,
    max_mpixel: float | None,
    reference: int | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """All inputs become one result."""
    from fastrestore import image as images
    from fastrestore import zoo
    from fastrestore.errors import ImageError

    if output.is_dir() or not output.suffix:
        raise typer.BadParameter(f"{show_name(output)}: the result of a burst is one file with a suffix like .png")
    if reference is not None and reference > len(inputs):
        raise typer.BadParameter(f"--reference {reference} of {len(inputs)} shots")
    if any(output.exists() and shot.exists() and output.samefile(shot) for shot in inputs):
        raise typer.BadParameter(f"{show_name(output)} is an input and would be overwritten")
    if output.exists() and not overwrite:
        raise ImageError(f"{show_name(output)}: exists; --overwrite replaces it")
    restorer = _restorer(task, model or zoo.default(task, "burst"), machine, sigma)
    try:
        report = restorer.burst_files(
            inputs,
            output,
            sigma,
            strength,
            reference=None if reference is None else reference - 1,
            quality=quality,
            max_pixels=images.MAX_PIXELS if max_mpixel is None else int(max_mpixel * 1e6),
        )
    except ImageError:
        raise
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    shown = show_name(inputs[report.pop("reference")])
    result = {"input": shown, "output": show_name(output), "ok": True, "shots": len(inputs), **report}
    _say(result, as_json, quiet)
    if as_json:
        print(json.dumps({"task": task, "path": restorer.info, "results": [result]}, indent=2))


def _restorer(task: str, model: str | None, machine: dict[str, Any], sigma: float | None) -> Any:
    """The restorer that the options mean.  Raises BadParameter for options that do not fit."""
    warnings.simplefilter("ignore")  # what matters of a picture's faults comes as an error or a notice
    logging.disable()
    from fastrestore import Restorer
    from fastrestore.errors import FastrestoreError

    try:
        restorer = Restorer(model, task, **machine)
    except FastrestoreError:
        raise
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if sigma is not None and not restorer.info["takes_sigma"]:
        raise typer.BadParameter(f"{restorer.info['model']} takes no noise level: leave --sigma out")
    return restorer


def _say(result: dict[str, Any], as_json: bool, quiet: bool) -> None:
    if not result["ok"]:
        print(f"fastrestore: {result['error']}", file=sys.stderr)
        return
    if quiet or as_json:
        return
    for notice in result["notices"]:
        print(f"fastrestore: {result['input']}: note: {notice}", file=sys.stderr)
    level = "" if result["sigma"] is None else f"σ {result['sigma']:.1f}, "
    print(f"{result['input']} -> {result['output']} ({level}{result['seconds']:.2f} s)")
    if "bottleneck" in result:  # it went piece by piece, its stages at once
        print(shares_of_time(result["shares"]))


def _progress(off: bool) -> Any:
    """A progress bar on stderr if that is a terminal."""
    if off or not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console
    from rich.progress import Progress

    return Progress(console=Console(stderr=True), transient=True)


def _ticker(bar: Any, title: str) -> Any:
    if bar is None:
        return None
    from rich.markup import escape

    for task in bar.task_ids:
        bar.remove_task(task)
    task = bar.add_task(escape(title), total=1.0)
    return lambda done: bar.update(task, completed=done)


denoise = _command("denoise", "Removes noise from pictures.")
demoire = _command("demoire", "Removes moiré from photographs of screens.")
deblur = _command("deblur", "Sharpens pictures blurred by a shaken camera, by motion or by a lens out of focus.")
