"""One convolution with bias and ReLU against torch's best form and its plain form, interleaved in one run.

Run it with glibc's allocator as torch needs it (`make bench` does).  Each case first shows its distance from float64.
Two threads of a shared machine are only worth reading when its load is low: the result keeps the load.
"""

import pytest
import torch
import torch.nn.functional as F
from harness import interleave, machine, summary, table

from fastrestore.ops import conv2d

# name: channels in and out, kernel, stride, padding, height and width
LAYERS = {
    "3x3-64-64-512": (64, 64, 3, 1, 1, 512),
    "3x3-96-96-256": (96, 96, 3, 1, 1, 256),
    "3x3-3-64-512": (3, 64, 3, 1, 1, 512),
    "3x3-64-3-512": (64, 3, 3, 1, 1, 512),
    "2x2-64-96-512-stride2": (64, 96, 2, 2, 0, 512),
    "1x1-64-64-512": (64, 64, 1, 1, 0, 512),
}


def prepacked(x, weight, bias, stride, padding):
    """oneDNN's convolution with fused ReLU and its own weight order: what torch's frozen graphs run."""
    pair = [[padding] * 2, [stride] * 2, [1, 1]]
    packed = torch._C._nn.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *pair, 1, list(x.shape))
    return lambda: torch.ops.mkldnn._convolution_pointwise(x, packed, bias, *pair, 1, "relu", [], "")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layer", LAYERS)
@torch.inference_mode()
def test_conv2d(benchmark, record, layer, threads):
    inside, out, kernel, stride, padding, size = LAYERS[layer]
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    x = torch.randn(1, inside, size, size).relu().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(out, inside, kernel, kernel) * (2 / (inside * kernel * kernel)) ** 0.5
    bias = 0.1 * torch.randn(out)
    weight_last = weight.contiguous(memory_format=torch.channels_last)
    options = {"stride": (stride, stride), "padding": (padding, padding), "activation": "relu"}
    cases = {
        "fastrestore": lambda: conv2d(x, weight, bias, **options),
        "fastrestore direct": lambda: conv2d(x, weight, bias, algorithm="direct", **options),
        "torch prepacked, fused": prepacked(x, weight, bias, stride, padding),
        "torch eager, channels last": lambda: F.conv2d(x, weight_last, bias, stride, padding).relu_(),
    }
    rows = 32  # of the result, which float64 computes from the input rows that they see
    crop = x[:, :, : (rows - 1) * stride + kernel].double()
    exact = F.conv2d(crop, weight.double(), bias.double(), stride, padding).relu()[:, :, : rows - padding]
    errors = {}
    for name, case in cases.items():
        error = (case()[:, :, : rows - padding] - exact).abs()
        errors[name] = {"rms": error.square().mean().sqrt().item(), "greatest": error.max().item()}
        assert errors[name]["greatest"] < 1e-4
    gflop = 2e-9 * inside * out * kernel**2 * (size // stride) ** 2
    result = summary(interleave(cases, 7), gflop, threads)
    own = result["rows"]["fastrestore"]["ms"]
    result["ratios"] = {name: round(row["ms"] / own, 2) for name, row in result["rows"].items()}
    result["errors"] = errors
    record(f"conv2d-{layer}-{threads}t", {"machine": machine(), **result})
    print("\n" + table(f"conv2d + bias + ReLU {layer}, float32", result))
    for name, error in errors.items():
        print(f"  {name:28} error against float64: rms {error['rms']:.2g}, greatest {error['greatest']:.2g}")
    benchmark.extra_info.update(result["ratios"])
    benchmark.pedantic(cases["fastrestore"], rounds=1)
