"""fastrestore convert: foreign weights of a published architecture into a model file."""

import json
from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[Path, typer.Argument(help="A .safetensors, .pth, .pt, .pkl, .ckpt or .mat file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The model file to write (.safetensors).")],
    arch: Annotated[str, typer.Option(help="Its architecture: dncnn, nafnet, swinir, ...; another name lists them.")],
    config: Annotated[
        list[str] | None, typer.Option(help="key=value that overrules what the tensors say; may be repeated.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store float16: half the size, weights rounded.")] = False,
    licence: Annotated[str, typer.Option(help="Licence of the weights, for the card.")] = "",
) -> None:
    """Converts public weights; nothing in the source file is run.

    The configuration is read off the tensors and stated; every tensor's name and shape must then match.
    """
    import torch

    from fastrestore import checkpoint
    from fastrestore.convert import convert as convert_file
    from fastrestore.models import config_of

    if output.suffix != ".safetensors":
        raise typer.BadParameter("the output must be a .safetensors file")
    values = {}
    for item in config or []:
        key, equals, value = item.partition("=")
        try:
            values[key] = json.loads(value)
        except ValueError as error:
            raise typer.BadParameter(f"--config {item}: wanted key=number, key=[numbers] or key=true") from error
        if not equals:
            raise typer.BadParameter(f"--config {item}: wanted key=value")
    model = convert_file(source, arch, values)
    card = {"source": source.name, "licence": licence or "not stated"}
    checkpoint.save(model, output, torch.float16 if half else None, card)
    stated = ", ".join(f"{key}={value}" for key, value in config_of(model).items())
    count = sum(parameter.numel() for parameter in model.parameters())
    typer.echo(f"{output}: {arch} with {stated}; {count:,} parameters")
