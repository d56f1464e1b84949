"""The training loop: Adam with warm-up and one cosine, averaged weights, exact resumption."""

import ctypes
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from fastrestore import checkpoint, degrade, engine, models, zoo
from fastrestore.data import (
    BurstSampler,
    ClipSampler,
    FootageSampler,
    PairSampler,
    PatchSampler,
    SequenceSampler,
    load_footage,
    load_pairs,
    load_pictures,
    make_pairs,
    make_sequences,
)
from fastrestore.data.sequences import Sequences
from fastrestore.errors import ModelError
from fastrestore.files import whole_file
from fastrestore.models.autoencoder import Autoencoder
from fastrestore.train import sequences
from fastrestore.train.adversarial import Critic
from fastrestore.train.board import Board
from fastrestore.train.losses import weighted
from fastrestore.train.narrow import narrowed
from fastrestore.train.recipe import Recipe, data_folders
from fastrestore.train.team import Team
from fastrestore.train.validation import Validated, Validation

# These learn to fuse what their U-Net, which stays as it is, makes of each frame.
Fused = models.RecurrentUNet, models.BurstUNet
# Shares of patches without a guide, with an even one, with that of another patch, and with one that lies aside; the
# others' guides fit.
GUIDED = {"missing": 0.2, "even": 0.05, "useless": 0.15, "aside": 0.05}
NEAREST, FARTHEST = 2.0, 6.0  # pixels by which a guide lies aside


class Batch(NamedTuple):
    """Pictures, channels-last in memory."""

    clean: Tensor  # [N, C, H, W]
    degraded: Tensor  # likewise
    sigma: Tensor | None = None  # [N]
    guide: Tensor | None = None  # as GuidedUNet takes it

    def to(self, device: str) -> "Batch":
        return Batch(*(part if part is None else part.to(device) for part in self))


# step, mean loss since the last report, steps a second, figures of the held pictures
Report = Callable[[int, float, float, Validated | None], None]


def train(
    recipe: Recipe,
    state: Path,
    *,
    data: Path | None = None,
    team: Team | None = None,
    report: Report | None = None,
    stop_after: int | None = None,
) -> nn.Module:
    """Trains the recipe's model and returns it with its averaged weights, in evaluation mode.

    team: the processes that train together, each of which calls this alike; None: this one alone, on the CPU.
    state: a folder for resumable states; a run that finds one there goes on from it and ends with the same
    weights as an uninterrupted run on the same machine, thread count and team.  A team on several hosts needs a folder
    that all of them see.  stop_after: leave after this many steps of this call (the state is saved), for tests and
    shared machines.
    Raises ModelError when the loss is no longer finite or a state does not belong to the recipe.
    """
    team = team or Team()
    _keep_freed_memory()
    pictures, skipped = _load(recipe, data_folders(recipe, data))
    for sentence in skipped if team.is_first else ():
        print(f"left out: {sentence}", file=sys.stderr)
    validation = Validation(recipe, data, state) if recipe.validation and team.is_first else None
    torch.manual_seed(recipe.seed)
    model, known = _initial_model(recipe)
    batches = _batches(recipe, pictures, state, team, model)
    run = _Run(recipe, model.to(team.device, memory_format=torch.channels_last), state, known, team)
    step = run.resume()
    board = Board(state, step) if recipe.tensorboard and team.is_first else None
    last = recipe.steps if stop_after is None else min(recipe.steps, step + stop_after)
    losses, since = [], time.perf_counter()
    progress = run.progress(step)
    while step < last and progress < 1:
        losses.append(run.step(step, progress, batches(step).to(team.device)))
        step += 1
        progress = run.progress(step)
        if step % recipe.save_every == 0 or step == last or progress >= 1:
            mean = team.mean(torch.stack(losses).mean()).item()
            if not math.isfinite(mean):
                raise ModelError(f"{_why(losses, step, batches, run)}; the last state in {state} is good")
            run.save(step)
            rate = len(losses) / (time.perf_counter() - since)
            validated = validation(model, run.average) if validation else None
            if board:
                board.add(step, mean, _learning_rate(recipe, step, progress), rate, validated)
            if report and team.is_first:
                report(step, mean, rate, validated)
            losses, since = [], time.perf_counter()
    model.load_state_dict(run.average, strict=False)  # what is not trained is not averaged
    return model.eval()


@dataclass(frozen=True)
class Status:
    """How far a training has come."""

    step: int
    seconds: float
    ended: bool  # by its steps or its budget


