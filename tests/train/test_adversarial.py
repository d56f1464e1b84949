"""The critic: its losses by their definitions, its spectral norms, and that it learns to tell."""

import math

import pytest
import torch

from fastrestore.train.adversarial import Critic, PatchCritic, critic_loss, generator_loss
from fastrestore.train.team import Team


def test_losses_by_definition():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])

    def yes(x):
        return math.log1p(math.exp(-x))

    bce = (yes(2) + yes(-1)) / 2 + (yes(-0.5) + yes(3)) / 2
    assert critic_loss(real, fake, "bce", False).item() == pytest.approx(bce)
    assert generator_loss(real, fake, "bce", False).item() == pytest.approx((yes(0.5) + yes(-3)) / 2)
    assert critic_loss(real, fake, "hinge", False).item() == pytest.approx((0 + 2) / 2 + (1.5 + 0) / 2)
    assert generator_loss(real, fake, "hinge", False).item() == pytest.approx(1.25)
    ahead = [2 + 1.25, -1 + 1.25]  # against the average of the fakes, and of the real ones
    behind = [0.5 - 0.5, -3 - 0.5]
    relative = sum(yes(x) + yes(-y) for x, y in zip(ahead, behind, strict=True)) / 2
    assert critic_loss(real, fake, "bce", True).item() == pytest.approx(relative)
    turned = sum(yes(-x) + yes(y) for x, y in zip(ahead, behind, strict=True)) / 2
    assert generator_loss(real, fake, "bce", True).item() == pytest.approx(turned)


def test_every_layer_has_spectral_norm_one():
    torch.manual_seed(0)
    critic = PatchCritic(3, 8, 2)
    for _ in range(50):
        critic(torch.rand(1, 3, 32, 32))
    for conv in critic.convs:
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


def test_it_judges_patches():
    logits = PatchCritic(3, 4, 3)(torch.rand(2, 3, 64, 48))
    assert logits.shape == (2, 1, 8, 6)


@pytest.mark.parametrize("loss", ["bce", "hinge"])
@pytest.mark.parametrize("relativistic", [False, True])
def test_it_learns_to_tell_and_says_in_which_direction(loss, relativistic):
    torch.manual_seed(0)
    critic = Critic(1, {"loss": loss, "relativistic": relativistic, "width": 8, "learning_rate": 5e-3}, Team())
    for _ in range(60):
        clean = torch.rand(4, 1, 32, 32)
        critic.learn(clean, clean.mean((2, 3), keepdim=True).expand_as(clean), 1.0)
    clean = torch.rand(4, 1, 32, 32)
    flat = torch.full_like(clean, 0.5).requires_grad_()
    assert critic.module(clean).mean() > critic.module(flat).mean() + 0.2
    assert critic.judge(clean, flat) > critic.judge(clean, clean)
    critic.judge(clean, flat).backward()
    assert flat.grad.abs().sum() > 0
    assert all(parameter.requires_grad for parameter in critic.module.parameters())
