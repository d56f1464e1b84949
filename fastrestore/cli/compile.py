"""fastrestore compile: a model as one plan file, for C programs and for a quick start in Python."""

from pathlib import Path
from typing import Annotated, Any

import typer


def compile(
    model: Annotated[str, typer.Argument(help="A named model or a .safetensors file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The plan file to write (.frp).")],
    precision: Annotated[str, typer.Option(help="auto (float32), float32, bfloat16 or int8.")] = "auto",
    calibration: Annotated[
        Path | None, typer.Option(help="For int8: a folder of pictures like those to be restored.")
    ] = None,
    ranges: Annotated[str, typer.Option(help="For int8: mse or percentile, how ranges are chosen.")] = "mse",
    least_psnr: Annotated[
        float, typer.Option(metavar="DB", help="For int8: how near to float32's results it is to stay.")
    ] = 49.0,
    sigma: Annotated[
        float | None, typer.Option(min=0, help="For int8: the pictures' noise level.  [default: estimated]")
    ] = None,
) -> None:
    """Compiles a model to a plan file.

    The file runs without Python and torch (docs/embed.md), in `fastrestore denoise --model FILE.frp` and in
    fastrestore.Plan.load.  It holds unpacked weights, so it suits every CPU.
    int8 runs the model on the pictures of --calibration to see what its images hold, and says how far its results
    are from float32's there; noisy pictures for a denoiser, at the noise levels that it will meet.
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
        module = checkpoint.load(path)
        pictures = None if calibration is None else _pictures(calibration, module, sigma)
        plan = engine.compile(module, precision, card=card, calibration=pictures, ranges=ranges, least_psnr=least_psnr)
    except FastrestoreError:
        raise
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    plan.save(output)
    level = "a noise level" if plan.takes_sigma else "no noise level"
    size = output.stat().st_size / 1e6
    typer.echo(f"{output}: {card['name']}, {plan.precision}, {plan.channels} channels, takes {level}; {size:.1f} MB")
    if plan.precision == "int8":
        about = plan.card["int8"]
        typer.echo(f"{about['images']} images of 8 bits, {about['wide']} kept wide; {about['psnr']} dB from float32")


def _pictures(folder: Path, module: Any, sigma: float | None) -> list[Any]:
    """The folder's pictures with the channels that the model takes: grey repeated, or the mean of colours."""
    import numpy as np

    from fastrestore import image

    if not folder.is_dir():
        raise typer.BadParameter(f"--calibration: {folder} is no folder")
    channels, takes_sigma = module.config.channels, getattr(module, "takes_sigma", False)
    if sigma is not None and not takes_sigma:
        raise typer.BadParameter("--sigma: this model takes no noise level")
    found = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in image.SUFFIXES):
        samples = np.atleast_3d(image.read(path).pixels)
        if channels == 1 and samples.shape[2] > 1:
            samples = image.convert(samples, np.float32).mean(axis=2, keepdims=True)
        samples = np.repeat(samples, channels, axis=2) if samples.shape[2] == 1 else samples
        found.append((samples, sigma) if takes_sigma and sigma is not None else samples)
    return found
