"""The strongest peers at their best setting, on the same weights.  PEERS, at the end, lists them.

Each is made by a function (plain, image, threads, precision) -> Peer.  What they get beforehand costs them nothing: the
picture in the layout that suits them best, converted weights, a compiled graph.  Their result stays in their layout.
"""

import importlib.metadata
import io
import logging
import operator
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fastrestore.bench.networks import Exported, Plain
from fastrestore.bench.process import Skipped


@dataclass
class Peer:
    run: Callable[[], np.ndarray]  # restores the picture; the result [H, W, C] may be a view
    settings: dict[str, Any] = field(default_factory=dict)


def _channels_last(plain: Plain, image: np.ndarray, precision: str) -> tuple[Plain, torch.Tensor]:
    x = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)
    return plain.in_precision(precision).to(memory_format=torch.channels_last), x


def _torch_peer(forward: Callable, x: torch.Tensor, how: str, precision: str) -> Peer:
    def run() -> np.ndarray:
        with torch.inference_mode():
            return forward(x)[0].permute(1, 2, 0).numpy()

    weights = "float32" if precision == "float32" else f"{precision} weights and maps, float32 picture and residual"
    return Peer(run, {"form": how, "memory format": "channels_last", "precision": weights})


def torch_eager(plain: Plain, image: np.ndarray, threads: int, precision: str) -> Peer:
    forward, x = _channels_last(plain, image, precision)
    return _torch_peer(forward, x, "eager, relu in place, inference_mode", precision)


def torch_jit(plain: Plain, image: np.ndarray, threads: int, precision: str) -> Peer:
    """TorchScript frozen and optimised: constant weights in oneDNN's order, relu fused."""
    forward, x = _channels_last(plain, image, precision)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript; it is still what many ship
        forward = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(forward, x)))
    return _torch_peer(forward, x, "jit.trace, jit.freeze, jit.optimize_for_inference", precision)


def torch_compiled(plain: Plain, image: np.ndarray, threads: int, precision: str) -> Peer:
    """torch.compile with frozen weights: torch's fastest form for convolutional networks."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    forward, x = _channels_last(plain, image, precision)
    compiled = torch.compile(forward, dynamic=False)

    def run() -> np.ndarray:
        with torch.no_grad():  # freezing is not done under inference_mode
            return compiled(x)[0].permute(1, 2, 0).numpy()

    peer = _torch_peer(compiled, x, "torch.compile, inductor freezing", precision)
    return Peer(run, peer.settings)


def onnx_model(plain: Plain, image: np.ndarray, precision: str) -> bytes:
    """The network as an ONNX model of the picture's size; in int8 with its convolutions between quantisers."""
    file, (height, width, channels) = io.BytesIO(), image.shape
    # no_grad: tracing would keep every layer's output, of DRUNet at 1920x1080 20 GB.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the newer exporter needs two more packages and gives the same graph
        x = torch.zeros(1, channels, height, width).contiguous(memory_format=torch.channels_last)  # traced faster
        torch.onnx.export(plain, (x,), file, dynamo=False, input_names=["in"], output_names=["out"])
    return _quantised(file.getvalue(), image) if precision == "int8" else file.getvalue()


