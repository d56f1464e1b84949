"""What two models or more are built from.  Models hold plain torch modules, so that published parameter names
stay; these functions run them, fused where our kernels apply."""

from fastrestore.layers import reach
from fastrestore.layers.follow import follow
from fastrestore.layers.fused import chain, channel_attention, conv2d, conv_transpose2d, layer_norm, window_attention
from fastrestore.layers.norm import ChannelNorm
from fastrestore.layers.padding import pad_to_multiple
from fastrestore.layers.recurrent import ConvGRU, ConvLSTM
from fastrestore.layers.residual import ResidualBlock
from fastrestore.layers.sigma import sigma_map
from fastrestore.layers.state import State, carried

__all__ = [
    "ChannelNorm",
    "ConvGRU",
    "ConvLSTM",
    "ResidualBlock",
    "State",
    "carried",
    "chain",
    "channel_attention",
    "conv2d",
    "conv_transpose2d",
    "follow",
    "layer_norm",
    "pad_to_multiple",
    "reach",
    "sigma_map",
    "window_attention",
]
