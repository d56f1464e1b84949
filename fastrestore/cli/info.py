"""fastrestore info: what was built, what this machine has, which path each operation takes."""

import json
from typing import Annotated, Any

import typer


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plan: Annotated[str, typer.Option(help="Show the plan of this model: a name or a file.")] = "",
    size: Annotated[str, typer.Option(help="Of the picture, for --plan.", metavar="WIDTHxHEIGHT")] = "1920x1080",
    threads: Annotated[int, typer.Option(help="For --plan.", min=1)] = 1,
    memory: Annotated[str, typer.Option(help="Budget, for --plan, e.g. 64MiB.")] = "1GiB",
    precision: Annotated[str, typer.Option(help="For --plan: float32 or bfloat16.")] = "float32",
    measure: Annotated[bool, typer.Option("--measure", help="Run the plan and show what each step takes.")] = False,
    svg: Annotated[str, typer.Option(help="Draw the plan into this file as well.", metavar="FILE")] = "",
) -> None:
    """Says what was built, what this machine has and what will be used; with --plan, what a model's plan does."""
    if plan:
        _plan(plan, size, threads, memory, precision, measure, svg, as_json)
        return
    if svg or measure:
        raise typer.BadParameter("--svg and --measure need --plan")
    from importlib.util import find_spec

    import fastrestore
    from fastrestore import engine, plancache, zoo

    about: dict[str, Any] = {"fastrestore": fastrestore.__version__} | engine.build_info()
    model = zoo.default("denoise")
    paths: dict[str, list[str]] = {}
    for step in engine.compile(zoo.load(model)).steps:
        if step["kernel"] and step["kernel"] not in paths.setdefault(step["op"], []):
            paths[step["op"]].append(step["kernel"])
    about[f"operations of {model}"] = paths
    about["compiled plans are kept in"] = str(plancache.folder() or "no folder")
    optional = {"imagecodecs": "LZW, JPEG and Zstandard in TIFF", "h5py": "converting .mat files"}
    about["optional"] = {f"{name} ({use})": find_spec(name) is not None for name, use in optional.items()}
    if as_json:
        typer.echo(json.dumps(about, indent=2))
        return
    _print(about, "")


def _plan(
    name: str, size: str, threads: int, memory: str, precision: str, measure: bool, svg: str, as_json: bool
) -> None:
    import re
    from pathlib import Path

    from fastrestore import engine, planview, zoo

    sides = re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,6})", size)
    if sides is None:
        raise typer.BadParameter(f"--size must be like 1920x1080, got {size!r}")
    if precision not in engine.PRECISIONS:
        raise typer.BadParameter(f"--precision must be one of {', '.join(engine.PRECISIONS)}, got {precision!r}")
    try:
        engine.parse_memory(memory)
    except ValueError as error:
        raise typer.BadParameter(f"--memory: {error}") from None
    plan = engine.Plan.load(name) if name.endswith(".frp") else engine.compile(zoo.load(name), precision)
    about = planview.describe(plan, int(sides[2]), int(sides[1]), threads, memory, measure)
    if svg:
        Path(svg).write_text(planview.svg(about, f"The plan of {Path(name).stem}"), encoding="utf-8")
    typer.echo(json.dumps(about, indent=2) if as_json else planview.text(about))


def _print(values: dict[str, Any], indent: str) -> None:
    width = max((len(key) for key in values), default=0)
    for key, value in values.items():
        if isinstance(value, dict):
            typer.echo(f"{indent}{key}")
            _print(value, indent + "  ")
            continue
        if isinstance(value, list | tuple):
            value = ", ".join(map(str, value)) or "none"
        words = {True: "yes", False: "no", None: "-"}
        text = words[value] if value is None or isinstance(value, bool) else value
        typer.echo(f"{indent}{key:{width}}  {text}")
