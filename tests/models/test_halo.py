"""Each model's own statement of its halo is enough and tight, by probing."""

import pytest
import torch
from torch import nn

from fastrestore import models

# Narrow versions: the halo does not depend on the widths.
CASES = [
    ("autoencoder", {"widths": (2, 3), "blocks": 2}),
    ("autoencoder", {"widths": (2, 2, 3), "blocks": 3}),
    ("dncnn", {"width": 2, "depth": 5}),
    ("dncnn", {"width": 2, "depth": 17}),
    ("drunet", {"widths": (2, 2, 2, 2), "blocks": 1}),
    ("drunet", {"widths": (2, 2, 2, 2), "blocks": 4}),
    ("fastdvdnet", {"width": 2, "frame_width": 1}),
    ("ffdnet", {"width": 3, "depth": 4}),
    ("ffdnet", {"width": 3, "depth": 15}),
    ("mimo-unet", {"width": 4, "blocks": 1}),
    ("mimo-unet", {"width": 4, "blocks": 3}),
    ("rednet", {"width": 2, "layers": 5, "skips": False}),
    ("rednet", {"width": 2, "layers": 5}),
    ("rednet", {"width": 2, "layers": 10}),
    ("rednet", {"width": 2, "layers": 15}),
    ("scunet", {"width": 4, "head_width": 1, "window": 2, "blocks": (2, 1, 2, 1, 1, 1, 2)}),
    ("scunet", {"width": 4, "head_width": 1, "window": 4, "blocks": (1, 1, 1, 2, 1, 1, 1)}),
    ("swinir", {"width": 4, "heads": (1,), "blocks": (1,), "window": 4}),
    ("swinir", {"width": 4, "heads": (1, 2, 1), "blocks": (2, 3, 2), "window": 8}),
    ("swinir", {"width": 4, "heads": (1, 1), "blocks": (2, 2), "window": 7}),
    ("unet", {"widths": (3,), "blocks": 1}),
    ("unet", {"widths": (2, 3), "blocks": 1}),
    ("unet", {"widths": (2, 2, 3), "blocks": 2}),
    ("unet", {"widths": (2, 3), "blocks": 1, "sigma": False, "gain": True}),
    ("unet", {"widths": (2, 2), "blocks": 1, "window": 4, "head_width": 1}),
    ("unet", {"widths": (2, 2, 2), "blocks": 3, "sigma": False, "window": 2, "head_width": 2}),
]


@pytest.mark.parametrize(("name", "config"), CASES, ids=str)
@pytest.mark.parametrize("axis", [2, 3], ids=["rows", "columns"])
def test_halo_is_enough_and_tight(name, config, axis):
    """The gradient of one output pixel reaches exactly the halo, over the positions of one period.

    Positive weights and input keep every ReLU open and forbid cancellation, so the support is the whole reach.
    """
    model = models.create(name, channels=1, **config).double().eval()
    _make_positive(model)
    period, halo = model.multiple_of, model.halo
    start = -(-(halo + 1) // period) * period  # far enough from the near edge to see one pixel too many
    shape = [1, 1, period, period]
    shape[axis] = 2 * start + 2 * period
    before, after = 0, 0
    for position in range(start, start + period):
        x = torch.rand(shape, dtype=torch.float64).requires_grad_()
        y = model(x, 25.0) if model.takes_sigma else model(x)
        y.select(axis, position).sum().backward()
        reached = x.grad.abs().sum([d for d in range(4) if d != axis]).nonzero()
        before = max(before, position - int(reached.min()))
        after = max(after, int(reached.max()) - position)
    assert max(before, after) == halo  # a strided grid may look further one way


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("dmphn", {"width": 2}),
        ("estrnn", {"width": 2, "blocks": 1, "past": 1, "future": 1}),
        ("esdnet", {"encoder_width": 4, "decoder_width": 4, "growth": 2}),
        ("nafnet", {"width": 2, "encoder_blocks": (1, 1), "middle_blocks": 1, "decoder_blocks": (1, 1)}),
        ("restormer", {"width": 4, "blocks": (1, 1, 1, 1), "refinement_blocks": 1, "heads": (1, 1, 1, 1)}),
    ],
    ids=str,
)
def test_a_model_without_a_halo_sees_the_whole_picture(name, config):
    model = models.create(name, channels=1, **config).double()
    assert model.halo is None
    _make_positive(model)
    x = torch.rand(1, 1, 64, 96, dtype=torch.float64).requires_grad_()
    model(x)[0, 0, 30, 50].backward()
    assert (x.grad[0, 0, ::63, ::95] != 0).all()


def _make_positive(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter[0].numel() if parameter.dim() > 1 else 10
            parameter.copy_(torch.rand_like(parameter) / scale + 0.01 / scale)
