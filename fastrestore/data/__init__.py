"""Training samples, drawn so that step k is the same in every run: patches of clean pictures, pairs, clips, bursts."""

from fastrestore.data.clips import ClipSampler
from fastrestore.data.pairs import PairSampler, make_pairs
from fastrestore.data.patches import PatchSampler, load_pictures
from fastrestore.data.sequences import BurstSampler, SequenceSampler, make_sequences

__all__ = [
    "BurstSampler",
    "ClipSampler",
    "PairSampler",
    "PatchSampler",
    "SequenceSampler",
    "load_pictures",
    "make_pairs",
    "make_sequences",
]
