"""Foreign weights in: public checkpoints of published architectures become models of ours.

The source is read as data only: safetensors; PyTorch files with weights_only=True; MATLAB 7.3 files (HDF5) of
MatConvNet networks.  The configuration follows from the tensors, and every name and shape must then match.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastrestore import checkpoint, models
from fastrestore.errors import MissingDependency, ModelError

MAX_NUMBERS = 2**30  # in one tensor of a .mat file


def convert(source: str | os.PathLike, architecture: str, config: Mapping[str, Any] | None = None) -> nn.Module:
    """The model of the named architecture with the weights of a foreign file, in evaluation mode.

    source: a .safetensors, .pth, .pt, .ckpt or .mat file.  config: values that overrule what the tensors say.
    Raises ModelError for an unknown architecture or kind of file, a file that holds more than tensors, and the first
    tensor that is missing, unknown, of a wrong shape or not finite; MissingDependency for .mat without h5py.
    """
    source = Path(source)
    if architecture not in LAYOUTS:
        raise ModelError(f"no converter for {architecture!r}; there is one for {', '.join(sorted(LAYOUTS))}")
    if source.suffix not in READERS:
        raise ModelError(f"{source}: cannot convert a {source.suffix or 'nameless'} file; can {', '.join(READERS)}")
    if not source.is_file():
        raise ModelError(f"{source}: no such file")
    tensors = READERS[source.suffix](source)
    tensors = {_name(architecture, name): value for name, value in tensors.items()}
    if source.suffix == ".mat" and architecture == "ffdnet":
        tensors = _rows_first(source, tensors)
    try:
        found = LAYOUTS[architecture](tensors)
    except (KeyError, IndexError) as error:
        raise ModelError(f"{source}: these are not the tensors of {architecture}: no {error.args[0]}") from error
    with torch.device("meta"):
        model = models.create(architecture, **{**found, **(config or {})})
    checkpoint.match(source, {name: tuple(value.shape) for name, value in tensors.items()}, model)
    tensors = {name: value.to(torch.float32).contiguous() for name, value in tensors.items()}
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ModelError(f"{source}: tensor {name} holds numbers that are not finite")
    model.load_state_dict(tensors, assign=True)
    return model.requires_grad_(True).eval()


def _name(architecture: str, name: str) -> str:
    """The published name: 'conv.3.weight', a plain count of the convolutions, becomes 'model.6.weight'."""
    name = name.removeprefix("module.")
    counted = re.fullmatch(r"conv\.(\d{1,4})\.(weight|bias)", name)
    if counted and architecture in ("dncnn", "ffdnet"):
        return f"model.{2 * int(counted[1])}.{counted[2]}"
    return name


def _rows_first(source: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """FFDNet's four sub-images run down the columns first in MATLAB; pixel_unshuffle has rows first."""
    names = sorted((name for name in tensors if name.endswith(".weight")), key=_count)
    if not names or tensors[names[-1]].shape[0] % 4 or tensors[names[0]].shape[1] % 4 != 1:
        raise ModelError(f"{source}: these are not the tensors of ffdnet")
    first, last, bias = names[0], names[-1], names[-1].replace("weight", "bias")
    order = torch.arange(tensors[last].shape[0]).reshape(-1, 2, 2).transpose(1, 2).reshape(-1)
    with_sigma = torch.cat([order, torch.tensor([len(order)])])
    if tensors[first].shape[1] != len(with_sigma):
        raise ModelError(f"{source}: these are not the tensors of ffdnet")
    return tensors | {
        first: tensors[first][:, with_sigma],
        last: tensors[last][order],
        bias: tensors[bias][order],
    }


def _count(name: str) -> int:
    return int(name.split(".")[1])


def _plain(tensors: Mapping[str, Tensor]) -> tuple[int, int, int]:
    """(channels out, width, depth) of a chain of convolutions model.0, model.2, ..."""
    depth = sum(re.fullmatch(r"model\.\d{1,4}\.weight", name) is not None for name in tensors)
    width, last = _sizes(tensors, "model.0.weight")[0], _sizes(tensors, f"model.{2 * depth - 2}.weight")
    return last[0], width, depth


