"""PyTorch module -> graph of fused operators, by torch.export.

The module is traced at one small size; since every operator here is local, the graph holds for every size.
Covered: convolution and transposed convolution that keep the size or divide or multiply it exactly, batch norm
after a convolution, ReLU, leaky ReLU, sum, difference, scaling by a constant, concat over channels, pixel shuffle
and unshuffle, and a plane filled from sigma.  Each fusion needs that nobody else reads the intermediate result.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastrestore.errors import UnsupportedOperator
from fastrestore.ops import _C


def lower(module: nn.Module) -> "_C.Graph":
    """The module's graph.  Raises UnsupportedOperator, naming the operator and the path of its module."""
    multiple = getattr(module, "multiple_of", 1)
    channels = getattr(getattr(module, "config", None), "channels", 3)
    side = multiple * -(-16 // multiple)  # a multiple, so that padding and cropping inside the module vanish
    arguments: tuple[Tensor, ...] = (torch.zeros(1, channels, side, side),)
    if getattr(module, "takes_sigma", False):
        arguments += (torch.ones(1),)
    training = module.training
    with torch.no_grad():
        program = torch.export.export(module.eval(), arguments, strict=False)
    module.train(training)
    try:
        return _emit(_Walk(program, channels).records)
    except ValueError as error:  # of the graph's own checks
        raise UnsupportedOperator(str(error)) from error


@dataclass(eq=False)
class _Record:
    """One node of the graph to be: the method of _C.Graph, the records it reads, its other arguments."""

    method: str
    inputs: list["_Record"] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    residual: "_Record | None" = None


@dataclass(frozen=True)
class _Sigma:
    """sigma * scale, not yet spread over an image."""

    scale: float


class _Walk:
    def __init__(self, program: torch.export.ExportedProgram, channels: int):
        signature = program.graph_signature
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        names |= signature.inputs_to_lifted_tensor_constants
        state = {**program.state_dict, **program.constants}
        self.values: dict[str, Any] = {}
        self.image_of_side: dict[int, _Record] = {}  # any image of this height, to take a plane's size from
        self.records: list[_Record] = []
        for node in program.graph.nodes:
            if node.op == "placeholder":
                if node.name in names:
                    value = state[names[node.name]].detach()
                elif node.name == signature.user_inputs[0]:
                    value = self.add("input", channels=channels)
                else:
                    value = _Sigma(1.0)
            elif node.op == "output":
                value = self.values[node.args[0][0].name]
                if not isinstance(value, _Record):
                    raise UnsupportedOperator("the module's result is not an image")
                self.records.append(_Record("set_output", [value]))
            else:
                value = self.call(node)
            self.values[node.name] = value
            if isinstance(value, _Record) and node.op != "output":
                self.image_of_side.setdefault(node.meta["val"].shape[2], value)

    def add(self, method: str, *inputs: _Record, residual: _Record | None = None, **arguments: Any) -> _Record:
        self.records.append(_Record(method, list(inputs), arguments, residual))
        return self.records[-1]

    def call(self, node: torch.fx.Node) -> Any:
        handler = _HANDLERS.get(str(node.target).removesuffix(".default"))
        if handler is None:
            raise _unsupported(node)
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: self.values[n.name])
        try:
            return handler(self, node, *args, **kwargs)
        except ValueError as error:
            raise _unsupported(node, str(error)) from error

    def epilogue_of(self, node: torch.fx.Node, position: int) -> _Record | None:
        """The convolution that makes argument `position`, if its epilogue may still take something in."""
        source = node.args[position]
        record = self.values[source.name] if isinstance(source, torch.fx.Node) else None
        if isinstance(record, _Record) and record.method in ("conv2d", "conv_transpose2d") and len(source.users) == 1:
            return record
        return None


def _unsupported(node: torch.fx.Node, why: str = "") -> UnsupportedOperator:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = f" in {stack[-1][0]}" if stack and stack[-1][0] else ""
    return UnsupportedOperator(f"{node.target}{path} has no plan" + (f": {why}" if why else ""))


