"""The critic of adversarial training: a patch discriminator, and what it and the generator each minimise."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from fastrestore.train.team import Team

DEFAULTS: dict[str, Any] = {
    "weight": 0.01,  # of the generator's adversarial loss beside the recipe's loss
    "loss": "bce",  # or "hinge"
    "relativistic": True,  # is the clean one more real than the restored, on average, instead of: is this one real
    "learning_rate": 2e-4,  # of the critic, which follows the recipe's schedule
    "start": 0.0,  # share of the schedule after which the critic begins; before, only the recipe's loss counts
    "width": 32,  # of the critic's first layer
    "layers": 3,  # strided ones; each doubles the width
}


class PatchCritic(nn.Module):
    """Says for each place of a picture how real it looks: PatchGAN (Isola et al., 2017) under spectral normalisation
    (Miyato et al., 2018) instead of batch normalisation.  x: [N, C, H, W] in [0, 1]; returns logits [N, 1, h, w]."""

    def __init__(self, channels: int, width: int, layers: int):
        super().__init__()
        widths = [channels, *(width * 2**i for i in range(layers))]
        convs = [nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths)]
        convs += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.Conv2d(widths[-1], 1, 3, padding=1)]
        self.convs = nn.ModuleList(spectral_norm(conv) for conv in convs)

    def forward(self, x: Tensor) -> Tensor:
        y = x - 0.5
        for conv in self.convs[:-1]:
            y = F.leaky_relu(conv(y), 0.2)
        return self.convs[-1](y)


def settings(asked: dict[str, Any]) -> dict[str, Any]:
    """The recipe's settings with the defaults filled in.  Raises ValueError for one that does not fit."""
    unknown = asked.keys() - DEFAULTS.keys()
    if unknown:
        raise ValueError(f"unknown {', '.join(sorted(unknown))}")
    full = DEFAULTS | asked
    numbers = all(isinstance(full[key], int | float) and full[key] > 0 for key in ("weight", "learning_rate"))
    numbers = numbers and isinstance(full["start"], int | float) and 0 <= full["start"] < 1
    counts = all(type(full[key]) is int and full[key] > 0 for key in ("width", "layers"))
    if not (numbers and counts and full["loss"] in ("bce", "hinge") and type(full["relativistic"]) is bool):
        raise ValueError("a value is of the wrong kind or size")
    return full


def critic_loss(real: Tensor, fake: Tensor, loss: str, relativistic: bool) -> Tensor:
    """What the critic minimises.  real, fake: its logits for clean and for restored patches."""
    if relativistic:  # Jolicoeur-Martineau, 2018: each against the other's average
        real, fake = real - fake.mean(), fake - real.mean()
    return _misses(real, loss) + _misses(-fake, loss)


def generator_loss(real: Tensor, fake: Tensor, loss: str, relativistic: bool) -> Tensor:
    """What the generator minimises beside its distance from the clean picture."""
    if relativistic:
        real, fake = real - fake.mean(), fake - real.mean()
        return _misses(fake, loss) + _misses(-real, loss)
    return -fake.mean() if loss == "hinge" else _misses(fake, loss)


def _misses(logits: Tensor, loss: str) -> Tensor:
    """How far logits are from saying yes."""
    return F.relu(1 - logits).mean() if loss == "hinge" else F.softplus(-logits).mean()


class Critic:
    """A PatchCritic with its optimiser, one step at a time."""

    def __init__(self, channels: int, asked: dict[str, Any], team: Team):
        self.settings, self.team = settings(asked), team
        self.module = PatchCritic(channels, self.settings["width"], self.settings["layers"])
        self.module.to(team.device, memory_format=torch.channels_last)
        self.optimiser = torch.optim.Adam(
            self.module.parameters(), lr=self.settings["learning_rate"], betas=(0.5, 0.99), fused=True
        )

    def learn(self, clean: Tensor, restored: Tensor, rate: float) -> None:
        """One step of the critic.  restored: without gradients.  rate: share of the learning rate."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate * self.settings["learning_rate"]
        real, fake = self.module(clean).float(), self.module(restored).float()
        loss = critic_loss(real, fake, self.settings["loss"], self.settings["relativistic"])
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.team.average_gradients(list(self.module.parameters()))
        self.optimiser.step()

    def judge(self, clean: Tensor, restored: Tensor) -> Tensor:
        """The generator's adversarial loss, weighted; the critic itself gets no gradients."""
        self.module.requires_grad_(False)
        with torch.no_grad():
            real = self.module(clean).float()
        fake = self.module(restored).float()
        self.module.requires_grad_(True)
        asked = self.settings
        return asked["weight"] * generator_loss(real, fake, asked["loss"], asked["relativistic"])

    def state(self) -> dict[str, Tensor]:
        """Weights, the vectors of the spectral norm, and the optimiser's moments; none before the first step."""
        if not self.optimiser.state:
            return {}
        tensors = {f"critic/{name}": value.contiguous() for name, value in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            for moment in ("step", "exp_avg", "exp_avg_sq"):
                tensors[f"critic {moment}/{name}"] = self.optimiser.state[parameter][moment].contiguous()
        return tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Takes what state gave out of a training's tensors."""
        if not any(name.startswith("critic/") for name in tensors):
            return
        for name, value in self.module.state_dict().items():
            value.copy_(tensors[f"critic/{name}"])
        for name, parameter in self.module.named_parameters():
            moments = {key: torch.empty_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            for key, moment in moments.items():
                moment.copy_(tensors[f"critic {key}/{name}"])
            self.optimiser.state[parameter] = {"step": tensors[f"critic step/{name}"], **moments}
