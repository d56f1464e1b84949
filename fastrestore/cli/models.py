"""fastrestore models: what ships."""

import json
from dataclasses import asdict
from typing import Annotated

import typer


def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, cards included.")] = False) -> None:
    """Lists the named models with task, family, measured quality and size."""
    import fastrestore as fr
    from fastrestore import zoo

    entries = fr.models()
    if as_json:
        typer.echo(json.dumps([asdict(entry) | {"path": str(entry.path)} for entry in entries], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "task", "family", "input", "architecture", "channels", "noise level", "MB", "PSNR", box=None)
    for entry in entries:
        level = "given or estimated" if entry.takes_sigma else "not needed"
        size = f"{entry.path.stat().st_size / 1e6:.1f}"
        row = [entry.name, entry.task, entry.family, entry.input, entry.architecture, str(entry.channels), level, size]
        table.add_row(*row, "\n".join(zoo.quality(entry.card)))
    Console().print(table)
