"""fastrestore info: what was built, what this machine has, which path each operation takes."""

import json
from typing import Annotated, Any

import typer


def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Says what was built, what this machine has and what will be used."""
    from importlib.util import find_spec

    import fastrestore
    from fastrestore import engine, zoo

    about: dict[str, Any] = {"fastrestore": fastrestore.__version__} | engine.build_info()
    model = zoo.default("denoise")
    paths: dict[str, list[str]] = {}
    for step in engine.compile(zoo.load(model)).steps:
        if step["kernel"] and step["kernel"] not in paths.setdefault(step["op"], []):
            paths[step["op"]].append(step["kernel"])
    about[f"operations of {model}"] = paths
    optional = {"imagecodecs": "LZW, JPEG and Zstandard in TIFF", "h5py": "converting .mat files"}
    about["optional"] = {f"{name} ({use})": find_spec(name) is not None for name, use in optional.items()}
    if as_json:
        typer.echo(json.dumps(about, indent=2))
        return
    _print(about, "")


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
