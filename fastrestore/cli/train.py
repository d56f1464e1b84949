"""fastrestore train: one recipe in, one model file out."""

from pathlib import Path
from typing import Annotated

import typer

INPUTS = {"burst-unet": "burst", "guided-unet": "guided"}  # of architectures whose recipes do not say


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe, e.g. recipes/denoise-cnn.toml.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The model file to write (.safetensors).")],
    data: Annotated[
        Path | None, typer.Option(help="What $DATA stands for in the recipe; else FASTRESTORE_DATA.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder of the resumable state.  [default: runs/NAME]", show_default=False)
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu or cuda.  [default: cpu, or what accelerate launch says]", show_default=False),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of PyTorch on the CPU.")] = None,
    stop_after: Annotated[
        int | None, typer.Option(min=0, help="Leave after so many steps; the same command goes on from there.")
    ] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Write the model even if the schedule has not ended yet.")
    ] = False,
) -> None:
    """Trains a model by a recipe; a run that was cut off goes on where its last state was saved.

    Several GPUs or hosts share each batch: accelerate launch --multi_gpu -m fastrestore train RECIPE -o OUT, for which
    accelerate must be there: pip install 'fastrestore[train]'.

    The weights are written as float16 with the recipe in the card.  `fastrestore eval OUT DATA --sigma 25 --record`
    then adds the measured PSNR to the card.
    """
    from dataclasses import asdict

    import torch

    from fastrestore import checkpoint
    from fastrestore.train import Team, load_recipe, status
    from fastrestore.train import train as run
    from fastrestore.train.validation import Validated

    if output.suffix != ".safetensors":
        raise typer.BadParameter("the output must be a .safetensors file")
    if not output.parent.is_dir():
        raise typer.BadParameter(f"{output.parent}: no such folder")
    team = Team(device)
    if threads:
        torch.set_num_threads(threads)
    plan = load_recipe(recipe)
    last: dict[str, float] = {}

    def report(step: int, loss: float, rate: float, validated: Validated | None) -> None:
        last.update(step=step, loss=loss)
        held = f", held {validated.input_psnr:.2f} -> {validated.psnr:.2f} dB" if validated else ""
        typer.echo(f"step {step} of {plan.steps}: loss {loss:.5f}{held}, {rate:.1f} steps/s", err=True)

    folder = state or Path("runs") / plan.name
    model = run(plan, folder, data=data, team=team, report=report, stop_after=stop_after)
    team.close()
    if not team.is_first:
        return
    done = status(plan, folder)
    if not done.ended and not unfinished:
        typer.echo(f"stopped after step {done.step} of {plan.steps}; the same command goes on from there")
        return
    task, _, family = plan.name.partition("-")
    card = {
        "name": plan.name,
        "task": task,
        "family": family,
        "input": INPUTS.get(plan.architecture, "video" if plan.frames else "image"),
        "data": ", ".join(Path(folder).name for folder in plan.folders),
        "licence": plan.licence,
        "recipe": asdict(plan),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": done.step,
        "minutes": round(done.seconds / 60),
    }
    if "loss" in last:
        card["final_loss"] = round(last["loss"], 6)
    checkpoint.save(model.float().cpu(), output, torch.float16, card)
    typer.echo(f"{output}: {plan.name}, {output.stat().st_size / 1e6:.1f} MB")
