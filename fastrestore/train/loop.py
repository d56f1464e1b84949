"""The training loop: Adam with warm-up and one cosine, averaged weights, exact resumption."""

import ctypes
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastrestore import checkpoint, degrade, engine, models, zoo
from fastrestore.data import (
    BurstSampler,
    ClipSampler,
    PairSampler,
    PatchSampler,
    SequenceSampler,
    load_pictures,
    make_pairs,
    make_sequences,
)
from fastrestore.errors import ModelError
from fastrestore.train import sequences
from fastrestore.train.adversarial import Critic
from fastrestore.train.losses import weighted
from fastrestore.train.recipe import Recipe, data_folders
from fastrestore.train.validation import Validated, Validation

# These learn to fuse what their U-Net, which stays as it is, makes of each frame.
Fused = models.RecurrentUNet, models.BurstUNet
MISSING, USELESS = 0.2, 0.3  # shares of patches without a guide, and with that of another patch


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
    device: str = "cpu",
    report: Report | None = None,
    stop_after: int | None = None,
) -> nn.Module:
    """Trains the recipe's model and returns it with its averaged weights, in evaluation mode.

    state: a folder for resumable states; a run that finds one there goes on from it and ends with the same
    weights as an uninterrupted run on the same machine and thread count.  stop_after: leave after this many
    steps of this call (the state is saved), for tests and shared machines.
    Raises ModelError when the loss is no longer finite or a state does not belong to the recipe.
    """
    _keep_freed_memory()
    pictures, skipped = load_pictures(data_folders(recipe, data), recipe.degradation.get("side", recipe.patch))
    for sentence in skipped:
        print(f"left out: {sentence}", file=sys.stderr)
    validation = Validation(recipe, data, state / "validation.png") if recipe.validation else None
    torch.manual_seed(recipe.seed)
    model, known = _initial_model(recipe)
    batches = _batches(recipe, pictures, state, model)
    run = _Run(recipe, model.to(device, memory_format=torch.channels_last), state, known)
    step = run.resume()
    last = recipe.steps if stop_after is None else min(recipe.steps, step + stop_after)
    losses, since = [], time.perf_counter()
    ended = run.progress(step) >= 1
    while step < last and not ended:
        losses.append(run.step(step, batches(step).to(device)))
        step += 1
        ended = run.progress(step) >= 1
        if step % recipe.save_every == 0 or step == last or ended:
            mean = torch.stack(losses).mean().item()
            if not math.isfinite(mean):
                raise ModelError(f"the loss is not finite after step {step}; the last state in {state} is good")
            run.save(step)
            rate = len(losses) / (time.perf_counter() - since)
            validated = validation(model, run.average) if validation else None
            if report:
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


def _initial_model(recipe: Recipe) -> tuple[nn.Module, set[str]]:
    """The recipe's model with random weights, or with those of its init, whose names come back with it; layers which
    that one lacks begin anew."""
    model = models.create(recipe.architecture, **recipe.config)
    known: dict[str, Tensor] = {}
    if recipe.init:
        known = zoo.load(recipe.init).state_dict()
        own = model.state_dict()
        checkpoint.match(recipe.init, {name: tuple(value.shape) for name, value in (own | known).items()}, model)
        model.load_state_dict(own | known)
    if isinstance(model, Fused):
        model.requires_grad_(False).fusion.requires_grad_(True)
    return model.train(), set(known)


class _Run:
    """The optimiser, the averaged weights and their state on disk."""

    def __init__(self, recipe: Recipe, model: nn.Module, folder: Path, known: set[str]):
        """known: the names of the weights that the training starts from."""
        self.recipe, self.model, self.folder = recipe, model, folder
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
            self.critic = Critic(model.config.channels, recipe.adversarial, next(model.parameters()).device.type)
        self.spent, self.began = 0.0, time.perf_counter()  # seconds before this call, and when this call began

    def seconds(self) -> float:
        return self.spent + time.perf_counter() - self.began

    def progress(self, step: int) -> float:
        """The share of the schedule that is done."""
        share = step / self.recipe.steps
        budget = 60 * self.recipe.budget_minutes
        return max(share, self.seconds() / budget) if budget else share

    def step(self, step: int, batch: Batch) -> Tensor:
        recipe = self.recipe
        progress = self.progress(step)
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
        values = {k: v for k, v in vars(self.recipe).items() if k not in ("save_every", "budget_minutes", "validation")}
        for key, default in (
            ("init", ""),
            ("loss", "l1"),
            ("degradation", {}),
            ("adversarial", None),
            ("mix", 0.0),
            ("fresh", 1.0),
            ("judged", 1),
            ("frames", 0),
            ("truncate", 0),
        ):  # younger than the first states: left out where unused
            if values[key] == default:
                del values[key]
        return json.dumps(values, sort_keys=True)

    def save(self, step: int) -> None:
        tensors = {"step": torch.tensor(step), "seconds": torch.tensor(self.seconds(), dtype=torch.float64)}
        for name, parameter in zip(self.names, self.parameters, strict=True):
            moments = self.optimiser.state[parameter]
            tensors |= {
                f"weight/{name}": parameter.detach().contiguous(),
                f"average/{name}": self.average[name].contiguous(),
                f"exp_avg/{name}": moments["exp_avg"].contiguous(),
                f"exp_avg_sq/{name}": moments["exp_avg_sq"].contiguous(),
            }
        if self.critic and self.critic.optimiser.state:  # it has begun
            tensors |= _critic_state(self.critic)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "state.partial"
        save_file(tensors, partial, metadata={"recipe": self._identity()})
        partial.replace(self.folder / "state.safetensors")  # a cut write never replaces a good state

    def resume(self) -> int:
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
            if self.critic and any(name.startswith("critic/") for name in tensors):
                _restore_critic(self.critic, tensors)
        return step


