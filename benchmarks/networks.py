"""The networks that are measured, each twice: as fastrestore's model and with torch's own layers only.

The plain form shares the model's layers and is what every peer gets, so that no operator of ours takes part.  Its
noise plane is a constant made beforehand, which spares the peers what our plan does in every run.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrestore import models, zoo

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


def _chain(layers: nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        x = F.relu(x, inplace=True) if isinstance(layer, nn.ReLU) else layer(x)
    return x


@dataclass(frozen=True)
class Network:
    title: str
    create: Callable[[], nn.Module]
    plain: type[Plain]

    def model(self) -> nn.Module:
        """fastrestore's model, the same at every call."""
        torch.manual_seed(0)
        return self.create().eval()

    def make_plain(self, model: nn.Module, height: int, width: int) -> Plain:
        if height % model.multiple_of or width % model.multiple_of:
            raise ValueError(f"{self.title} takes multiples of {model.multiple_of}, got {height} x {width}")
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


NETWORKS = {
    "dncnn20": Network("DnCNN-20 colour", lambda: _random(PlainDnCNN, 0.05, "dncnn", channels=3, depth=20), PlainDnCNN),
    "ffdnet": Network("FFDNet colour", lambda: _random(PlainFFDNet, 0.25, "ffdnet"), PlainFFDNet),
    "drunet": Network("DRUNet colour", lambda: _random(PlainDRUNet, 0.25, "drunet"), PlainDRUNet),
    "denoise-cnn": Network("denoise-cnn", lambda: zoo.load("denoise-cnn"), PlainUNet),
}


def flops_per_pixel(network: Network) -> float:
    """Operations of the convolutions for one pixel of the picture, counted as direct ones, 2 a multiply-add."""
    model = network.model()
    counted = [0]

    def count(layer: nn.Module, inputs: tuple[Tensor], out: Tensor) -> None:
        # A transposed convolution uses each weight once for every pixel of its input, an ordinary one of its output.
        pixels = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else out
        counted[0] += 2 * layer.weight.numel() * pixels.shape[-1] * pixels.shape[-2]

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network.make_plain(model, 64, 64)(torch.rand(1, 3, 64, 64))
    return counted[0] / 64**2
