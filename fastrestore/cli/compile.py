"""fastrestore compile: a model as one plan file, for C programs and for a quick start in Python."""

from pathlib import Path
from typing import Annotated

import typer


def compile(
    model: Annotated[str, typer.Argument(help="A named model or a .safetensors file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The plan file to write (.frp).")],
    precision: Annotated[str, typer.Option(help="auto (float32), float32 or bfloat16.")] = "auto",
) -> None:
    """Compiles a model to a plan file.

    The file runs without Python and torch (docs/embed.md), in `fastrestore denoise --model FILE.frp` and in
    fastrestore.Plan.load.  It holds unpacked weights, so it suits every CPU.
    """
    if output.suffix != ".frp":
        raise typer.BadParameter("the output must be a .frp file")
    from fastrestore import checkpoint, engine, zoo
    from fastrestore.errors import FastrestoreError

    path = zoo.path_of(model)
    described = checkpoint.describe(path)
    card = {"name": path.stem, **described.card}
    card |= {"architecture": described.architecture, "config": described.config}
    try:
        plan = engine.compile(checkpoint.load(path), precision, card=card)
    except FastrestoreError:
        raise
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    plan.save(output)
    level = "a noise level" if plan.takes_sigma else "no noise level"
    size = output.stat().st_size / 1e6
    typer.echo(f"{output}: {card['name']}, {plan.precision}, {plan.channels} channels, takes {level}; {size:.1f} MB")
