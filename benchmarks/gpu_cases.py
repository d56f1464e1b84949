"""The kernels that gpu.py measures: inputs, variants, the exact result, and what is counted of each."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastrestore import ops
from fastrestore.ops import dispatch
from fastrestore.ops.channel_attention import reference as channel_attention_reference
from fastrestore.ops.local_mean import reference as local_mean_reference
from fastrestore.ops.window_attention import reference as attention_reference

SIZES = {"512x512": (512, 512), "1920x1080": (1080, 1920), "3840x2160": (2160, 3840)}
TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def ring_sets(bytes_of_one: int) -> int:
    """Sets of tensors that together exceed four times the L2 cache."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(2, min(64, -(-4 * cache // max(1, bytes_of_one))))


@dataclass
class Case:
    """One kernel: variants by name with the path that they take; flop and bytes are counted, not measured."""

    name: str
    variants: dict[str, tuple[str, Callable[[int], Tensor]]]
    exact: Callable[[], Tensor]  # of set 0, in float64, on a crop
    crop: Callable[[Tensor], Tensor]
    flop: float
    moved: float
    sets: int  # of inputs
    rounds: int = 1  # how often a value is rounded on the way, about


def conv_case(size: str, kind: str, channels: int, sets: int | None = None) -> Case:
    height, width = SIZES[size]
    dtype, one = TYPES[kind], 4 * height * width * channels
    count = sets or ring_sets(one)
    options = dict(device="cuda", dtype=dtype)
    x = [torch.randn(1, height, width, channels, **options).permute(0, 3, 1, 2) for _ in range(count)]
    weight = torch.randn(channels, channels, 3, 3, **options) / (9 * channels) ** 0.5
    bias = torch.randn(channels, **options)
    last = weight.contiguous(memory_format=torch.channels_last)

    def ours(i: int) -> Tensor:
        return ops.conv2d(x[i], weight, bias, padding=(1, 1), activation="relu")

    def plain(i: int) -> Tensor:
        return F.conv2d(x[i], last, bias, padding=1).relu_()

    def joined(i: int) -> Tensor:
        return torch.cudnn_convolution_relu(x[i], last, bias, [1, 1], [1, 1], [1, 1], 1)

    compiled = torch.compile(lambda x: F.conv2d(x, last, bias, padding=1).relu(), mode="max-autotune-no-cudagraphs")
    edge = min(128, height), min(128, width)

    def exact() -> Tensor:
        part = x[0][:, :, : edge[0] + 1, : edge[1] + 1].double()
        return F.conv2d(part, weight.double(), bias.double(), padding=1).relu()[:, :, : edge[0], : edge[1]]

    return Case(
        f"conv3x3 {channels} {size} {kind}{' hot' if sets == 1 else ''}",
        {
            "ours": ("cuda", ours),
            "triton": ("triton", ours),
            "cudnn": ("plain", plain),
            "cudnn_fused": ("plain", joined),
            "compiled": ("plain", lambda i: compiled(x[i])),
        },
        exact,
        lambda y: y[:, :, : edge[0], : edge[1]],
        18.0 * height * width * channels**2,
        one,
        count,
    )


def attention_case(size: str, kind: str, heads: int, depth: int) -> Case:
    height, width = SIZES[size]
    dtype, channels = TYPES[kind], heads * depth
    count = ring_sets(8 * height * width * channels)
    qkv = [torch.randn(1, height, width, 3 * channels, device="cuda", dtype=dtype) for _ in range(count)]
    bias = torch.randn(heads, 225, device="cuda", dtype=dtype)

    def ours(i: int) -> Tensor:
        return ops.window_attention(qkv[i], bias, 8, 4)

    def plain(i: int) -> Tensor:
        return attention_reference(qkv[i], bias, 8, 4)

    compiled = torch.compile(plain, mode="max-autotune-no-cudagraphs")
    return Case(
        f"window_attention 8 {heads}x{depth} {size} {kind}",
        {
            "ours": ("cuda", ours),
            "triton": ("triton", ours),
            "sdpa": ("plain", plain),
            "compiled": ("plain", compiled),
        },
        lambda: attention_reference(qkv[0][:, :132, :132].double(), bias.double(), 8, 4)[:, :128, :128],
        lambda y: y[:, :128, :128],
        4.0 * 64 * height * width * channels,
        8.0 * height * width * channels,
        count,
        2,
    )


def pictures_case(
    name: str,
    inputs: list[Tensor],
    ours: Callable[[Tensor], Tensor],
    plain: Callable[[Tensor], Tensor],
    flop: float,
    moved: float,
    rounds: int,
) -> Case:
    """An operator that looks at the whole picture: ours against torch's own operators, all of it compared.

    plain: takes float64 as well, and is what is compiled.
    """
    compiled = torch.compile(plain, mode="max-autotune-no-cudagraphs")
    return Case(
        name,
        {
            "ours": ("cuda", lambda i: ours(inputs[i])),
            "triton": ("triton", lambda i: ours(inputs[i])),
            "torch": ("plain", lambda i: plain(inputs[i])),
            "compiled": ("plain", lambda i: compiled(inputs[i])),
        },
        lambda: plain(inputs[0].double()),
        lambda y: y,
        flop,
        moved,
        len(inputs),
        rounds,
    )


def images_of(size: str, kind: str, channels: int, made: int) -> list[Tensor]:
    """Random images [1, channels, H, W], channels_last, as many as exceed the cache with results of `made` channels;
    their mean is 1, so that a mean is known to more than its rounding."""
    height, width = SIZES[size]
    count = ring_sets(2 * height * width * (channels + made))
    options = dict(device="cuda", dtype=TYPES[kind])
    return [(1 + torch.randn(1, height, width, channels, **options)).permute(0, 3, 1, 2) for _ in range(count)]


