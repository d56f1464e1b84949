"""PyTorch module -> graph of fused operators, by torch.export.

The module is traced at one small size; since no operator here depends on the size, the graph holds for every size.
(Where a size is written into the trace, a second trace must give the same graph.)  Covered, each by a handler in
lower_ops.py:
  - convolution and transposed convolution that keep the size or divide or multiply it exactly, with any groups and
    dilation, with zero, reflected or repeated borders, also where these come from a pad before it;
  - ReLU and its relatives, PReLU, sigmoid, tanh, GELU, SiLU, ELU, softplus, clamping;
  - sum, difference and product of images, of an image and a constant or one value for each channel; batch norm;
  - quotient, minimum and maximum of images, root, exponential, logarithm, reciprocal, and which of two is greater, as
    1 or 0;
  - concat, split and reordering of channels, pixel shuffle and unshuffle, max and average pooling, resizing by a
    whole factor, and a plane filled from sigma;
  - layer norm over channels, linear layers where channels stand last, window and channel attention (our operators),
    means over the whole picture, over windows (our operator) and over channels, the greatest channel, warping by a
    flow (our operator);
  - states: a module with `states`, a list of (channels, stride), takes them as its last arguments and gives their
    successors after its result.
What works on constants alone, such as a weight's normalisation, is computed once.  Each fusion needs that nobody
else reads the intermediate result.
"""

import operator
from typing import Any

import torch
from torch import Tensor, nn

from fastrestore.core import _C
from fastrestore.errors import UnsupportedOperator
from fastrestore.lower_ops import HANDLERS
from fastrestore.lower_values import CONVOLUTIONS, Last, Record, Sigma, View, array, image

BORDERS = {"replicate": "clamp", "reflect": "reflect", "zero": "zero"}  # a module's `pads_with` as the graph names it


def lower(module: nn.Module) -> "_C.Graph":
    """The module's graph.  Raises UnsupportedOperator, naming the operator and the path of its module."""
    padding = getattr(module, "pads_with", "replicate")
    if padding not in BORDERS:
        raise UnsupportedOperator(f"the module pads pictures in a way that has no plan: {padding}")
    multiple = getattr(module, "multiple_of", 1)
    side = multiple * -(-16 // multiple)  # a multiple, so that padding and cropping inside the module vanish
    walk = _trace(module, side, padding)
    if walk.uses_sizes and _wiring(walk.records) != _wiring(_trace(module, 2 * side, padding).records):
        raise UnsupportedOperator("the module resizes an image to a size that does not follow the picture's")
    try:
        return _emit(walk.records)
    except ValueError as error:  # of the graph's own checks
        raise UnsupportedOperator(str(error)) from error


def _trace(module: nn.Module, side: int, padding: str) -> "_Walk":
    channels = getattr(getattr(module, "config", None), "channels", 3)
    arguments: tuple[Tensor, ...] = (torch.zeros(1, channels, side, side),)
    if getattr(module, "takes_sigma", False):
        arguments += (torch.ones(1),)
    states = tuple(getattr(module, "states", ()))
    arguments += tuple(torch.zeros(1, count, side // stride, side // stride) for count, stride in states)
    training = module.training
    with torch.no_grad():
        program = torch.export.export(module.eval(), arguments, strict=False)
        module.train(training)
        return _Walk(program, channels, BORDERS[padding], states)


class _Walk:
    """Goes through an exported program and collects the records of the graph to be."""

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        channels: int,
        border: str,
        states: tuple[tuple[int, int], ...],
    ):
        signature = program.graph_signature
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        names |= signature.inputs_to_lifted_tensor_constants
        state = {**program.state_dict, **program.constants}
        self.values: dict[str, Any] = {}
        self.same_as: dict[str, torch.fx.Node] = {}  # nodes whose result is the record that another node made
        self.gathered: dict[tuple, Record] = {}
        self.image_of_side: dict[int, Record] = {}  # any image of this height, to take a plane's size from
        self.records: list[Record] = []
        self.uses_sizes = False  # whether a size in the trace decided anything
        kept = dict(zip(signature.user_inputs[len(signature.user_inputs) - len(states) :], states, strict=True))
        begun: list[Record] = []
        for node in program.graph.nodes:
            if node.op == "placeholder":
                if node.name in names:
                    value = state[names[node.name]].detach()
                elif node.name == signature.user_inputs[0]:
                    value = self.add("input", channels=channels, border=border)
                elif node.name in kept:
                    count, stride = kept[node.name]
                    value = self.add("state", channels=count, stride=stride)
                    begun.append(value)
                else:
                    value = Sigma(1.0)
            elif node.op == "output":
                try:
                    result, *successors = (image(self, self.values[n.name]) for n in node.args[0])
                except ValueError as error:
                    raise UnsupportedOperator(f"the module's result is not an image: {error}") from error
                if len(successors) != len(begun):
                    raise UnsupportedOperator(
                        f"the module has {len(begun)} states, and gives {len(successors)} beside its result"
                    )
                self.records.append(Record("set_output", result.channels, [result]))
                for state, successor in zip(begun, successors, strict=True):
                    self.records.append(Record("set_next", state.channels, [state, successor]))
                return
            else:
                value = self.call(node)
            self.values[node.name] = value
            if isinstance(value, Record):
                self.image_of_side.setdefault(node.meta["val"].shape[2], value)

    def add(self, method: str, *inputs: Record, channels: int, **arguments: Any) -> Record:
        whole = method in ("mean", "channel_softmax") or (bool(inputs) and all(record.whole for record in inputs))
        self.records.append(Record(method, channels, list(inputs), arguments, whole=whole))
        return self.records[-1]

    def gather(self, parts: list[View]) -> Record:
        """These channels of these images as one image."""
        pieces = [(part.record, piece) for part in parts for piece in part.ranges]
        while len(pieces) > _C.MOST_INPUTS:  # more than one node may read: first by groups of these
            groups = [pieces[i : i + _C.MOST_INPUTS] for i in range(0, len(pieces), _C.MOST_INPUTS)]
            joined = [self._concat(group) for group in groups]
            pieces = [(record, (0, record.channels)) for record in joined]
        return self._concat(pieces)

    def _concat(self, pieces: list[tuple[Record, tuple[int, int]]]) -> Record:
        key = tuple((id(record), *piece) for record, piece in pieces)
        if key not in self.gathered:
            self.gathered[key] = self.add(
                "concat",
                *[record for record, _ in pieces],
                channels=sum(count for _, (_, count) in pieces),
                parts=[piece for _, piece in pieces],
            )
        return self.gathered[key]

    def call(self, node: torch.fx.Node) -> Any:
        name = "getitem" if node.target is operator.getitem else str(node.target).removesuffix(".default")
        inputs = [self.values[n.name] for n in node.all_input_nodes]
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: self.values[n.name])
        if all(map(_is_constant, inputs)):
            return _evaluate(node, args, kwargs)
        handler = HANDLERS.get(name)
        if handler is None:
            raise _unsupported(node)
        if _changes_its_input(node) and self.is_viewed(args[0]):
            raise _unsupported(node, "changes channels in place that are part of another image")
        try:
            value = handler(self, node, *args, **kwargs)
        except ValueError as error:
            raise _unsupported(node, str(error)) from error
        for source, given in zip(node.all_input_nodes, inputs, strict=True):
            if _record(value) is not None and _record(value) is _record(given):
                self.same_as[node.name] = source
        return value

    def is_viewed(self, value: Any) -> bool:
        if isinstance(value, View):
            return True
        kept = [v for known in self.values.values() for v in (known if isinstance(known, list) else [known])]
        return any(isinstance(v, View) and v.record is value for v in kept)

    def sole_source(self, node: torch.fx.Node, position: int) -> Record | None:
        """The record that makes argument `position`, if nobody but this node reads it: it may still be changed."""
        source = node.args[position] if position < len(node.args) else None
        record = _record(self.values[source.name]) if isinstance(source, torch.fx.Node) else None
        if record is None:
            return None
        while source is not None:
            if len(source.users) != 1:
                return None
            source = self.same_as.get(source.name)
        return record


def _record(value: Any) -> Record | None:
    """The node of the graph that a value is the whole result of."""
    value = value.image if isinstance(value, Last) else value
    return value if isinstance(value, Record) else None


def _is_constant(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_constant, value))
    return value is None or isinstance(value, (Tensor, int, float, bool))


