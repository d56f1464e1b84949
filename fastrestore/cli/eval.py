"""fastrestore eval: quality of a model on a folder of pictures."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer


def eval(
    model: Annotated[str, typer.Argument(help="A named model or a .safetensors file.")],
    data: Annotated[Path, typer.Argument(help="Folder of clean pictures, or with --pairs of noisy and clean ones.")],
    sigma: Annotated[
        list[float] | None, typer.Option(help="Noise to add, in 0-255 units; may be given several times.")
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="The folder holds pairs, like NAME_real.png and NAME_mean.png.")
    ] = False,
    degradation: Annotated[
        str | None,
        typer.Option("--degrade", metavar="KIND", help="moire, blur and so on, simulated, instead of noise."),
    ] = None,
    grey: Annotated[bool, typer.Option("--grey", help="Turn colour pictures to their luma.")] = False,
    blind: Annotated[
        bool, typer.Option("--blind", help="Let the model's noise level be estimated instead of given.")
    ] = False,
    eager: Annotated[
        bool, typer.Option("--eager", help="Run the module, operator by operator, instead of the compiled plan.")
    ] = False,
    classical: Annotated[
        bool, typer.Option("--classical", help="With --sigma, measure OpenCV's non-local means as well.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many pictures.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the compiled plan.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there, too.")
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a picture: before, after, clean and their difference, a row each."),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write the figures into the card of the model file.")
    ] = False,
) -> None:
    """Measures PSNR and SSIM by the protocol of the published denoising figures.

    White Gaussian noise (the same for every model), not clipped; the result rounded to 8 bits; the mean over the
    pictures.  With --degrade each picture is degraded by a simulation seeded with its number.  With --pairs the
    noise is that of the noisy pictures, and a picture's clean one has the same name with _mean for _real, _clean or
    _gt for _noisy, _gt for _moire or _blur, sharp_ for blur_, or tar_ for src_.

    What is before an arrow is of the degraded pictures.  Texture is how far the power of the finest details is from
    the clean picture's: 0 is the same, 0.3 twice or half as strong.
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from fastrestore import checkpoint, zoo
    from fastrestore.evaluate import evaluate

    if not sigma and not pairs and not degradation:
        raise typer.BadParameter("give --sigma (how much noise to add), --degrade or --pairs")
    if pairs and degradation:
        raise typer.BadParameter("--pairs are degraded already: leave --degrade out")
    if sheet and len(sigma or ()) > 1:
        raise typer.BadParameter("--sheet is of one --sigma")
    if record and not model.endswith(".safetensors"):
        raise typer.BadParameter("--record needs a .safetensors file")
    if record and limit:
        raise typer.BadParameter("--record with --limit would record the figure of a part of the set")
    loaded = zoo.load(model)
    scores = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for level in sigma or [None]:
            task = progress.add_task(degradation or ("pairs" if level is None else f"σ {level:g}"), total=None)

            def show(name: str, done: int, total: int, task=task) -> None:
                progress.update(task, completed=done, total=total)

            scores.append(
                evaluate(
                    loaded,
                    data,
                    level,
                    pairs=pairs,
                    degradation=degradation,
                    grey=grey,
                    blind=blind,
                    eager=eager,
                    classical=classical,
                    limit=limit,
                    threads=threads,
                    sheet=sheet,
                    report=show,
                )
            )
            progress.remove_task(task)

    name, folder = Path(model).stem if model.endswith(".safetensors") else model, data.resolve().name
    table = Table(title=f"{name} on {folder}, {scores[0].pictures} pictures", box=None)
    headings = ["σ", "PSNR dB", "PSNR-Y", "SSIM", "texture", "ms/Mpixel"]
    for heading in [*headings, "classical dB"] if classical else headings:
        table.add_column(heading, justify="right")
    for score in scores:
        row = [
            score.kind if score.sigma is None else f"{score.sigma:g}",
            f"{score.input_psnr:.2f} -> {score.psnr:.2f}",
            "" if score.psnr_y is None else f"{score.psnr_y:.2f}",
            f"{score.input_ssim:.4f} -> {score.ssim:.4f}",
            f"{score.input_texture:.2f} -> {score.texture:.2f}",
            f"{score.milliseconds:.0f}",
        ]
        if score.classical_psnr is not None:
            row.append(f"{score.classical_psnr:.2f}")
        table.add_row(*row)
    Console().print(table)
    if json_file:
        document = {"model": name, "set": folder, "blind": blind, "scores": [asdict(score) for score in scores]}
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if record:
        checkpoint.rewrite_card(
            model, _recorded(checkpoint.describe(model).card, f"{folder} blind" if blind else folder, scores, threads)
        )


def _recorded(card: dict, folder: str, scores: list, threads: int | None) -> dict:
    """The card with the figures of a set: PSNR, texture, and what the last of them took."""
    psnr, texture = {}, {}
    for score in scores:
        key = score.kind if score.kind != "noise" else f"{score.sigma:g}"
        psnr[key] = round(score.psnr, 2)
        texture[key], texture[f"{key} input"] = round(score.texture, 3), round(score.input_texture, 3)
        if score.kind != "noise" or score.classical_psnr is not None:
            psnr[f"{key} input"] = round(score.input_psnr, 2)
        if score.classical_psnr is not None:
            psnr[f"{key} non-local means"] = round(score.classical_psnr, 2)
    taken = {"threads": threads or os.cpu_count(), "ms_per_megapixel": round(scores[-1].milliseconds)}
    if scores[-1].working_mib is not None:
        taken["working_mib"] = round(scores[-1].working_mib, 1)
    card = {**card, "speed": {**card.get("speed", {}), folder: taken}}
    for kind, figures in (("psnr", psnr), ("texture", texture)):
        known = card.get(kind, {})
        card[kind] = {**known, folder: {**known.get(folder, {}), **figures}}
    return card