def _critic_state(critic: Critic) -> dict[str, Tensor]:
    """Weights, the vectors of the spectral norm, and the optimiser's moments."""
    tensors = {f"critic/{name}": value.contiguous() for name, value in critic.module.state_dict().items()}
    for name, parameter in critic.module.named_parameters():
        for moment in ("step", "exp_avg", "exp_avg_sq"):
            tensors[f"critic {moment}/{name}"] = critic.optimiser.state[parameter][moment].contiguous()
    return tensors


def _restore_critic(critic: Critic, tensors: dict[str, Tensor]) -> None:
    for name, value in critic.module.state_dict().items():
        value.copy_(tensors[f"critic/{name}"])
    for name, parameter in critic.module.named_parameters():
        moments = {key: torch.empty_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
        for key, moment in moments.items():
            moment.copy_(tensors[f"critic {key}/{name}"])
        critic.optimiser.state[parameter] = {"step": tensors[f"critic step/{name}"], **moments}


def _learning_rate(recipe: Recipe, step: int, progress: float) -> float:
    warm = min(1.0, (step + 1) / max(recipe.warmup, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return recipe.learning_rate * warm * (0.99 * cosine + 0.01)


def _batches(
    recipe: Recipe, pictures: list[np.ndarray], state: Path, model: nn.Module
) -> Callable[[int], Batch | sequences.ClipBatch | sequences.BurstBatch]:
    """Makes the batch of a step, on the CPU.  model: as the training begins."""
    if isinstance(model, Fused):
        sampler = _sequences(recipe, pictures, state, model)
        return lambda step: sequences.as_batch(sampler(step))
    if recipe.frames:
        clips = ClipSampler(pictures, recipe.frames, recipe.patch, recipe.batch, recipe.grey, recipe.sigma, recipe.seed)
        return lambda step: sequences.as_batch(clips(step))
    if not recipe.degradation:
        clean = PatchSampler(pictures, recipe.patch, recipe.batch, recipe.grey, recipe.seed)
        if isinstance(model, models.GuidedUNet):
            return lambda step: _guided(recipe, _noisy(recipe, clean, step), step)
        return lambda step: _noisy(recipe, clean, step)
    pairs = make_pairs(
        pictures,
        recipe.degradation["kind"],
        recipe.degradation["side"],
        recipe.degradation["variants"],
        recipe.seed,
        state,
        lambda done, of: print(f"pairs: {done} of {of} variants", file=sys.stderr),
    )
    sampler = PairSampler(pairs, recipe.patch, recipe.batch, recipe.grey, recipe.seed, recipe.mix)

    def pair(step: int) -> Batch:
        clean, degraded = (torch.from_numpy(part).permute(0, 3, 1, 2) for part in sampler(step))
        return Batch(clean, degraded.contiguous(memory_format=torch.channels_last))

    return pair


def _guided(recipe: Recipe, batch: Batch, step: int) -> Batch:
    """With a guide for each patch: one that fits, or none, or one of another patch, which is of no use."""
    rng = np.random.default_rng([recipe.seed, step])
    pictures = batch.clean.permute(0, 2, 3, 1).numpy()
    guides = np.zeros((*pictures.shape[:3], 4), np.float32)
    for i, drawn in enumerate(rng.random(len(pictures))):
        if drawn >= MISSING:
            of = i - 1 if drawn < MISSING + USELESS else i
            guides[i, ..., :3], guides[i, ..., 3] = degrade.guide(pictures[of], seed=rng).image, 1
    return batch._replace(guide=torch.from_numpy(guides).permute(0, 3, 1, 2))


def _sequences(
    recipe: Recipe, pictures: list[np.ndarray], state: Path, model: nn.Module
) -> SequenceSampler | BurstSampler:
    """Clips or bursts whose frames the model's U-Net has restored, each by itself."""
    asked, bursts = recipe.degradation, isinstance(model, models.BurstUNet)
    alone = engine.compile(model, recipe.precision).session()

    def report(done: int, of: int) -> None:
        if done % 50 == 0 or done == of:
            print(f"sequences: {done} of {of}", file=sys.stderr)

    made = make_sequences(
        pictures * asked["variants"],
        asked["kind"],
        recipe.frames,
        asked["side"],
        bursts,
        recipe.seed,
        state,
        alone.run,
        recipe.init,
        report,
    )
    return (BurstSampler if bursts else SequenceSampler)(made, recipe.patch, recipe.batch, recipe.seed)


def _noisy(recipe: Recipe, sampler: PatchSampler, step: int) -> Batch:
    """Patches with white noise; grey patches get grey noise."""
    patches, is_grey = sampler(step)
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    clean = torch.from_numpy(patches).permute(0, 3, 1, 2)
    low, high = recipe.sigma
    sigma = low + (high - low) * torch.rand(recipe.batch, generator=generator)
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
