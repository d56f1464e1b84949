"""The networks that are measured, each twice: as fastrestore's model and with torch's own layers only.

The plain form shares the model's weights and is what every peer gets, so that no operator of ours takes part.  Where
it is written out here, its noise plane is a constant made beforehand, which spares the peers what our plan does in
every run; elsewhere it is what torch.export makes of the model.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fastrestore import models, zoo
from fastrestore.bench.process import Skipped

SIGMA = 25.0


class Plain(nn.Module):
    """forward(x) -> restored x, [1, C, H, W] of the size given and of x's dtype; between, all is of `dtype`."""

    def __init__(self, model: nn.Module, height: int, width: int, cell: int = 1):
        super().__init__()
        self.model, self.dtype = model, torch.float32
        self.register_buffer("plane", torch.full((1, 1, height // cell, width // cell), SIGMA / 255))

    def in_precision(self, precision: str) -> "Plain":
        """A copy that computes in float64, float32 or bfloat16."""
        plain = copy.deepcopy(self)
        plain.dtype = getattr(torch, precision)
        return plain.to(plain.dtype)


class PlainDnCNN(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return x - _chain(self.model.model, x.to(self.dtype)).to(x)


class PlainFFDNet(Plain):
    def __init__(self, model: nn.Module, height: int, width: int):
        super().__init__(model, height, width, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([F.pixel_unshuffle(x.to(self.dtype), 2), self.plane], 1)
        return F.pixel_shuffle(_chain(self.model.model, y), 2).to(x)


class PlainDRUNet(Plain):
    def forward(self, x: Tensor) -> Tensor:
        model = self.model
        x1 = model.m_head(torch.cat([x.to(self.dtype), self.plane], 1))
        x2 = self.level(model.m_down1, x1)
        x3 = self.level(model.m_down2, x2)
        x4 = self.level(model.m_down3, x3)
        y = self.level(model.m_up3, self.level(model.m_body, x4) + x4)
        y = self.level(model.m_up2, y + x3)
        y = self.level(model.m_up1, y + x2)
        return model.m_tail(y + x1).to(x)

    def level(self, layers: nn.Sequential, x: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x) if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) else x + _chain(layer.res, x)
        return x


class PlainUNet(Plain):
    def __init__(self, model: nn.Module, height: int, width: int):
        super().__init__(model, height, width, 2)

    def forward(self, x: Tensor) -> Tensor:
        model, skips = self.model, []
        y = model.head(torch.cat([F.pixel_unshuffle(x.to(self.dtype), 2), self.plane], 1))
        for encoder, down in zip(model.encoders, model.downs, strict=True):
            skips.append(self.blocks(encoder, y))
            y = down(skips[-1])
        y = self.blocks(model.middle, y)
        for up, decoder in reversed(list(zip(model.ups, model.decoders, strict=True))):
            y = self.blocks(decoder, up(y) + skips.pop())
        return x - F.pixel_shuffle(model.tail(y), 2).to(x)

    def blocks(self, blocks: nn.Sequential, x: Tensor) -> Tensor:
        for block in blocks:
            x = x + block.conv2(F.relu(block.conv1(x), inplace=True))
        return x


class PlainLayer(Plain):
    """A single convolution and ReLU, for the kernels."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.model(x.to(self.dtype)), inplace=True).to(x)


class Exported(Plain):
    """Any module that takes no noise level: its operators of torch's own, as torch.export lists them for the size."""

    def __init__(self, model: nn.Module, height: int, width: int, dtype: torch.dtype = torch.float32):
        super().__init__(model, height, width)
        self.size, self.dtype = (height, width), dtype
        exported = torch.export.export(model, (torch.zeros(1, 3, height, width, dtype=dtype),))
        self.body = exported.module(check_guards=False)

    def train(self, mode: bool = True) -> "Exported":
        self.training = mode  # of what was exported in evaluation mode there is no other
        return self

    def in_precision(self, precision: str) -> "Exported":
        """Exported anew, as some operators name the type they were exported with."""
        dtype = getattr(torch, precision)
        return Exported(copy.deepcopy(self.model).to(dtype), *self.size, dtype).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.to(self.dtype)).to(x)


class Between(nn.Module):
    """Blocks on feature maps made a network of pictures: a 3x3 convolution before and one after, and a residual.

    body: takes [N, width, H, W], or with `last` [N, H, W, width].
    """

    takes_sigma = False

    def __init__(self, body: nn.Module, width: int, last: bool, multiple_of: int, halo: int | None):
        super().__init__()
        self.first, self.body = nn.Conv2d(3, width, 3, padding=1), body
        self.end = nn.Conv2d(width, 3, 3, padding=1)
        self.last, self.multiple_of, self.halo = last, multiple_of, halo

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = self.body(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.last else self.body(y)
        return x + self.end(y)


def _chain(layers: nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        x = F.relu(x, inplace=True) if isinstance(layer, nn.ReLU) else layer(x)
    return x


@dataclass(frozen=True)
class Network:
    title: str
    create: Callable[[], nn.Module]
    plain: type[Plain] = Exported

    def model(self) -> nn.Module:
        """fastrestore's model, the same at every call."""
        torch.manual_seed(0)
        return self.create().eval()

    def make_plain(self, model: nn.Module, height: int, width: int) -> Plain:
        if height % model.multiple_of or width % model.multiple_of:
            raise Skipped(f"{self.title} takes sides that are multiples of {model.multiple_of}, not {height} x {width}")
        return self.plain(model, height, width).eval()


def _random(plain: type[Plain], last: float, architecture: str, **config) -> nn.Module:
    """Random weights with which every layer's output has the standard deviation 1 and the last one's `last`.

    With torch's own initialisation a deep network without normalisation gives next to nothing, and a wrong layer
    would pass for rounding.
    """
    model = models.create(architecture, **config)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]

    def rescale(layer: nn.Module, _, out: Tensor) -> Tensor:
        gain = (last if layer is layers[-1] else 1.0) / out.std()
        for parameter in layer.parameters():
            parameter.mul_(gain)
        return out * gain

    with torch.no_grad():
        for layer in layers:
            layer.weight.normal_()
            if layer.bias is not None:
                layer.bias.zero_()
        hooks = [layer.register_forward_hook(rescale) for layer in layers]
        plain(model, 64, 64)(torch.rand(1, 3, 64, 64))
        for hook in hooks:
            hook.remove()
        for layer in layers:
            if layer.bias is not None:
                layer.bias.normal_(std=0.02)
    return model


def _stirred(model: nn.Module) -> nn.Module:
    """The model with random values where its own initialisation makes blocks do next to nothing."""
    for name, parameter in model.named_parameters():
        if name.split(".")[-1] in ("beta", "gamma", "relative_position_bias_table"):
            nn.init.normal_(parameter, std=0.5)
    return model


def _nafnet() -> nn.Module:
    """As published for GoPro but with the mean over the whole picture, as it was trained and as peers run it."""
    blocks = {"encoder_blocks": (1, 1, 1, 28), "middle_blocks": 1, "decoder_blocks": (1, 1, 1, 1)}
    return _stirred(models.create("nafnet", width=32, **blocks))


def _swin_pair(width: int) -> nn.Module:
    """Two blocks of window attention, 8 pixels a side, the second shifted."""
    network = _stirred(models.create("swinir", width=width, blocks=(2,), heads=(6,)))
    return Between(network.layers[0].residual_group, width, last=True, multiple_of=8, halo=network.halo)


def _restormer_block() -> nn.Module:
    """Attention between channels and the gated network, one block of the finest level."""
    return Between(models.create("restormer").encoder_level1[0], 48, last=False, multiple_of=8, halo=None)


# A network is one line here: `fastrestore bench models --network NAME` then measures it, skipping it with the reason
# while no plan expresses it.
NETWORKS = {
    "dncnn20": Network("DnCNN-20", lambda: _random(PlainDnCNN, 0.05, "dncnn", channels=3, depth=20), PlainDnCNN),
    "ffdnet": Network("FFDNet", lambda: _random(PlainFFDNet, 0.25, "ffdnet"), PlainFFDNet),
    "drunet": Network("DRUNet", lambda: _random(PlainDRUNet, 0.25, "drunet"), PlainDRUNet),
    "denoise-cnn": Network("denoise-cnn", lambda: zoo.load("denoise-cnn"), PlainUNet),
    "nafnet32": Network("NAFNet-32", _nafnet),
    "swin60": Network("Swin blocks 60", lambda: _swin_pair(60)),
    "swin180": Network("Swin blocks 180", lambda: _swin_pair(180)),
    "restormer-block": Network("Restormer block", _restormer_block),
}


def flops_per_pixel(network: Network) -> float:
    """Operations of convolutions, matrix products and attention for one pixel of the picture, convolutions counted as
    direct ones, 2 a multiply-add."""
    plain = network.make_plain(network.model(), 64, 64)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        plain(torch.rand(1, 3, 64, 64))
    return counter.get_total_flops() / 64**2


def picture(height: int, width: int) -> np.ndarray:
    """What every network is given: [height, width, 3] float32, uniform in [0, 1)."""
    return np.random.default_rng(0).random((height, width, 3), dtype=np.float32)


def sides(size: str) -> tuple[int, int]:
    """Height and width of "1920x1080"."""
    width, height = map(int, size.split("x"))
    return height, width
