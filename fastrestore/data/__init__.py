"""Training samples, drawn so that step k is the same in every run: patches of clean pictures, pairs, clips, bursts."""

from fastrestore.data.clips import ClipSampler
from fastrestore.data.folders import load_pairs
from fastrestore.data.footage import FootageSampler, load_footage
from fastrestore.data.pairs import PairSampler, make_pairs
from fastrestore.data.patches import PatchSampler, load_pictures
from fastrestore.data.sequences import BurstSampler, SequenceSampler, make_sequences

__all__ = [
    "BurstSampler",
    "ClipSampler",
    "FootageSampler",
    "PairSampler",
    "PatchSampler",
    "SequenceSampler",
    "load_footage",
    "load_pairs",
    "load_pictures",
    "make_pairs",
    "make_sequences",
]
