"""The architectures: one file each, one line here.  Called, fastrestore.models() lists the named models."""

import sys
from dataclasses import asdict, fields
from types import ModuleType
from typing import Any

from torch import nn

from fastrestore.errors import ModelError
from fastrestore.models.autoencoder import Autoencoder
from fastrestore.models.burst_unet import BurstUNet
from fastrestore.models.dmphn import DMPHN
from fastrestore.models.dncnn import DnCNN
from fastrestore.models.drunet import DRUNet
from fastrestore.models.esdnet import ESDNet
from fastrestore.models.estrnn import ESTRNN
from fastrestore.models.fastdvdnet import FastDVDnet
from fastrestore.models.ffdnet import FFDNet
from fastrestore.models.fusion_unet import FusionUNet
from fastrestore.models.guided_unet import GuidedUNet
from fastrestore.models.mimo_unet import MIMOUNet
from fastrestore.models.nafnet import NAFNet
from fastrestore.models.recurrent_unet import RecurrentUNet
from fastrestore.models.rednet import REDNet
from fastrestore.models.restormer import Restormer
from fastrestore.models.scunet import SCUNet
from fastrestore.models.swinir import SwinIR
from fastrestore.models.unet import UNet

MODELS: dict[str, type[nn.Module]] = {
    "autoencoder": Autoencoder,
    "burst-unet": BurstUNet,
    "dmphn": DMPHN,
    "dncnn": DnCNN,
    "drunet": DRUNet,
    "esdnet": ESDNet,
    "estrnn": ESTRNN,
    "fastdvdnet": FastDVDnet,
    "ffdnet": FFDNet,
    "fusion-unet": FusionUNet,
    "guided-unet": GuidedUNet,
    "mimo-unet": MIMOUNet,
    "nafnet": NAFNet,
    "recurrent-unet": RecurrentUNet,
    "rednet": REDNet,
    "restormer": Restormer,
    "scunet": SCUNet,
    "swinir": SwinIR,
    "unet": UNet,
}

# Bounds of the numbers in a configuration, for what a model file can ask to be built.
MOST_LAYERS = 128  # of the options that count layers:
COUNTS = ("blocks", "decoder_blocks", "depth", "encoder_blocks", "layers", "middle_blocks", "refinement_blocks")
MOST_CHANNELS = 2048  # of all others


def create(architecture: str, variant: str | None = None, /, **config: Any) -> nn.Module:
    """A model of the named architecture with random weights, e.g. create("dncnn", channels=3, depth=20).

    variant: a published configuration by name, e.g. create("nafnet", "gopro-width64"), which `config` changes.
    Raises ModelError for an unknown name, an unknown configuration key, or a value of the wrong kind or size.
    """
    if not isinstance(architecture, str) or architecture not in MODELS:
        raise ModelError(f"unknown architecture {architecture!r}: known are {', '.join(sorted(MODELS))}")
    model = MODELS[architecture]
    known = {f.name: f.default for f in fields(model.Config)}
    unknown = set(config) - set(known)
    if unknown:
        raise ModelError(f"{architecture} has no option {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    if variant is not None:
        published = getattr(model, "variants", {})
        if variant not in published:
            raise ModelError(f"{architecture} has no variant {variant!r:.100}; it has {', '.join(published) or 'none'}")
        config = asdict(published[variant]) | config
    values = {key: _checked(architecture, key, value, known[key]) for key, value in config.items()}
    try:
        return model(model.Config(**values))
    except ValueError as error:
        raise ModelError(f"{architecture}: {error}") from error


def config_of(model: nn.Module) -> dict[str, Any]:
    """The configuration of a model as plain values."""
    return asdict(model.config)


def _checked(architecture: str, key: str, value: Any, default: Any) -> Any:
    """The value, lists made tuples, if it is of its default's kind and within the bounds above."""
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        raise ModelError(f"{architecture}: {key} must be true or false, got {value!r:.100}")
    if isinstance(default, tuple):
        if isinstance(value, list | tuple) and 1 <= len(value) <= 8:
            return tuple(_checked(architecture, key, item, default[0]) for item in value)
        raise ModelError(f"{architecture}: {key} must be a list of 1 to 8 numbers, got {value!r:.100}")
    least = min(default, 1)  # an option that is off by default has 0 for that
    most = MOST_LAYERS if key in COUNTS else MOST_CHANNELS
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ModelError(f"{architecture}: {key} must be a whole number from {least} to {most}, got {value!r:.100}")
    return value


class _Models(ModuleType):
    """This module, which can also be called."""

    def __call__(self) -> list:
        """The named models that ship with fastrestore, as zoo.Entry in name order."""
        from fastrestore import zoo  # at the call: the zoo stands on the models, not they on it

        return zoo.entries()


sys.modules[__name__].__class__ = _Models
