"""What two models or more are built from.  Models hold plain torch modules, so that published parameter names
stay; these functions run them, fused where our kernels apply."""

from fastrestore.layers import reach
from fastrestore.layers.fused import chain, conv2d, conv_transpose2d
from fastrestore.layers.norm import ChannelNorm
from fastrestore.layers.padding import pad_to_multiple
from fastrestore.layers.residual import ResidualBlock
from fastrestore.layers.sigma import sigma_map
from fastrestore.layers.state import State, carried
from fastrestore.layers.warp import warp
from fastrestore.layers.windows import window_attention

__all__ = [
    "ChannelNorm",
    "ResidualBlock",
    "State",
    "carried",
    "chain",
    "conv2d",
    "conv_transpose2d",
    "pad_to_multiple",
    "reach",
    "sigma_map",
    "warp",
    "window_attention",
]
