"""Runs plain torch layers and functions through our operators when those apply.

The fused path is taken for float32 tensors on the CPU, and for float16 and bfloat16 on a GPU, outside of training and
autocast.  Training and autocast take torch's own layers, whose bfloat16 backward pass ours do not have.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore import ops
from fastrestore.ops import dispatch
from fastrestore.ops.channel_attention import reference as channel_attention_reference
from fastrestore.ops.layer_norm import reference as layer_norm_reference
from fastrestore.ops.window_attention import reference as window_attention_reference


def _apply(*tensors: Tensor) -> bool:
    """Whether our kernels apply to these."""
    served = {"cpu": (torch.float32,), "cuda": dispatch.HALVES}
    device, dtype = tensors[0].device.type, tensors[0].dtype
    return (
        all(tensor.device.type == device and tensor.dtype == dtype for tensor in tensors)
        and dtype in served.get(device, ())
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled(device)
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
    if _apply(x, layer.weight) and layer.padding_mode == "zeros":
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


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool = True) -> Tensor:
    """ops.layer_norm.  x: [N, C, H, W]."""
    run = ops.layer_norm if _apply(x, weight) else layer_norm_reference
    return run(x, weight, bias, eps, centred)


def window_attention(qkv: Tensor, bias: Tensor, side: int, shift: int) -> Tensor:
    """ops.window_attention.  qkv: [N, H, W, 3 C]."""
    run = ops.window_attention if _apply(qkv, bias) else window_attention_reference
    return run(qkv, bias, side, shift)


def channel_attention(qkv: Tensor, temperature: Tensor) -> Tensor:
    """ops.channel_attention.  qkv: [N, 3 C, H, W]."""
    run = ops.channel_attention if _apply(qkv, temperature) else channel_attention_reference
    return run(qkv, temperature)
