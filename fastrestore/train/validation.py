"""Held pictures, measured and shown while a training runs."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from fastrestore import degrade, metrics
from fastrestore.data import load_pairs, load_pictures
from fastrestore.files import whole_file
from fastrestore.train.recipe import Recipe, data_folder

COUNT = 6  # pictures, the first by name
SHEET = "validation.png"  # in the folder of the state
SIDE = 192  # of their middles, in pixels: the time is taken from the training


@dataclass(frozen=True)
class Validated:
    """Means over the held pictures, in dB and as SSIM."""

    psnr: float
    input_psnr: float
    ssim: float
    input_ssim: float


class Validation:
    """The middles of held pictures, degraded once as the recipe degrades, with the picture's number as their seed."""

    def __init__(self, recipe: Recipe, data: Path | None, state: Path):
        """state: the folder where SHEET shows them, written anew each time.  Raises ImageError where no picture is
        left."""
        self.sigma = sum(recipe.sigma) / 2  # white noise: the middle of the recipe's levels
        self.sheet = state / SHEET
        load = load_pairs if recipe.is_pairs else load_pictures
        pictures, _ = load([data_folder(recipe.validation, data)], SIDE)
        self.pairs = [self._pair(recipe, picture, seed) for seed, picture in enumerate(pictures[:COUNT])]

    def _pair(self, recipe: Recipe, picture: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Degraded and clean, float32 [SIDE, SIDE, 3].  picture: uint8 [H, W, 3], or the pair [2, H, W, 3]."""
        top, left = ((size - SIDE) // 2 for size in picture.shape[-3:-1])
        part = picture[..., top : top + SIDE, left : left + SIDE, :].astype(np.float32) / 255
        if recipe.is_pairs:
            return part[0], part[1]
        if not recipe.degradation:
            return degrade.noise(part, self.sigma, seed=seed).astype(np.float32), part
        made = degrade.KINDS[recipe.degradation["kind"]](part, seed=seed)
        return made.image, made.clean

    def __call__(self, model: nn.Module, weights: dict[str, Tensor]) -> Validated:
        """Restores them with these weights and writes the sheet: rows of degraded, restored and clean."""
        rows, figures = [], []
        device = next(model.parameters()).device
        for degraded, clean in self.pairs:
            x = torch.from_numpy(degraded).permute(2, 0, 1)[None].to(device)
            inputs = (x, self.sigma) if model.takes_sigma else (x,)
            with torch.no_grad():
                restored = torch.func.functional_call(model, weights, inputs)
            row = [_to_bytes(part) for part in (degraded, restored[0].permute(1, 2, 0).float().cpu().numpy(), clean)]
            rows.append(np.concatenate(row, 1))
            figures.append([measure(part, row[2]) for measure in (metrics.psnr, metrics.ssim) for part in row[1::-1]])
        _, content = cv2.imencode(".png", np.concatenate(rows)[..., ::-1])
        with whole_file(self.sheet) as file:
            file.write(content.tobytes())
        return Validated(*np.mean(figures, axis=0).tolist())


def _to_bytes(picture: np.ndarray) -> np.ndarray:
    return np.rint(picture.clip(0, 1) * 255).astype(np.uint8)
