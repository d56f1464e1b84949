"""A narrower autoencoder out of a trained one, to train on from: of each set of channels the strongest stay."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastrestore.errors import ModelError
from fastrestore.models.autoencoder import Autoencoder

Axis = tuple[str, int]  # a tensor's name and which of its axes holds the channels


def narrowed(wide: Autoencoder, narrow: Autoencoder) -> dict[str, Tensor]:
    """Weights for narrow, cut out of wide's.

    A channel is as strong as the product of its norms over the tensors that hold it: what is never written or never
    read goes first.  Raises ModelError where narrow is not wide with fewer channels.
    """
    weights = wide.state_dict()
    wanted = narrow.state_dict()
    if not isinstance(wide, Autoencoder) or weights.keys() != wanted.keys():
        raise ModelError("only an autoencoder of as many levels and blocks can be narrowed")
    for axes in _channels(wide):
        name, axis = axes[0]
        size, keep = weights[name].shape[axis], wanted[name].shape[axis]
        if keep > size:
            raise ModelError(f"{name} has {size} channels, the narrower model {keep}")
        norms = [
            weights[name].transpose(0, axis).flatten(1).norm(dim=1).log() for name, axis in axes if "weight" in name
        ]
        strongest = torch.stack(norms).sum(0).topk(keep).indices.sort().values
        for name, axis in axes:
            weights[name] = weights[name].index_select(axis, strongest)
    return weights


def _channels(model: Autoencoder) -> Iterator[list[Axis]]:
    """Every set of channels between two layers of the autoencoder, as the axes that hold it."""
    for level, encoder in enumerate(model.encoders):
        stream = [(f"downs.{level}.weight", 0), (f"downs.{level}.bias", 0), (f"ups.{level}.weight", 0)]
        if level + 1 < len(model.encoders):
            below = level + 1
            stream += [(f"downs.{below}.weight", 1), (f"ups.{below}.weight", 1), (f"ups.{below}.bias", 0)]
        for side in ("encoders", "decoders"):
            for block in range(len(encoder)):
                path = f"{side}.{level}.{block}"
                stream += [(f"{path}.conv1.weight", 1), (f"{path}.conv2.weight", 0), (f"{path}.conv2.bias", 0)]
                yield [(f"{path}.conv1.weight", 0), (f"{path}.conv1.bias", 0), (f"{path}.conv2.weight", 1)]
        yield stream