def _quantised(model: bytes, image: np.ndarray) -> bytes:
    """8-bit inputs by their range on the picture itself, 8-bit weights by channel: the speed of int8, and an accuracy
    that flatters it."""
    import onnx
    from onnxruntime import quantization

    class Pictures(quantization.CalibrationDataReader):
        given = iter([{"in": np.ascontiguousarray(image.transpose(2, 0, 1)[None])}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.given, None)

    kinds = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
    with tempfile.TemporaryDirectory() as folder:
        logging.disable(logging.WARNING)  # it advises a step that fuses what these networks have not
        try:
            source = onnx.load_from_string(model)
            quantization.quantize_static(source, f"{folder}/int8.onnx", Pictures(), per_channel=True, **kinds)
        finally:
            logging.disable(logging.NOTSET)
        return Path(folder, "int8.onnx").read_bytes()


def onnx_runtime(plain: Plain, image: np.ndarray, threads: int, precision: str) -> Peer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    content = onnx_model(plain, image, precision)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    x = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
    out = np.empty_like(x)
    binding = session.io_binding()  # the result is written where we say: no copy, no allocation
    binding.bind_input("in", "cpu", 0, np.float32, x.shape, x.ctypes.data)
    binding.bind_output("out", "cpu", 0, np.float32, out.shape, out.ctypes.data)

    def run() -> np.ndarray:
        session.run_with_iobinding(binding)
        return out[0].transpose(1, 2, 0)

    run.keeps = x  # bound by address
    settings = {"intra_op_num_threads": threads, "graph optimisation": "all", "io binding": True, "layout": "NCHW"}
    return Peer(run, settings | ({"quantisation": QUANTISATION} if precision == "int8" else {}))


def openvino(plain: Plain, image: np.ndarray, threads: int, precision: str) -> Peer:
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    core = ov.Core()
    steps = PrePostProcessor(core.read_model(onnx_model(plain, image, precision)))
    for side in (steps.input(), steps.output()):  # in NCHW it would spend more on reordering than on a layer
        side.tensor().set_layout(ov.Layout("NHWC"))
        side.model().set_layout(ov.Layout("NCHW"))
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "EXECUTION_MODE_HINT": "PERFORMANCE",
        # Without this a CPU with bfloat16 computes in it, also when float32 is compared.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
    }
    request = core.compile_model(steps.build(), "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(np.ascontiguousarray(image[None]), shared_memory=True))

    def run() -> np.ndarray:
        request.infer()
        return request.get_output_tensor().data[0]

    about = {"layout": "NHWC"} | ({"quantisation": QUANTISATION} if precision == "int8" else {})
    return Peer(run, settings | about)


def ncnn(plain: Plain, image: np.ndarray, threads: int, precision: str) -> Peer:
    """The network in ncnn's own format, with its Winograd and packed layouts and the allocators of its benchmark."""
    import ncnn as library

    if isinstance(plain, Exported):
        raise Skipped("our conversion to ncnn knows convolutional networks only")
    net = library.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    net.opt.use_winograd_convolution = net.opt.use_sgemm_convolution = net.opt.use_packing_layout = True
    pools = library.UnlockedPoolAllocator(), library.PoolAllocator()
    net.opt.blob_allocator, net.opt.workspace_allocator = pools
    param, binary = _to_ncnn(plain)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("net.param", param.encode()), ("net.bin", binary)):
            (Path(folder) / name).write_bytes(content)
        if net.load_param(f"{folder}/net.param") or net.load_model(f"{folder}/net.bin"):
            raise RuntimeError("ncnn does not take the network")
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))

    def run() -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in", library.Mat(planes))
        _, result = extractor.extract("out")
        return np.asarray(result).transpose(1, 2, 0)

    run.keeps = pools
    settings = {"num_threads": threads, "winograd": True, "packing": True, "pool allocators": True}
    return Peer(run, settings | {"bf16 storage": False, "fp16": False})


def opencv(plain: Plain, image: np.ndarray, threads: int, precision: str) -> Peer:
    """OpenCV's own network module, given the network as ONNX."""
    import cv2

    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromONNX(np.frombuffer(onnx_model(plain, image, precision), np.uint8))
    net.setInput(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))

    def run() -> np.ndarray:
        return net.forward()[0].transpose(1, 2, 0)

    return Peer(run, {"setNumThreads": threads, "engine": "the default", "layout": "NCHW"})


def _to_ncnn(plain: Plain) -> tuple[str, bytes]:
    """The network as ncnn's .param text and .bin weights: a line for each operator, relu fused into convolutions."""
    modules = dict(plain.named_modules())
    layers: dict[str, tuple[str, list[str], dict[int, int]]] = {}  # name: kind, inputs, parameters
    made: dict[torch.fx.Node, str] = {}  # the layer that makes a node
    weights = bytearray()  # of bytes, adding would copy all of them every time
    for node in torch.fx.symbolic_trace(plain).graph.nodes:
        inputs = [made[source] for source in node.all_input_nodes]
        layer = modules.get(node.target) if node.op == "call_module" else None
        if node.op == "output":
            layers["out"] = layers.pop(inputs[0])
            continue
        made[node] = node.name
        if node.op == "placeholder":
            layers[node.name] = ("Input", [], {})
            first = node.name
        elif node.op == "get_attr":
            plane = plain.get_buffer(node.target)
            layers[node.name] = ("MemoryData", [], {0: plane.shape[3], 1: plane.shape[2], 2: plane.shape[1]})
            weights += plane.numpy().tobytes()
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            transposed = isinstance(layer, nn.ConvTranspose2d)
            weight = layer.weight.detach().transpose(0, 1) if transposed else layer.weight.detach()
            weights += np.uint32(0).tobytes() + weight.contiguous().numpy().tobytes()
            weights += b"" if layer.bias is None else layer.bias.detach().numpy().tobytes()
            parameters = {0: layer.out_channels, 1: layer.kernel_size[0], 3: layer.stride[0], 4: layer.padding[0]}
            parameters |= {5: int(layer.bias is not None), 6: layer.weight.numel()}
            layers[node.name] = ("Deconvolution" if transposed else "Convolution", inputs, parameters)
        elif node.target is F.relu:  # in place, hence the convolution's only consumer
            made[node] = inputs[0]
            layers[inputs[0]][2][9] = 1
        elif node.target == "to":
            made[node] = made[node.args[0]]
        else:
            known = {
                operator.add: ("BinaryOp", {0: 0}),
                operator.sub: ("BinaryOp", {0: 1}),
                torch.cat: ("Concat", {0: 0}),
                F.pixel_shuffle: ("PixelShuffle", {0: node.args[-1]}),
                F.pixel_unshuffle: ("Reorg", {0: node.args[-1]}),
            }
            if node.target not in known:
                raise NotImplementedError(f"our conversion to ncnn knows no {node.target}")
            kind, parameters = known[node.target]
            layers[node.name] = (kind, inputs, parameters)
    layers = {"in": layers.pop(first)} | layers
    return _ncnn_text(layers, {first: "in"}), bytes(weights)