def status(recipe: Recipe, state: Path) -> Status:
    """What the saved state says.  Raises ModelError where there is none or it cannot be read."""
    try:
        with safe_open(state / "state.safetensors", "pt") as file:
            step, seconds = (file.get_tensor(name).item() for name in ("step", "seconds"))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{state}: no training state there ({error})") from error
    budget = 60 * recipe.budget_minutes
    return Status(step, seconds, step >= recipe.steps or bool(budget and seconds >= budget))


def _load(recipe: Recipe, folders: list[Path]) -> tuple[list[np.ndarray], list[str]]:
    """The pictures, pairs or clips that the recipe learns from, and a sentence for each that was left out."""
    if recipe.footage:
        return load_footage(folders, recipe.patch, recipe.frames)
    if recipe.is_pairs:
        return load_pairs(folders, recipe.patch)
    return load_pictures(folders, recipe.degradation.get("side", recipe.patch))


def _why(losses: list[Tensor], step: int, batches: Callable[[int], Batch], run: "_Run") -> str:
    """The cause of a mean loss that is not finite, as far as this process can tell.  losses: those before step."""
    finite = torch.stack(losses).isfinite().tolist()
    if all(finite):
        return f"the loss of another process is not finite between steps {step - len(losses)} and {step}"
    first = step - len(losses) + finite.index(False)
    where = f"the loss is not finite at step {first}"
    if not all(part is None or part.isfinite().all() for part in batches(first)):
        return f"{where}: its batch holds values that are not finite"
    return f"{where}: training diverged (learning_rate {run.recipe.learning_rate:g}, clip {run.recipe.clip:g})"


def _initial_model(recipe: Recipe) -> tuple[nn.Module, set[str]]:
    """The recipe's model with random weights, or with those of its init, whose names come back with it; layers which
    that one lacks begin anew."""
    model = models.create(recipe.architecture, **recipe.config)
    known: dict[str, Tensor] = {}
    if recipe.init:
        first = zoo.load(recipe.init)
        own = model.state_dict()
        known = first.state_dict()
        if isinstance(first, Autoencoder) and first.config != model.config:
            known = narrowed(first, model)
        if isinstance(first, models.GuidedUNet) and not isinstance(model, models.GuidedUNet):
            known = {name: known[name] for name in own}
        checkpoint.match(recipe.init, {name: tuple(value.shape) for name, value in (own | known).items()}, model)
        model.load_state_dict(own | known)
    if isinstance(model, Fused):
        model.requires_grad_(False).fusion.requires_grad_(True)
    return model.train(), set(known)


UNSEEN = ("save_every", "budget_minutes", "validation", "tensorboard")  # fields that the weights do not depend on


