"""Every registered operator through opcheck, torch.compile and torch.export."""

import pytest
import torch
from torch import nn

import fastrestore.ops as ops
from ops.cases import sample

NAMESPACE = torch.ops.fastrestore


def _conv2d(x, residual=None, bias=True, activation="relu", scale=1.0, first=False):
    channels = x.shape[1]
    weight, b = torch.randn(channels, channels, 3, 3), torch.randn(channels)
    return (x, weight, b if bias else None, residual, [1, 1], [1, 1], [1, 1], 1, activation, 0.1, scale, first, "auto")


def _calls(name: str, x: torch.Tensor) -> list[tuple]:
    """Arguments to try the operator with; x: [2, 4, 6, 4]."""
    image = x.permute(0, 2, 3, 1)
    return {
        "conv2d": [
            _conv2d(x),
            _conv2d(x, bias=False, activation="none"),
            _conv2d(x, residual=torch.randn(2, 4, 6, 4), activation="leaky_relu", scale=0.5),
            _conv2d(x, residual=x, first=True, scale=-1.0),
        ],
        "pixel_shuffle": [(x, 1), (x, 2)],
        "pixel_unshuffle": [(x, 1), (x, 2)],
        "from_pixels": [(image,), (image.half(),), (image.to(torch.uint8),), (image.to(torch.uint16),)],
        "to_pixels": [(x, torch.uint8, True), (x, torch.float16, True), (x, torch.float32, False)],
        "window_attention": [(torch.randn(2, 6, 4, 12), torch.randn(2, 9), 2, shift) for shift in (0, 1)],
        "layer_norm": [(x, torch.randn(4), torch.randn(4), 1e-5, True), (x, torch.randn(4), None, 1e-5, False)],
        "channel_attention": [(torch.randn(2, 12, 3, 4), torch.randn(2))],
        "local_mean": [(x, 3)],
        "warp": [(x, torch.randn(2, 2, 6, 4))],
    }[name]


def _registered() -> list[str]:
    schemas = torch._C._jit_get_all_schemas()
    return sorted({s.name.split("::")[1] for s in schemas if s.name.startswith("fastrestore::")})


@pytest.mark.parametrize(
    ("layout", "grad"), [("contiguous", False), ("channels_last", True), ("sliced", True)], ids=str
)
@pytest.mark.parametrize("name", _registered())
def test_opcheck(name, layout, grad):
    for arguments in _calls(name, sample((2, 4, 6, 4), layout).abs()):
        arguments = tuple(
            a.detach().requires_grad_(grad and a.is_floating_point()) if isinstance(a, torch.Tensor) else a
            for a in arguments
        )
        torch.library.opcheck(getattr(NAMESPACE, name).default, arguments)


class Net(nn.Module):
    """Every operator once."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, image):
        x = ops.pixel_unshuffle(ops.from_pixels(image), 2)
        y = ops.conv2d(x, self.conv.weight, self.conv.bias, x, padding=(1, 1), activation="relu")
        return ops.to_pixels(ops.pixel_shuffle(y, 2), torch.float32, False)


def test_compiles_whole():
    """aot_eager: our operators' part in compiling is done before inductor, which is slow."""
    net, image = Net(), torch.rand(1, 8, 10, 3)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(image), net(image))
    compiled(image).sum().backward()
    traced = net.conv.weight.grad.clone()
    net.zero_grad()
    net(image).sum().backward()
    torch.testing.assert_close(traced, net.conv.weight.grad)


@pytest.mark.parametrize("strict", [False, True])
def test_exports_any_size(strict):
    net = Net().eval()
    # torch specialises on sizes of 1, here of half the picture
    half_h, half_w = torch.export.Dim("h", min=2, max=4096), torch.export.Dim("w", min=2, max=4096)
    program = torch.export.export(
        net, (torch.rand(1, 8, 10, 3),), dynamic_shapes=({1: 2 * half_h, 2: 2 * half_w},), strict=strict
    )
    for size in ((8, 10), (4, 6), (34, 4)):
        image = torch.rand(1, *size, 3)
        assert torch.equal(program.module()(image), net(image))
