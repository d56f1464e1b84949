"""The named models: the files that ship in fastrestore/weights, each with its card inside.

Names and files are found without torch; what reads a file imports it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastrestore.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = Path(__file__).parent / "weights"
FOREIGN = (".pth", ".pt", ".ckpt")  # suffixes of others' model files
# The model that a task takes when none is named.
DEFAULTS = {"denoise": "denoise-cnn", "demoire": "demoire-cnn", "deblur": "deblur-cnn"}
# Or, for clips, bursts and pictures with a guide, where there is one for them.
OTHERS = {
    ("denoise", "video"): "denoise-rnn",
    ("denoise", "burst"): "denoise-rnn",
    ("denoise", "guided"): "denoise-guided",
    ("demoire", "video"): "demoire-rnn",
    ("demoire", "burst"): "demoire-rnn",
    ("deblur", "video"): "deblur-rnn",
    ("deblur", "burst"): "deblur-burst",
}

# What the figures of a card are of, in words.
SETS = {
    "bsds500_val32": "held pictures",
    "cbsd68": "CBSD68",
    "cc15": "CC",
    "gopro": "GoPro",
    "uhdm_700": "UHDM",
    "fhdmi": "FHDMi",
}
DEGRADED = {"moire": "simulated moiré", "blur": "simulated blur", "pairs": "real pairs"}


@dataclass(frozen=True)
class Entry:
    """One named model, as `fastrestore models` lists it."""

    name: str
    task: str  # denoise, demoire or deblur
    family: str  # cnn, autoencoder, rnn, gan or attention; burst and guided are their own
    input: str  # image, burst, video or guided
    architecture: str
    channels: int
    takes_sigma: bool  # needs a noise level, given or estimated
    card: dict[str, Any]  # measured quality, training, data, licence
    path: Path


def entries() -> list[Entry]:
    """The named models in name order; reads the headers only.  Raises ModelError for a damaged file."""
    return [_entry(path) for path in sorted(WEIGHTS.glob("*.safetensors"))]


def names() -> list[str]:
    """The known names."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def find(name: str) -> Entry:
    """The entry of a name.  Raises ModelError, with the known names, for another."""
    return _entry(_file_of(name))


def quality(card: dict[str, Any]) -> list[str]:
    """The PSNR that a card states, a phrase for each set and kind of degradation."""
    phrases = []
    for name, figures in card.get("psnr", {}).items():
        of = SETS.get(name, name)
        noise = {key: value for key, value in figures.items() if key.isdigit()}
        if noise:
            values = " / ".join(f"{value:.2f}" for value in noise.values())
            phrases.append(f"{values} dB at σ {' / '.join(noise)} ({of})")
        for kind, words in DEGRADED.items():
            if kind in figures:
                phrases.append(f"{words}: {figures[f'{kind} input']:.2f} -> {figures[kind]:.2f} dB ({of})")
    return phrases


def path_of(name_or_path: str | os.PathLike) -> Path:
    """The model file of a name, or the path itself.

    A string is a path if it ends in the suffix of a model file or holds a path separator, otherwise a name.
    Raises ModelError for an unknown name and for a plan file, which has no module.
    """
    text = os.fspath(name_or_path)
    if text.endswith(".frp"):
        raise ModelError(f"{text}: is a plan, not a model file: fastrestore.Plan.load reads it")
    if not isinstance(name_or_path, str) or text.endswith((".safetensors", *FOREIGN)) or "/" in text or os.sep in text:
        return Path(text)
    return _file_of(text)


def load(name_or_path: str | os.PathLike) -> "nn.Module":
    """A named model, or the model of a file, in evaluation mode on the CPU.

    The argument is path_of's.  A .safetensors file is one of ours; .pth, .pt and .ckpt files are foreign.load's.
    Raises ModelError for an unknown name or a refused file, MissingDependency where a foreign one needs spandrel.
    """
    from fastrestore import checkpoint, foreign

    path = path_of(name_or_path)
    return foreign.load(path) if path.suffix in FOREIGN else checkpoint.load(path)


def default(task: str, input: str = "image") -> str:
    """The name of the model that a task takes when none is named.

    input: image, burst, video or guided; a task that has no model of its own for a kind takes its model for pictures.
    Raises ModelError for an unknown task.
    """
    if task not in DEFAULTS:
        raise ModelError(f"no model for task {task!r:.100} yet; there are some for {', '.join(DEFAULTS)}")
    return OTHERS.get((task, input), DEFAULTS[task])


def _file_of(name: str) -> Path:
    if name not in names():
        raise ModelError(f"unknown model {name!r:.100}: known are {', '.join(names()) or 'none'}")
    return WEIGHTS / f"{name}.safetensors"


def _entry(path: Path) -> Entry:
    from fastrestore import checkpoint, models

    described = checkpoint.describe(path)
    kind = models.MODELS.get(described.architecture)
    card = described.card
    missing = [key for key in ("name", "task", "family", "input", "licence") if not isinstance(card.get(key), str)]
    if kind is None or missing or card["name"] != path.stem:
        wrong = ", ".join(missing) or ("architecture" if kind is None else "name")
        raise ModelError(f"{path}: the model's card is not right: {wrong}")
    config = kind.Config(**described.config)
    return Entry(
        name=path.stem,
        task=card["task"],
        family=card["family"],
        input=card["input"],
        architecture=described.architecture,
        channels=config.channels,
        takes_sigma=getattr(config, "sigma", kind.takes_sigma),
        card=card,
        path=path,
    )