def channel_attention_case(size: str, kind: str, heads: int, depth: int) -> Case:
    height, width = SIZES[size]
    channels, temperature = heads * depth, torch.ones(heads, device="cuda", dtype=TYPES[kind])
    return pictures_case(
        f"channel_attention {heads}x{depth} {size} {kind}",
        images_of(size, kind, 3 * channels, channels),
        lambda x: ops.channel_attention(x, temperature),
        lambda x: channel_attention_reference(x, temperature.to(x.dtype)),
        4.0 * height * width * channels * depth,
        8.0 * height * width * channels,
        4,
    )


def local_mean_case(size: str, kind: str, channels: int, side: int) -> Case:
    height, width = SIZES[size]
    return pictures_case(
        f"local_mean {side} {channels} {size} {kind}",
        images_of(size, kind, channels, channels),
        lambda x: ops.local_mean(x, side),
        lambda x: local_mean_reference(x, side),
        0.0,
        4.0 * height * width * channels,
        1,
    )


def block_case(size: str, kind: str, width: int) -> Case:
    """A block of NAFNet but for its mean over the picture, in whose place stands a pixel of random scales."""
    height, columns = SIZES[size]
    dtype = TYPES[kind]
    options = dict(device="cuda", dtype=dtype)
    count = ring_sets(4 * height * columns * width)
    x = [torch.randn(1, height, columns, width, **options).permute(0, 3, 1, 2) for _ in range(count)]
    shapes = ((2 * width, width, 1, 1), (2 * width, 1, 3, 3), (width, width, 1, 1), (2 * width, width, 1, 1),
              (width, width, 1, 1))  # fmt: skip
    weights = [torch.randn(shape, **options) / (shape[1] * shape[2] ** 2) ** 0.5 for shape in shapes]
    biases = [torch.randn(shape[0], device="cuda") for shape in shapes]
    scale = torch.randn(1, width, 1, 1, **options)

    def block(x: Tensor, weights: list[Tensor], biases: list[Tensor], scale: Tensor) -> Tensor:
        def norm(x: Tensor) -> Tensor:
            return F.layer_norm(x.permute(0, 2, 3, 1), (width,), eps=1e-6).permute(0, 3, 1, 2)

        def gate(x: Tensor) -> Tensor:
            a, b = x.chunk(2, 1)
            return a * b

        expand, depthwise, project, widen, contract = zip(weights, biases, strict=True)
        y = gate(F.conv2d(F.conv2d(norm(x), *expand), *depthwise, padding=1, groups=2 * width))
        x = x + F.conv2d(y * scale, *project)
        return x + F.conv2d(gate(F.conv2d(norm(x), *widen)), *contract)

    kernels = dispatch.kernels()
    packed = [w.flatten(2).permute(2, 0, 1).contiguous() for w in weights]
    packed[1] = weights[1].flatten(1).T.contiguous()
    front = [packed[0].data_ptr(), packed[1].data_ptr(), biases[0].data_ptr(), biases[1].data_ptr()]
    back = [w.data_ptr() for w in packed[2:]] + [b.data_ptr() for b in biases[2:]]
    held = scale.permute(0, 2, 3, 1).contiguous()
    gated, result = torch.empty_like(x[0]), torch.empty_like(x[0])
    sums = torch.empty(-(-height // 8) * -(-columns // 16), width, device="cuda")

    def ours(i: int) -> Tensor:
        stream = torch.cuda.current_stream().cuda_stream
        image, product, out, one = (
            dispatch.images(t.permute(0, 2, 3, 1)) for t in (x[i], gated, result, held.permute(0, 3, 1, 2))
        )
        kernels.gated_front(kind, 1e-6, front, image, product, sums.data_ptr(), stream)
        kernels.gated_back(kind, 1e-6, back, product, one, image, out, stream)
        return result

    from fastrestore.triton import gated_block

    first = gated_block.Front(packed[0][0], packed[1], *biases[:2])
    second = gated_block.Back(*(w[0] for w in packed[2:]), *biases[2:])
    totals = torch.empty(1, gated_block.front_tiles(x[0].permute(0, 2, 3, 1)), width, device="cuda")

    def triton(i: int) -> Tensor:
        image, product, out = (t.permute(0, 2, 3, 1) for t in (x[i], gated, result))
        gated_block.front(image, first, 1e-6, product, totals)
        gated_block.back(product, scale.flatten(1), image, second, 1e-6, out)
        return result

    short = [b.to(dtype) for b in biases]
    plain = lambda i: block(x[i], weights, short, scale)  # noqa: E731
    compiled = torch.compile(block, mode="max-autotune-no-cudagraphs")
    pixels = height * columns
    return Case(
        f"gated block {width} {size} {kind}",
        {
            "ours": ("cuda", ours),
            "triton": ("triton", triton),
            "cudnn": ("plain", plain),
            "compiled": ("plain", lambda i: compiled(x[i], weights, short, scale)),
        },
        lambda: block(x[0][:, :, :129, :129].double(), [w.double() for w in weights], [b.double() for b in biases],
                      scale.double())[:, :, :128, :128],
        lambda y: y[:, :, :128, :128],
        2.0 * pixels * (6 * width**2 + 18 * width),
        2.0 * pixels * 5 * width,
        count,
        4,
    )  # fmt: skip
