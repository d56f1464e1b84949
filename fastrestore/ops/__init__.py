"""Fused operators of torch.ops.fastrestore, each with fake, autograd and reference."""

from fastrestore.core import _C
from fastrestore.ops.channel_attention import channel_attention
from fastrestore.ops.conv2d import conv2d
from fastrestore.ops.convert import from_pixels, to_pixels
from fastrestore.ops.layer_norm import layer_norm
from fastrestore.ops.local_mean import local_mean
from fastrestore.ops.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from fastrestore.ops.warp import warp
from fastrestore.ops.window_attention import window_attention

__all__ = [
    "_C",
    "channel_attention",
    "conv2d",
    "from_pixels",
    "layer_norm",
    "local_mean",
    "pixel_shuffle",
    "pixel_unshuffle",
    "to_pixels",
    "warp",
    "window_attention",
]