def _changes_its_input(node: torch.fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _evaluate(node: torch.fx.Node, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The value of an operator that depends on constants alone."""
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        raise _unsupported(node, "is random")
    if _changes_its_input(node):  # the module's own parameter, perhaps
        args = torch.fx.map_arg(args, lambda n: n)
        args = (args[0].clone(), *args[1:])
    return node.target(*args, **kwargs)


def _unsupported(node: torch.fx.Node, why: str = "") -> UnsupportedOperator:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = f" in {stack[-1][0]}" if stack and stack[-1][0] else ""
    return UnsupportedOperator(f"{node.target}{path} has no plan" + (f": {why}" if why else ""))


def _wiring(records: list[Record]) -> list[tuple]:
    """What must not depend on the size of the trace."""
    number = {id(record): i for i, record in enumerate(records)}
    return [
        (
            record.method,
            [number[id(r)] for r in record.inputs],
            number[id(record.residual)] if record.residual else -1,
            {k: v for k, v in record.arguments.items() if isinstance(v, (int, float, str, tuple, bool))},
        )
        for record in records
    ]


def _emit(records: list[Record]) -> "_C.Graph":
    graph = _C.Graph()
    used: set[int] = set()
    for record in reversed(records):  # what nothing reads is left out
        if record.method in ("set_output", "set_next", "input", "state") or id(record) in used:
            used |= {id(r) for r in [*record.inputs, *([record.residual] if record.residual else [])]}
            used.add(id(record))
    number: dict[int, int] = {}
    for record in records:
        if id(record) not in used:
            continue
        inputs = [number[id(r)] for r in record.inputs]
        arguments = {k: array(v) if isinstance(v, Tensor) else v for k, v in record.arguments.items()}
        if record.method in CONVOLUTIONS:
            arguments["residual"] = number[id(record.residual)] if record.residual else -1
        if record.method in ("input", "state"):
            arguments["channels"] = record.channels
        method = getattr(graph, record.method)
        number[id(record)] = method(inputs, **arguments) if record.method == "concat" else method(*inputs, **arguments)
    return graph
