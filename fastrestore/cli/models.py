"""fastrestore models: what ships."""

import json
from dataclasses import asdict
from typing import Annotated

import typer


def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, cards included.")] = False) -> None:
    """Lists the named models: task, family, input, size, and the quality that was measured."""
    import fastrestore as fr
    from fastrestore import zoo

    entries = fr.models()
    if as_json:
        typer.echo(json.dumps([asdict(entry) | {"path": str(entry.path)} for entry in entries], indent=2))
        return
    longest = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        size = f"{entry.path.stat().st_size / 1e6:.1f} MB"
        level = ", noise level given or estimated" if entry.takes_sigma else ""
        typer.echo(f"{entry.name:{longest}}  {entry.task}, {entry.family}, {entry.input}, {size}{level}")
        for phrase in zoo.quality(entry.card):
            typer.echo(f"{'':{longest}}    {phrase}")
