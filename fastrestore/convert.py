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

    source: a .safetensors, .pth, .pt, .pkl, .ckpt or .mat file, or a folder of one .pkl file for each part of the
    network (DMPHN's: encoder_lv1.pkl, ...).  config: values that overrule what the tensors say, and those that no
    tensor tells (NAFNet's `local`, for one).
    Raises ModelError for an unknown architecture or kind of file, a file that holds more than tensors, and the first
    tensor that is missing, unknown, of a wrong shape or not finite; MissingDependency for .mat without h5py.
    """
    source = Path(source)
    if architecture not in LAYOUTS:
        raise ModelError(f"no converter for {architecture!r}; there is one for {', '.join(sorted(LAYOUTS))}")
    tensors = _read_parts(source) if source.is_dir() else read(source)
    tensors = {_name(architecture, name): value for name, value in tensors.items()}
    computed = COMPUTED.get(architecture)
    if computed:
        tensors = {name: value for name, value in tensors.items() if not computed.fullmatch(name)}
    for name, value in tensors.items():
        if not value.is_floating_point():
            raise ModelError(f"{source}: tensor {name!r:.100} holds {value.dtype}, not floating-point numbers")
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


def read(source: Path) -> dict[str, Tensor]:
    """The tensors of a foreign file, by the names in it.  Raises as convert does."""
    if source.suffix not in READERS:
        raise ModelError(f"{source}: cannot convert a {source.suffix or 'nameless'} file; can {', '.join(READERS)}")
    if not source.is_file():
        raise ModelError(f"{source}: no such file")
    return READERS[source.suffix](source)


def _read_parts(folder: Path) -> dict[str, Tensor]:
    """The tensors of all .pkl files of a folder, each file's under its name."""
    files = sorted(folder.glob("*.pkl"))
    if not files:
        raise ModelError(f"{folder}: holds no .pkl files")
    return {
        f"{file.stem}.{name.removeprefix('module.')}": value for file in files for name, value in read(file).items()
    }


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


def _dmphn(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, channels = _sizes(tensors, "encoder_lv1.layer1.weight")[:2]
    layers = sum(re.fullmatch(r"encoder_lv\d{1,4}\.layer1\.weight", name) is not None for name in tensors)
    return {"channels": channels, "width": width, "layers": layers}


def _esdnet(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, inputs = _sizes(tensors, "encoder.conv_first.0.weight")[:2]
    return {
        "channels": inputs // 4,
        "encoder_width": width,
        "decoder_width": _sizes(tensors, "decoder.preconv_1.conv.0.weight")[0],
        "growth": _sizes(tensors, "encoder.encoder_1.rdb.conv_layers.0.conv.0.weight")[0],
        "blocks": _length(tensors, "encoder.encoder_1.sam_blocks"),
    }


def _mimo_unet(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, channels = _sizes(tensors, "feat_extract.0.main.0.weight")[:2]
    return {"channels": channels, "width": width, "blocks": _length(tensors, "Encoder.0.layers")}


def _nafnet(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, channels = _sizes(tensors, "intro.weight")[:2]
    levels = range(_length(tensors, "downs"))
    return {
        "channels": channels,
        "width": width,
        "encoder_blocks": [_length(tensors, f"encoders.{level}") for level in levels],
        "middle_blocks": _length(tensors, "middle_blks"),
        "decoder_blocks": [_length(tensors, f"decoders.{level}") for level in levels],
    }


def _restormer(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, channels = _sizes(tensors, "patch_embed.proj.weight")[:2]
    levels = ["encoder_level1", "encoder_level2", "encoder_level3", "latent"]
    hidden = _sizes(tensors, "latent.0.ffn.project_out.weight")[1]
    return {
        "channels": channels,
        "width": width,
        "blocks": [_length(tensors, level) for level in levels],
        "refinement_blocks": _length(tensors, "refinement"),
        "heads": [_sizes(tensors, f"{level}.0.attn.temperature", 3)[0] for level in levels],
        "expansion": -(-100 * hidden // (8 * width)),  # the least that gives this many
        "norm_bias": "encoder_level1.0.norm1.body.bias" in tensors,
    }


def _scunet(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, channels = _sizes(tensors, "m_head.0.weight")[:2]
    stages = ["m_down1", "m_down2", "m_down3", "m_body", "m_up3", "m_up2", "m_up1"]
    heads, distances, _ = _sizes(tensors, "m_down1.0.trans_block.msa.relative_position_params", 3)
    return {
        "channels": channels,
        "width": width,
        "blocks": [_length(tensors, stage) - (stage != "m_body") for stage in stages],  # less the change of size
        "head_width": width // (2 * heads),
        "window": (distances + 1) // 2,
    }


def _swinir(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, channels = _sizes(tensors, "conv_first.weight")[:2]
    groups = [f"layers.{i}.residual_group.blocks" for i in range(_length(tensors, "layers"))]
    tables = [_sizes(tensors, f"{group}.0.attn.relative_position_bias_table", 2) for group in groups]
    if not tables:
        raise KeyError("layers.0.residual_group.blocks.0.attn.relative_position_bias_table")
    window = (math.isqrt(tables[0][0]) + 1) // 2
    return {
        "channels": channels,
        "width": width,
        "blocks": [_length(tensors, group) for group in groups],
        "heads": [heads for _, heads in tables],
        "window": window,
        "expansion": _sizes(tensors, f"{groups[0]}.0.mlp.fc1.weight", 2)[0] // width,
        "peak": 255 if window == 7 else 1,  # the published networks for JPEG are the ones with windows of 7
    }


def _sizes(tensors: Mapping[str, Tensor], name: str, rank: int = 4) -> tuple[int, ...]:
    """The shape of a tensor, of a convolution's weight mostly.  Raises KeyError if there is none of this rank."""
    if tensors[name].dim() != rank or tensors[name].numel() == 0:
        raise KeyError(f"{name} of {rank} dimensions")
    return tuple(tensors[name].shape)


def _length(tensors: Mapping[str, Tensor], path: str) -> int:
    """How many layers a list of them holds: path.0, path.1, ..."""
    found = (re.match(rf"{re.escape(path)}\.(\d{{1,4}})\.", name) for name in tensors)
    return len({match[1] for match in found if match})


def _read_torch(source: Path) -> dict[str, Tensor]:
    """A state dict, or the one inside {'params_ema' | 'params' | 'state_dict' | 'model': ...}.

    Nothing of the file is run.
    """
    try:
        table = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle of random bytes raises UnpicklingError, IndexError, KeyError and more
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ModelError(f"{source}: not a file of tensors only, and nothing in it was run: {reason}") from error
    for wrapper in ("params_ema", "params", "state_dict", "model"):
        if isinstance(table, dict) and isinstance(table.get(wrapper), dict):
            table = table[wrapper]
            break
    if not isinstance(table, dict) or not table:
        raise ModelError(f"{source}: holds no table of tensors")
    for name, value in table.items():
        plain = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
        if not isinstance(name, str) or not plain:
            raise ModelError(f"{source}: {name!r:.100} is not a plain tensor")
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


def _estrnn(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, channels = _sizes(tensors, "cell.F_B0.weight")[:2]
    beside = _sizes(tensors, "fusion.fusion.weight")[0] // (5 * width) - 1
    return {
        "channels": channels,
        "width": width,
        "blocks": _length(tensors, "cell.F_R.RDBs"),
        "past": beside // 2,
        "future": beside - beside // 2,
    }


def _fastdvdnet(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "channels": _sizes(tensors, "temp1.outc.convblock.3.weight")[0],
        "width": _sizes(tensors, "temp1.outc.convblock.0.weight")[0],
        "frame_width": _sizes(tensors, "temp1.inc.convblock.0.weight")[0] // 3,
    }


LAYOUTS: dict[str, Callable[[Mapping[str, Tensor]], dict[str, Any]]] = {
    "dmphn": _dmphn,
    "dncnn": _dncnn,
    "drunet": _drunet,
    "esdnet": _esdnet,
    "estrnn": _estrnn,
    "fastdvdnet": _fastdvdnet,
    "ffdnet": _ffdnet,
    "mimo-unet": _mimo_unet,
    "nafnet": _nafnet,
    "rednet": _rednet,
    "restormer": _restormer,
    "scunet": _scunet,
    "swinir": _swinir,
}

# Tensors of published files that follow from the configuration.
COMPUTED = {
    "fastdvdnet": re.compile(r".*\.num_batches_tracked"),
    "swinir": re.compile(r"layers\.\d{1,4}\..*\.(relative_position_index|attn_mask)"),
}

READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    ".safetensors": checkpoint.read_tensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".pkl": _read_torch,
    ".ckpt": _read_torch,
    ".mat": _read_mat,
}