class _Run:
    """The optimiser, the averaged weights and their state on disk."""

    def __init__(self, recipe: Recipe, model: nn.Module, folder: Path, known: set[str], team: Team):
        """known: the names of the weights that the training starts from."""
        self.recipe, self.model, self.folder, self.team = recipe, model, folder, team
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names, self.parameters = list(trained), list(trained.values())
        weights = [{"params": [], "factor": factor} for factor in (1.0, recipe.fresh)]
        for name, parameter in trained.items():
            weights[bool(known) and name not in known]["params"].append(parameter)
        self.optimiser = torch.optim.Adam([group for group in weights if group["params"]], fused=True)
        self.average = {name: p.detach().clone() for name, p in trained.items()}
        self.loss = weighted(recipe.losses)
        self.critic: Critic | None = None
        if recipe.adversarial is not None:
            self.critic = Critic(model.config.channels, recipe.adversarial, team)
        self.spent, self.began = 0.0, time.perf_counter()  # seconds before this call, and when this call began

    def seconds(self) -> float:
        return self.spent + time.perf_counter() - self.began

    def progress(self, step: int) -> float:
        """The share of the schedule that is done, the same in each process."""
        share = step / self.recipe.steps
        budget = 60 * self.recipe.budget_minutes
        return max(share, self.team.from_first(self.seconds()) / budget) if budget else share

    def step(self, step: int, progress: float, batch: Batch) -> Tensor:
        """One step of the weights, and of the critic.  Returns the loss of this process's share, detached."""
        recipe = self.recipe
        rate = _learning_rate(recipe, step, progress)
        critic = self.critic if self.critic and progress >= self.critic.settings["start"] else None
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimiser.zero_grad(set_to_none=True)
        bfloat16 = recipe.precision == "bfloat16"
        if isinstance(batch, sequences.BurstBatch):
            loss = sequences.learn_fusion(self.model, batch, self.loss, bfloat16)
        elif recipe.frames:
            loss = sequences.learn(self.model, batch, self.loss, recipe.truncate, recipe.judged, bfloat16)
        else:
            loss = self._learn(batch, rate, critic)
        self.team.average_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, recipe.clip)
        self.optimiser.step()
        decay = min(recipe.ema, (step + 1) / (step + 101))  # short memory at first, so that the start is forgotten
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), self.parameters, 1 - decay)
        return loss

    def _learn(self, batch: Batch, rate: float, critic: Critic | None) -> Tensor:
        """Adds the gradients of a batch of pictures to the parameters', and returns the loss, detached."""
        recipe = self.recipe
        clean, degraded, sigma, guide = batch
        with torch.autocast(clean.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            given = [part for part in (sigma if self.model.takes_sigma else None, guide) if part is not None]
            restored = self.model(degraded, *given).float()
            if critic:
                critic.learn(clean, restored.detach(), rate / recipe.learning_rate)
            verdict = critic.judge(clean, restored) if critic else 0.0
        loss = self.loss(restored, clean) + verdict
        loss.backward()
        return loss.detach()

    def _identity(self) -> str:
        values = {k: v for k, v in vars(self.recipe).items() if k not in UNSEEN}
        for key, default in (
            ("init", ""),
            ("loss", "l1"),
            ("degradation", {}),
            ("adversarial", None),
            ("mix", 0.0),
            ("fresh", 1.0),
            ("judged", 1),
            ("frames", 0),
            ("footage", False),
            ("truncate", 0),
        ):  # younger than the first states: left out where unused
            if values[key] == default:
                del values[key]
        return json.dumps(values, sort_keys=True)

    def save(self, step: int) -> None:
        """The first process writes the state, the others wait; a write that fails leaves the last state as it was."""
        if self.team.is_first:
            self._write(step)
        self.team.wait()

    def _write(self, step: int) -> None:
        tensors = {"step": torch.tensor(step), "seconds": torch.tensor(self.seconds(), dtype=torch.float64)}
        for name, parameter in zip(self.names, self.parameters, strict=True):
            moments = self.optimiser.state[parameter]
            tensors |= {
                f"weight/{name}": parameter.detach().contiguous(),
                f"average/{name}": self.average[name].contiguous(),
                f"exp_avg/{name}": moments["exp_avg"].contiguous(),
                f"exp_avg_sq/{name}": moments["exp_avg_sq"].contiguous(),
            }
        if self.critic:
            tensors |= self.critic.state()
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self.folder / "state.safetensors") as file:
            file.write(to_safetensors(tensors, metadata={"recipe": self._identity()}))

    def resume(self) -> int:
        """Reads the state, where there is one, and returns its step."""
        path = self.folder / "state.safetensors"
        if not path.exists():
            return 0
        try:
            with safe_open(path, "pt") as file:
                identity = (file.metadata() or {}).get("recipe")
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is not a whole training state ({error}); remove it to begin anew") from error
        if identity != self._identity():
            raise ModelError(f"{path} belongs to another recipe; use another state folder or remove it")
        step = int(tensors["step"])
        self.spent = float(tensors.get("seconds", 0.0))  # younger than the first states
        with torch.no_grad():
            for name, parameter in zip(self.names, self.parameters, strict=True):
                parameter.copy_(tensors[f"weight/{name}"])
                self.average[name].copy_(tensors[f"average/{name}"])
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": torch.empty_like(parameter).copy_(tensors[f"exp_avg/{name}"]),
                    "exp_avg_sq": torch.empty_like(parameter).copy_(tensors[f"exp_avg_sq/{name}"]),
                }
            if self.critic:
                self.critic.restore(tensors)
        return step