def _ncnn_text(layers: dict[str, tuple[str, list[str], dict[int, int]]], renamed: dict[str, str]) -> str:
    """The .param text; a blob has one consumer in ncnn, so several get their share by a Split."""
    sources = {name: [renamed.get(source, source) for source in inputs] for name, (_, inputs, _) in layers.items()}
    consumers = {name: [other for other, inputs in sources.items() if name in inputs] for name in layers}
    lines, blobs = [], 0
    for name, (kind, _, parameters) in layers.items():
        inputs = [f"{source}_{name}" if len(consumers[source]) > 1 else source for source in sources[name]]
        values = " ".join(f"{key}={value}" for key, value in parameters.items())
        lines.append(f"{kind} {name} {len(inputs)} 1 {' '.join([*inputs, name])} {values}")
        blobs += 1
        if len(consumers[name]) > 1:
            ends = [f"{name}_{consumer}" for consumer in consumers[name]]
            lines.append(f"Split {name}_split 1 {len(ends)} {' '.join([name, *ends])}")
            blobs += len(ends)
    return "\n".join(["7767517", f"{len(lines)} {blobs}", *lines]) + "\n"


@dataclass(frozen=True)
class Backend:
    option: str  # as --peers takes it
    make: Callable[[Plain, np.ndarray, int, str], Peer]
    packages: tuple[str, ...]  # the first one's version is recorded
    precisions: tuple[str, ...] = ("float32", "bfloat16")
    held: bool = False  # settings of the environment hold it to an instruction set (process.PEERS_ISA)


QUANTISATION = "QDQ, u8 inputs by range, s8 weights by channel"
PEERS = {
    "ncnn": Backend("ncnn", ncnn, ("ncnn",), ("float32",)),  # it only stores bfloat16, and is slower so
    "OpenVINO": Backend("openvino", openvino, ("openvino", "onnx"), ("float32", "bfloat16", "int8")),
    "ONNX Runtime": Backend("onnxruntime", onnx_runtime, ("onnxruntime", "onnx"), ("float32", "int8")),
    "OpenCV": Backend("opencv", opencv, ("opencv-python-headless", "onnx"), ("float32",)),
    "torch compiled, frozen": Backend("compile", torch_compiled, ("torch",), held=True),
    "torch jit, frozen": Backend("jit", torch_jit, ("torch",), held=True),
    "torch eager, channels last": Backend("torch", torch_eager, ("torch",), held=True),
}
OPTIONS = {backend.option: name for name, backend in PEERS.items()}


def chosen(options: str) -> list[str]:
    """The peers that "ncnn,torch", "all" or "none" names.  Raises ValueError for an unknown one."""
    wanted = {"all": list(OPTIONS), "none": []}.get(options, options.split(","))
    if unknown := set(wanted) - set(OPTIONS):
        raise ValueError(f"unknown peers: {', '.join(sorted(unknown))}; known are {', '.join(OPTIONS)}, all, none")
    return [name for option, name in OPTIONS.items() if option in wanted]


def missing(peer: str, precision: str, isa: str = "") -> str | None:
    """Why this peer cannot take part, or None."""
    backend = PEERS[peer]
    if precision not in backend.precisions:
        return f"has no {precision} arithmetic"
    if isa and not backend.held:
        return f"cannot be held to {isa}"
    absent = [name for name in backend.packages if version(name) is None]
    return f"{', '.join(absent)} is not installed" if absent else None


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
