"""Runs plain torch layers through the fused operators when those apply.

The fused path is taken for float32 tensors on the CPU outside of training and autocast: our kernels are the
faster there.  Training and autocast take torch's own layers, whose bfloat16 backward pass ours do not have.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore import ops


def _fused(layer: nn.Module, x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and layer.weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and getattr(layer, "padding_mode", "zeros") == "zeros"
    )


def _activate(x: Tensor, activation: str, slope: float) -> Tensor:
    if activation == "relu":
        return F.relu(x)
    return F.leaky_relu(x, slope) if activation == "leaky_relu" else x


def conv2d(
    layer: nn.Conv2d,
    x: Tensor,
    *,
    activation: str = "none",
    slope: float = 0.0,
    scale: float = 1.0,
    residual: Tensor | None = None,
    residual_first: bool = False,
) -> Tensor:
    """act(layer(x) [+ residual]) * scale [+ residual].  x: [N, C, H, W]; the arguments are ops.conv2d's."""
    if _fused(layer, x):
        return ops.conv2d(
            x,
            layer.weight,
            layer.bias,
            residual,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            activation=activation,
            slope=slope,
            scale=scale,
            residual_first=residual_first,
        )
    y = layer(x)
    if residual is not None and residual_first:
        y = y + residual
    y = _activate(y, activation, slope)
    if scale != 1.0:
        y = y * scale
    return y if residual is None or residual_first else y + residual


def conv_transpose2d(
    layer: nn.ConvTranspose2d,
    x: Tensor,
    *,
    activation: str = "none",
    residual: Tensor | None = None,
    residual_first: bool = False,
) -> Tensor:
    """Transposed convolution, then residual and activation as in conv2d."""
    y = layer(x)
    if residual is not None and residual_first:
        y = y + residual
    y = _activate(y, activation, 0.0)
    return y if residual is None or residual_first else y + residual


def chain(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Runs layers in order (a Sequential, say), each convolution fused with the ReLU or leaky ReLU after it."""
    pending: nn.Conv2d | None = None
    for layer in layers:
        if pending is not None:
            if isinstance(layer, nn.ReLU):
                x, pending = conv2d(pending, x, activation="relu"), None
                continue
            if isinstance(layer, nn.LeakyReLU):
                x, pending = conv2d(pending, x, activation="leaky_relu", slope=layer.negative_slope), None
                continue
            x, pending = conv2d(pending, x), None
        if type(layer) is nn.Conv2d:
            pending = layer
        else:
            x = layer(x)
    return x if pending is None else conv2d(pending, x)