def _emit(records: list[_Record]) -> "_C.Graph":
    graph = _C.Graph()
    used: set[int] = set()
    for record in reversed(records):  # what nothing reads is left out
        if record.method in ("set_output", "input") or id(record) in used:
            used |= {id(r) for r in [*record.inputs, *([record.residual] if record.residual else [])]}
            used.add(id(record))
    number: dict[int, int] = {}
    for record in records:
        if id(record) not in used:
            continue
        inputs = [number[id(r)] for r in record.inputs]
        arguments = dict(record.arguments)
        if record.method in ("conv2d", "conv_transpose2d"):
            arguments["residual"] = number[id(record.residual)] if record.residual else -1
        method = getattr(graph, record.method)
        number[id(record)] = method(inputs, **arguments) if record.method == "concat" else method(*inputs, **arguments)
    return graph


def _array(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else np.ascontiguousarray(tensor.detach().numpy(), np.float32)


def _two(value: int | list[int]) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * 2 if len(values) == 1 else values


def _one(value: int | list[int]) -> int:
    first, second = _two(value)
    if first != second:
        raise ValueError(f"different values for height and width: {first} and {second}")
    return first


_PLAIN = {"activation": "none", "slope": 0.0, "scale": 1.0, "residual_first": False}


def _image(value: Any) -> _Record:
    if not isinstance(value, _Record):
        raise ValueError("an operand is not an image")
    return value


def _constant(value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if not isinstance(value, (int, float)):
        raise ValueError("a factor is not a constant number")
    return float(value)


def _conv2d(walk, node, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, **epilogue):
    stride, dilation = _one(stride), _one(dilation)
    sides = tuple(dilation * (side - 1) + 1 for side in weight.shape[2:])
    if padding == "same":
        padding = [(side - 1) // 2 for side in sides]
    top, left = _two(0 if padding == "valid" else padding)
    for pad, side in ((top, sides[0]), (left, sides[1])):
        if not -stride <= 2 * pad - side < 0:
            raise ValueError(f"a padding of {pad} does not keep the image's size, or divide it by the stride")
    return walk.add(
        "conv2d",
        _image(x),
        weight=_array(weight),
        bias=_array(bias),
        stride=stride,
        padding=(top, left),
        dilation=dilation,
        groups=groups,
        **(_PLAIN | epilogue),
    )


def _fused_conv2d(
    walk,
    node,
    x,
    weight,
    bias,
    residual,
    stride,
    padding,
    dilation,
    groups,
    activation,
    slope,
    scale,
    residual_first,
    _,
):
    epilogue = {"activation": activation, "slope": slope, "scale": scale, "residual_first": residual_first}
    record = _conv2d(walk, node, x, weight, bias, stride, padding, dilation, groups, **epilogue)
    record.residual = residual
    return record


def _conv_transpose2d(walk, node, x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    stride, (top, left), extra = _one(stride), _two(padding), _one(output_padding)
    if groups != 1 or _one(dilation) != 1:
        raise ValueError("groups and dilation are not supported")
    for pad, side in ((top, weight.shape[2]), (left, weight.shape[3])):
        if side + extra - stride - 2 * pad != 0:
            raise ValueError(f"does not multiply the image's size by its stride of {stride}")
    return walk.add(
        "conv_transpose2d",
        _image(x),
        weight=_array(weight),
        bias=_array(bias),
        stride=stride,
        padding=(top, left),
        **_PLAIN,
    )


def _batch_norm(walk, node, x, weight, bias, mean, variance, training, momentum, eps, *_):
    conv = walk.epilogue_of(node, 0)
    if training or conv is None or conv.method != "conv2d" or conv.residual or not _is_plain(conv):
        raise ValueError("batch norm is supported in evaluation mode, right after a convolution")
    gain = 1 / torch.sqrt(variance.double() + eps)
    gain = gain if weight is None else gain * weight.double()
    shift = -mean.double() * gain + (0 if bias is None else bias.double())
    arguments = conv.arguments
    if arguments["bias"] is not None:
        shift = shift + torch.from_numpy(arguments["bias"]).double() * gain
    arguments["weight"] = _array(torch.from_numpy(arguments["weight"]).double() * gain[:, None, None, None])
    arguments["bias"] = _array(shift)
    return conv


def _is_plain(conv: _Record) -> bool:
    return conv.arguments["activation"] == "none" and conv.arguments["scale"] == 1.0


def _relu(walk, node, x):
    return _activate(walk, node, "relu", 0.0)


def _leaky_relu(walk, node, x, negative_slope=0.01):
    return _activate(walk, node, "leaky_relu", negative_slope)


def _activate(walk, node, activation, slope):
    conv = walk.epilogue_of(node, 0)
    if conv is None or not _is_plain(conv):
        raise ValueError("an activation is supported right after a convolution")
    conv.arguments |= {"activation": activation, "slope": slope, "residual_first": conv.residual is not None}
    return conv


def _add(walk, node, a, b, alpha=1):
    return _sum(walk, node, a, b, 1.0, float(alpha))


def _sub(walk, node, a, b, alpha=1):
    return _sum(walk, node, a, b, 1.0, -float(alpha))


def _sum(walk, node, a, b, scale_a, scale_b):
    """scale_a * a + scale_b * b, as the residual of the convolution that makes one of them where possible."""
    a, b = _image(a), _image(b)
    for position, other, scale, other_scale in ((0, b, scale_a, scale_b), (1, a, scale_b, scale_a)):
        conv = walk.epilogue_of(node, position)
        if conv is None or conv.residual or other_scale != 1.0 or other is conv:
            continue
        if walk.records.index(other) < walk.records.index(conv):
            conv.arguments["scale"] *= scale
            conv.residual = other
            return conv
    return walk.add("add", a, b, scale_a=scale_a, scale_b=scale_b)


def _mul(walk, node, a, b):
    if isinstance(a, _Sigma):
        return _Sigma(a.scale * _constant(b))
    conv = walk.epilogue_of(node, 0)
    if conv is not None and conv.residual is None:
        conv.arguments["scale"] *= _constant(b)
        return conv
    return walk.add("add", _image(a), a, scale_a=_constant(b) / 2, scale_b=_constant(b) / 2)


def _div(walk, node, a, b):
    return _mul(walk, node, a, 1 / _constant(b))


def _cat(walk, node, parts, dim=0):
    if dim not in (1, -3):
        raise ValueError("only channels can be joined")
    return walk.add("concat", *[_image(part) for part in parts])


def _pixel_shuffle(walk, node, x, factor):
    return walk.add("pixel_shuffle", _image(x), factor=factor)


def _pixel_unshuffle(walk, node, x, factor):
    return walk.add("pixel_unshuffle", _image(x), factor=factor)


def _expand(walk, node, x, *_, **__):
    if not isinstance(x, _Sigma):
        return _same(walk, node, x)
    shape = node.meta["val"].shape
    if len(shape) != 4 or shape[1] != 1 or shape[2] not in walk.image_of_side:
        raise ValueError(f"sigma is spread to the shape {tuple(shape)}, which is no plane of an image here")
    return walk.add("sigma_plane", walk.image_of_side[shape[2]], scale=x.scale)


def _same(walk, node, x, *_, **__):
    """Operators that change nothing here: copies, views of sigma, crops to the full size."""
    before, after = node.args[0].meta["val"].shape, node.meta["val"].shape
    if not isinstance(x, _Sigma) and before != after:
        raise ValueError(f"changes the shape from {tuple(before)} to {tuple(after)}")
    return x


def _nothing(walk, node, *_, **__):
    return None


_HANDLERS = {
    "aten.conv2d": _conv2d,
    "aten.conv2d.padding": _conv2d,
    "aten.conv_transpose2d.input": _conv_transpose2d,
    "fastrestore.conv2d": _fused_conv2d,
    "fastrestore.pixel_shuffle": _pixel_shuffle,
    "fastrestore.pixel_unshuffle": _pixel_unshuffle,
    "aten.batch_norm": _batch_norm,
    "aten.relu": _relu,
    "aten.relu_": _relu,
    "aten.leaky_relu": _leaky_relu,
    "aten.leaky_relu_": _leaky_relu,
    "aten.add.Tensor": _add,
    "aten.add_.Tensor": _add,
    "aten.sub.Tensor": _sub,
    "aten.sub_.Tensor": _sub,
    "aten.mul.Tensor": _mul,
    "aten.div.Tensor": _div,
    "aten.cat": _cat,
    "aten.pixel_shuffle": _pixel_shuffle,
    "aten.pixel_unshuffle": _pixel_unshuffle,
    "aten.expand": _expand,
    **dict.fromkeys(
        [
            "aten.to.device",
            "aten.to.dtype",
            "aten.to.dtype_layout",
            "aten._to_copy",
            "aten.reshape",
            "aten.view",
            "aten.unsqueeze",
            "aten.slice.Tensor",
            "aten.alias",
            "aten.clone",
            "aten.contiguous",
            "aten.detach",
            "aten.detach_",
            "aten.lift_fresh_copy",
            "aten.dropout",
        ],
        _same,
    ),
    "aten._assert_tensor_metadata": _nothing,
}