def _dncnn(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    channels, width, depth = _plain(tensors)
    return {"channels": channels, "width": width, "depth": depth}


def _ffdnet(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    outputs, width, depth = _plain(tensors)
    return {"channels": outputs // 4, "width": width, "depth": depth}


def _drunet(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    blocks = sum(re.fullmatch(r"m_body\.\d{1,4}\.res\.0\.weight", name) is not None for name in tensors)
    names = ["m_head.weight", *(f"m_down{level}.{blocks}.weight" for level in (1, 2, 3))]
    widths = [_sizes(tensors, name)[0] for name in names]
    return {"channels": _sizes(tensors, "m_tail.weight")[0], "widths": widths, "blocks": blocks}


def _rednet(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    layers = sum(re.fullmatch(r"conv_layers\.\d{1,4}\.0\.weight", name) is not None for name in tensors)
    width, channels = _sizes(tensors, "conv_layers.0.0.weight")[:2]
    return {"channels": channels, "width": width, "layers": layers, "skips": layers > 5}  # RED10 has none


def _sizes(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """The shape of a convolution's weight.  Raises KeyError for another rank or no such tensor."""
    if tensors[name].dim() != 4:
        raise KeyError(f"{name} of 4 dimensions")
    return tuple(tensors[name].shape)


def _read_torch(source: Path) -> dict[str, Tensor]:
    """A state dict, or the one inside {'params_ema' | 'params' | 'state_dict': ...}.  Nothing of the file is run."""
    try:
        table = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle of random bytes raises UnpicklingError, IndexError, KeyError and more
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ModelError(f"{source}: not a file of tensors only, and nothing in it was run: {reason}") from error
    for wrapper in ("params_ema", "params", "state_dict"):
        if isinstance(table, dict) and isinstance(table.get(wrapper), dict):
            table = table[wrapper]
            break
    if not isinstance(table, dict) or not table:
        raise ModelError(f"{source}: holds no table of tensors")
    for name, value in table.items():
        plain = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
        if not isinstance(name, str) or not plain or not value.is_floating_point():
            raise ModelError(f"{source}: {name!r:.100} is not a plain tensor of floating-point numbers")
    return table


def _read_mat(source: Path) -> dict[str, Tensor]:
    """The convolutions of a MatConvNet SimpleNN in a MATLAB 7.3 file, as conv.{i}.weight (OIHW) and conv.{i}.bias."""
    try:
        import h5py
    except ImportError as error:
        raise MissingDependency("reading .mat files needs h5py: pip install 'fastrestore[convert]'") from error
    try:
        with h5py.File(source, "r") as file:
            return _mat_convolutions(source, file, h5py)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{source}: not a MATLAB 7.3 file of a MatConvNet network ({error!s:.150})") from error


def _mat_convolutions(source: Path, file: Any, h5py: Any) -> dict[str, Tensor]:
    def member(group: Any, name: str) -> Any:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):  # another link could lead to another file
            raise ModelError(f"{source}: {group.name} has no {name!r}")
        return group[name]

    tensors, count = {}, 0
    for reference in _mat_array(source, member(member(file, "net"), "layers")).ravel():
        layer = file[reference]
        kind = _mat_array(source, member(layer, "type")).astype("uint16").tobytes().decode("utf-16-le")
        if kind == "bnorm":
            raise ModelError(f"{source}: batch normalisation is not merged into the convolutions")
        if kind != "conv":
            continue
        filters, bias = (file[r] for r in _mat_array(source, member(layer, "weights")).ravel())
        # MATLAB's [height, width, in, out] arrives reversed, as [out, in, width, height].
        weight = _mat_array(source, filters)
        weight = weight.reshape((1,) * (4 - weight.ndim) + weight.shape)  # MATLAB drops trailing ones
        tensors[f"conv.{count}.weight"] = _from_mat(weight.transpose(0, 1, 3, 2))
        tensors[f"conv.{count}.bias"] = _from_mat(_mat_array(source, bias).ravel())
        count += 1
    return tensors


def _from_mat(values: Any) -> Tensor:
    return torch.from_numpy(values.astype("float32", order="C"))


def _mat_array(source: Path, dataset: Any) -> Any:
    """The values of a dataset that lies in this very file and is of a sane size."""
    if dataset.is_virtual or dataset.external:
        raise ModelError(f"{source}: {dataset.name} points to another file")
    if math.prod(dataset.shape) > MAX_NUMBERS:
        raise ModelError(f"{source}: {dataset.name} of shape {dataset.shape} is too large")
    return dataset[()]


LAYOUTS: dict[str, Callable[[Mapping[str, Tensor]], dict[str, Any]]] = {
    "dncnn": _dncnn,
    "drunet": _drunet,
    "ffdnet": _ffdnet,
    "rednet": _rednet,
}

READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    ".safetensors": checkpoint.read_tensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".ckpt": _read_torch,
    ".mat": _read_mat,
}
