"""The strongest peers at their best setting, on the same weights: torch frozen and compiled, ncnn."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fastrestore.models.dncnn import DnCNN


class PlainDnCNN(nn.Module):
    """DnCNN with torch's own layers only, so that no operator of ours takes part."""

    def __init__(self, model: DnCNN):
        super().__init__()
        self.layers = model.model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for layer in self.layers:
            y = layer(y)
        return x - y


def torch_eager(module: nn.Module, image: np.ndarray) -> Callable[[], np.ndarray]:
    module = module.to(memory_format=torch.channels_last)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return module(x)[0].permute(1, 2, 0).numpy()

    return run


def torch_frozen(module: nn.Module, image: np.ndarray) -> Callable[[], np.ndarray]:
    """torch.compile with frozen weights, channels last: torch's fastest form for convolutional networks."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    module = module.to(memory_format=torch.channels_last)
    compiled = torch.compile(module)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)

    def run() -> np.ndarray:
        with torch.no_grad():
            return compiled(x)[0].permute(1, 2, 0).numpy()

    return run


def ncnn_dncnn(model: DnCNN, image: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    """The network written in ncnn's own format, with its Winograd and packed layouts switched on."""
    import ncnn

    convs = [layer for layer in model.model if isinstance(layer, nn.Conv2d)]
    lines = ["Input data 0 1 in", "Split fork 1 2 in in_a in_b"]
    weights, source = b"", "in_a"
    for i, conv in enumerate(convs):
        out, relu = f"c{i}", int(i + 1 < len(convs))
        lines.append(
            f"Convolution {out} 1 1 {source} {out} 0={conv.out_channels} 1=3 4=1 5=1 6={conv.weight.numel()} 9={relu}"
        )
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        weights += np.uint32(0).tobytes() + conv.weight.detach().numpy().tobytes() + bias.numpy().tobytes()
        source = out
    lines.append(f"BinaryOp minus 2 1 in_b {source} out 0=1")
    blobs = 4 + len(convs)
    with tempfile.TemporaryDirectory() as folder:
        param, binary = Path(folder) / "net.param", Path(folder) / "net.bin"
        param.write_text("\n".join(["7767517", f"{len(lines)} {blobs}", *lines]) + "\n")
        binary.write_bytes(weights)
        net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_storage = False
        net.opt.use_winograd_convolution = True
        net.opt.use_packing_layout = True
        net.load_param(str(param))
        net.load_model(str(binary))
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))

    def run() -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in", ncnn.Mat(planes))
        _, result = extractor.extract("out")
        return np.array(result).transpose(1, 2, 0)

    return run
