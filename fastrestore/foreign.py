"""Models of other makers: files whose architecture spandrel recognises from their tensors, run as ours are."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from fastrestore import convert
from fastrestore.errors import MissingDependency, ModelError


class Foreign(nn.Module):
    """forward(x) -> restored x, both [N, C, H, W] in [0, 1]: a model of spandrel's, its padding and scaling included.

    How far it looks is unknown, so pictures are not cut into tiles; it is for restoring, not for training.
    """

    takes_sigma = False
    halo = None
    multiple_of = 1

    def __init__(self, descriptor: Any):
        """descriptor: a spandrel.ImageModelDescriptor.  Raises ModelError for one that changes size or channels."""
        super().__init__()
        self.name = descriptor.architecture.name
        if descriptor.scale != 1 or descriptor.input_channels != descriptor.output_channels:
            raise ModelError(
                f"this {self.name} gives {descriptor.output_channels} channels at {descriptor.scale} times the size "
                f"for {descriptor.input_channels}; only models that keep both can run"
            )
        self.config = SimpleNamespace(channels=descriptor.input_channels)
        self.net = descriptor.model
        self._call = descriptor

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._call(picture) for picture in x.split(1)])  # it takes one picture at a time


def load(path: str | os.PathLike) -> Foreign:
    """The model of a foreign file (.pth, .pt, .ckpt or .safetensors), in evaluation mode on the CPU.

    Nothing in the file is run.  Raises ModelError for a file that holds more than tensors or no network that spandrel
    knows, MissingDependency where it is not installed.
    """
    try:
        from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError, canonicalize_state_dict
    except ImportError as error:
        raise MissingDependency(f"{path}: foreign models need spandrel: pip install 'fastrestore[models]'") from error
    tensors = convert.read(Path(path))
    try:
        descriptor = ModelLoader("cpu").load_from_state_dict(canonicalize_state_dict(tensors))
    except UnsupportedModelError as error:
        raise ModelError(f"{path}: spandrel knows no architecture with these tensors") from error
    except (KeyError, ValueError, RuntimeError, AssertionError) as error:  # it recognised one, and it did not fit
        raise ModelError(f"{path}: not a whole model ({error!s:.200})") from error
    if not isinstance(descriptor, ImageModelDescriptor):
        raise ModelError(f"{path}: a {descriptor.architecture.name} takes more than a picture")
    return Foreign(descriptor).eval()
