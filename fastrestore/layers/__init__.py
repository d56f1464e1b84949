"""What two models or more are built from.  Models hold plain torch modules, so that published parameter names
stay; these functions run them, fused where our kernels apply."""

from fastrestore.layers.fused import chain, conv2d, conv_transpose2d
from fastrestore.layers.padding import pad_to_multiple
from fastrestore.layers.residual import ResidualBlock
from fastrestore.layers.sigma import sigma_map

__all__ = ["ResidualBlock", "chain", "conv2d", "conv_transpose2d", "pad_to_multiple", "sigma_map"]
