"""Fused operators of torch.ops.fastrestore, each with fake, autograd and reference.

torch is imported before _C on purpose: both may load an OpenMP runtime of the same name, and the first one
loaded serves both; it should be the one that torch was built with.
"""

import torch  # noqa: F401  (see above)

from fastrestore.errors import MissingDependency

try:
    from fastrestore import _C
except ImportError as error:
    raise MissingDependency(
        f"the compiled core fastrestore._C cannot be loaded ({error}): build it with `pip install .`, or with "
        "`python setup.py build_ext --inplace` in a source tree; it needs a C++17 compiler"
    ) from error

from fastrestore.ops.channel_attention import channel_attention
from fastrestore.ops.conv2d import conv2d
from fastrestore.ops.convert import from_pixels, to_pixels
from fastrestore.ops.layer_norm import layer_norm
from fastrestore.ops.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from fastrestore.ops.warp import warp
from fastrestore.ops.window_attention import window_attention

__all__ = [
    "_C",
    "channel_attention",
    "conv2d",
    "from_pixels",
    "layer_norm",
    "pixel_shuffle",
    "pixel_unshuffle",
    "to_pixels",
    "warp",
    "window_attention",
]
