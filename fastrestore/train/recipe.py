"""A training recipe: one TOML file, one dataclass."""

import os

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from fastrestore.degrade import CLIPS, KINDS
from fastrestore.errors import ModelError
from fastrestore.train.adversarial import settings
from fastrestore.train.losses import LOSSES


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run, and nothing else."""

    name: str  # the named model that results, e.g. "denoise-cnn"
    architecture: str  # a key of fastrestore.models.MODELS
    folders: tuple[str, ...]  # of training pictures; "$DATA" stands for the folder given on the command line
    config: dict[str, Any] = field(default_factory=dict)  # of the architecture
    # A model, by name or file, whose weights the training starts from: of this architecture and configuration, or of
    # one whose weights this one has as well (a UNet's for a recurrent UNet), or, for a UNet, of a guided one, whose
    # guide it does without.  Else random.
    init: str = ""
    patch: int = 64  # side of a training patch in pixels
    batch: int = 16
    steps: int = 20000
    # What the model undoes: {} is white noise, new for each patch.  Others are slower to make than a training step,
    # so pairs are made ahead: { kind = of degrade.KINDS, variants = of each picture, side = of the pairs in pixels };
    # or, for models that fuse, clips and bursts of `frames`: the kind is then of degrade.CLIPS.
    # { kind = "pairs" } takes pairs from the folders, whose names data/folders.py knows, and makes none.
    degradation: dict[str, Any] = field(default_factory=dict)
    sigma: tuple[float, float] = (0.0, 55.0)  # white noise: its level, uniform between these, in 0-255 units
    grey: float = 0.0  # share of grey patches
    mix: float = 0.0  # share of pairs made ahead that get a rectangle of another pair
    frames: int = 0  # of a training clip or burst: moving parts of the pictures; 0: still pictures
    footage: bool = False  # the folders hold films, and folders of frames or shots, instead of still pictures
    truncate: int = 0  # frames of a clip through which gradients go back; 0: all
    judged: int = 1  # one frame in so many is restored; the model only watches the others, which costs less
    learning_rate: float = 1e-3  # Adam's, warmed up linearly, then one cosine down to 1 % of it
    fresh: float = 1.0  # factor of the rate for the weights that init does not hold
    warmup: int = 200  # steps
    clip: float = 0.5  # of the gradient's norm
    ema: float = 0.999  # decay of the averaged weights, which are what is saved
    # One of train/losses.py, or several with their weights, like { l1 = 1.0, fft = 0.05 }; l2's optimum is PSNR's own
    loss: str | dict = "l1"
    # Adversarial training beside the loss, where given: what differs from train/adversarial.py's DEFAULTS, like
    # { weight = 0.005, loss = "hinge" }.
    adversarial: dict[str, Any] | None = None
    precision: str = "bfloat16"  # of the autocast region, or "float32"
    seed: int = 0
    save_every: int = 1000  # steps between resumable states
    # Where above 0 the schedule is cut short so that it ends after so long, resumptions counted together.  Such a run
    # can be resumed as well, but its weights depend on the machine's speed.
    budget_minutes: float = 0.0
    # A folder of held pictures, like folders: some of them are restored at every saved state, measured, and shown in
    # the state's validation.png; "": none.
    validation: str = ""
    tensorboard: bool = False  # losses, rates and the held pictures, for TensorBoard, in the state's tensorboard/
    licence: str = ""  # of the training data, for the card

    def __post_init__(self):
        low, high = self.sigma
        checks = {
            "steps": self.steps > 0,
            "batch": self.batch > 0,
            "patch": self.patch > 0,
            "sigma": 0 <= low <= high,
            "grey": 0 <= self.grey <= 1,
            "mix": 0 <= self.mix <= (1 if self.degradation else 0),
            "fresh": self.fresh > 0,
            "judged": self.judged > 0,
            "frames": self.frames == 0 or self.frames > 1,
            "footage": self.frames > 1 or not self.footage,
            "truncate": 0 <= self.truncate <= self.frames,
            "degradation": not self.degradation or self._degradation_fits(),
            "loss": self.losses
            and self.losses.keys() <= LOSSES.keys()
            and all(_is_positive(weight) for weight in self.losses.values()),
            "adversarial": self.adversarial is None or _settings_fit(self.adversarial),
            "budget_minutes": self.budget_minutes >= 0,
            "precision": self.precision in ("bfloat16", "float32"),
            "save_every": self.save_every > 0,
        }
        wrong = [name for name, fine in checks.items() if not fine]
        if wrong:
            raise ModelError(f"recipe: out of range: {', '.join(wrong)}")

    @property
    def losses(self) -> dict[str, float]:
        """The loss's parts and their weights."""
        return {self.loss: 1.0} if isinstance(self.loss, str) else self.loss

    @property
    def is_pairs(self) -> bool:
        """Whether the folders hold degraded and clean pictures."""
        return self.degradation.get("kind") == "pairs"

    def _degradation_fits(self) -> bool:
        asked = self.degradation
        if self.is_pairs:
            return asked.keys() == {"kind"} and not self.frames
        counts = [asked.get("variants"), asked.get("side")]
        return (
            asked.keys() == {"kind", "variants", "side"}
            and asked["kind"] in (CLIPS if self.frames else KINDS)
            and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in counts)
            and asked["side"] >= self.patch
        )


def _settings_fit(asked: dict[str, Any]) -> bool:
    try:
        return bool(settings(asked))
    except ValueError as error:
        raise ModelError(f"recipe: adversarial: {error}") from error


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def load_recipe(path: Path) -> Recipe:
    """Reads a recipe.  Raises ModelError for an unknown or missing key or a value of the wrong type."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"{path}: {error}") from error
    known = {f.name: f for f in fields(Recipe)}
    unknown = set(table) - set(known)
    if unknown:
        raise ModelError(f"{path}: unknown key {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    if "config" in values:
        values["config"] = {k: tuple(v) if isinstance(v, list) else v for k, v in values["config"].items()}
    for key, value in values.items():
        if not _fits(value, known[key].type):
            raise ModelError(f"{path}: {key} must be {known[key].type}, got {value!r:.100}")
    try:
        return Recipe(**values)
    except TypeError as error:
        raise ModelError(f"{path}: {error}") from error


def _fits(value: Any, kind: Any) -> bool:
    """Whether a TOML value, lists made tuples, is of a field's type; whole numbers do for floats."""
    origin, items = get_origin(kind) or kind, get_args(kind)
    if origin is UnionType:
        return any(_fits(value, item) for item in items)
    if origin is tuple:
        if not isinstance(value, tuple) or (items[-1] is not ... and len(value) != len(items)):
            return False
        return all(_fits(item, items[0]) for item in value)
    if isinstance(value, bool):
        return origin is bool
    return isinstance(value, (int, float) if origin is float else origin)


def data_folder(folder: str, data: Path | None) -> Path:
    """A recipe's folder with $DATA filled in.  Raises ModelError for one that does not exist."""
    if "$DATA" in folder:
        base = data or (Path(os.environ["FASTRESTORE_DATA"]) if "FASTRESTORE_DATA" in os.environ else None)
        if base is None:
            raise ModelError("the recipe needs a data folder: pass --data or set FASTRESTORE_DATA")
        folder = folder.replace("$DATA", str(base))
    if not Path(folder).is_dir():
        raise ModelError(f"training folder {folder} does not exist")
    return Path(folder)


def data_folders(recipe: Recipe, data: Path | None) -> list[Path]:
    """The recipe's folders of training pictures, by data_folder."""
    return [data_folder(folder, data) for folder in recipe.folders]
