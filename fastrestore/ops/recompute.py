"""Gradients of an operator by way of its reference, computed anew in the backward pass."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients(
    reference: Callable[..., Tensor],
    tensors: Sequence[Tensor | None],
    others: Sequence[object],
    wanted: Sequence[bool],
    grad: Tensor,
) -> list[Tensor | None]:
    """The gradient of reference(*tensors, *others) for each tensor that is wanted, None for the rest."""
    with torch.enable_grad():
        leaves = [
            tensor.detach().requires_grad_(want) if tensor is not None else None
            for tensor, want in zip(tensors, wanted, strict=False)
        ]
        asked = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
        found = iter(torch.autograd.grad(reference(*leaves, *others), asked, grad))
    return [next(found) if leaf is not None and leaf.requires_grad else None for leaf in leaves]
