"""Training samples: patches of clean pictures, drawn so that step k is the same in every run."""

from fastrestore.data.patches import PatchSampler, load_pictures

__all__ = ["PatchSampler", "load_pictures"]