def _learning_rate(recipe: Recipe, step: int, progress: float) -> float:
    warm = min(1.0, (step + 1) / max(recipe.warmup, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return recipe.learning_rate * warm * (0.99 * cosine + 0.01)


Batches = Callable[[int], Batch | sequences.ClipBatch | sequences.BurstBatch]


def _batches(recipe: Recipe, pictures: list[np.ndarray], state: Path, team: Team, model: nn.Module) -> Batches:
    """Makes this process's share of the batch of a step, on the CPU.  model: as the training begins."""
    size = team.share(recipe.batch)
    draw = _draws(recipe, pictures, state, team, size, model)
    return lambda step: draw(step * team.size + team.rank)


def _draws(recipe: Recipe, pictures: list[np.ndarray], state: Path, team: Team, size: int, model: nn.Module) -> Batches:
    """Makes batches of a size; each number gives another one, and always the same.  pictures: clean, or pairs, or
    clips."""
    if isinstance(model, Fused):
        made = _sequences(recipe, pictures, state, team, model)
        sampler = (BurstSampler if isinstance(model, models.BurstUNet) else SequenceSampler)(
            made, recipe.patch, size, recipe.seed
        )
        return lambda number: sequences.as_batch(sampler(number))
    if recipe.frames:
        kind = FootageSampler if recipe.footage else ClipSampler
        clips = kind(pictures, recipe.frames, recipe.patch, size, recipe.grey, recipe.sigma, recipe.seed)
        return lambda number: sequences.as_batch(clips(number))
    if not recipe.degradation:
        clean = PatchSampler(pictures, recipe.patch, size, recipe.grey, recipe.seed)
        if isinstance(model, models.GuidedUNet):
            return lambda number: _guided(recipe, _noisy(recipe, clean, number), number)
        return lambda number: _noisy(recipe, clean, number)
    pairs = [pair[None] for pair in pictures] if recipe.is_pairs else _made_pairs(recipe, pictures, state, team)
    sampler = PairSampler(pairs, recipe.patch, size, recipe.grey, recipe.seed, recipe.mix)

    def pair(number: int) -> Batch:
        clean, degraded = (torch.from_numpy(part).permute(0, 3, 1, 2) for part in sampler(number))
        return Batch(clean, degraded.contiguous(memory_format=torch.channels_last))

    return pair


def _made_pairs(recipe: Recipe, pictures: list[np.ndarray], state: Path, team: Team) -> list[np.ndarray]:
    """The first process makes the pairs, the others find them made."""
    if not team.is_first:
        team.wait()
    pairs = make_pairs(
        pictures,
        recipe.degradation["kind"],
        recipe.degradation["side"],
        recipe.degradation["variants"],
        recipe.seed,
        state,
        lambda done, of: team.is_first and print(f"pairs: {done} of {of} variants", file=sys.stderr),
    )
    if team.is_first:
        team.wait()
    return pairs


def _guided(recipe: Recipe, batch: Batch, number: int) -> Batch:
    """With a guide for each patch: one that fits, or lies aside, or is of no use, or none."""
    rng = np.random.default_rng([recipe.seed, number])
    pictures = batch.clean.permute(0, 2, 3, 1).numpy()
    guides = np.zeros((*pictures.shape[:3], 4), np.float32)
    cases = np.searchsorted(np.cumsum(list(GUIDED.values())), rng.random(len(pictures)), side="right")
    for i, index in enumerate(cases):
        case = [*GUIDED, "fits"][index]
        if case == "missing":
            continue
        parameters = degrade.Guide.random(rng)
        if case == "aside":
            heading, far = rng.uniform(0, 2 * math.pi), rng.uniform(NEAREST, FARTHEST)
            parameters = replace(parameters, shift=(far * math.cos(heading), far * math.sin(heading)))
        shown = pictures[i - 1 if case == "useless" else i]
        if case == "even":
            shown = np.full_like(shown, rng.random())
        guides[i, ..., :3], guides[i, ..., 3] = degrade.guide(shown, parameters, seed=rng).image, 1
    return batch._replace(guide=torch.from_numpy(guides).permute(0, 3, 1, 2))


def _sequences(recipe: Recipe, pictures: list[np.ndarray], state: Path, team: Team, model: nn.Module) -> Sequences:
    """Clips or bursts whose frames the model's U-Net has restored, each by itself; the first process makes them."""
    asked = recipe.degradation
    alone = engine.compile(model, recipe.precision).session()

    def report(done: int, of: int) -> None:
        if done % 50 == 0 or done == of:
            print(f"sequences: {done} of {of}", file=sys.stderr)

    if not team.is_first:
        team.wait()
    made = make_sequences(
        pictures * asked["variants"],
        asked["kind"],
        recipe.frames,
        asked["side"],
        isinstance(model, models.BurstUNet),
        recipe.seed,
        state,
        alone.run,
        recipe.init,
        report,
    )
    if team.is_first:
        team.wait()
    return made


def _noisy(recipe: Recipe, sampler: PatchSampler, number: int) -> Batch:
    """Patches with white noise; grey patches get grey noise."""
    patches, is_grey = sampler(number)
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + number)
    clean = torch.from_numpy(patches).permute(0, 3, 1, 2)
    low, high = recipe.sigma
    sigma = low + (high - low) * torch.rand(sampler.batch, generator=generator)
    noise = torch.randn(clean.shape, generator=generator).contiguous(memory_format=torch.channels_last)
    grey = torch.from_numpy(np.flatnonzero(is_grey))
    noise[grey] = noise[grey, :1].expand(-1, clean.shape[1], -1, -1)
    return Batch(clean, clean + noise * (sigma / 255).reshape(-1, 1, 1, 1), sigma)


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks: else each step maps and faults its large tensors anew (1.4 times slower)."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return  # not glibc
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
