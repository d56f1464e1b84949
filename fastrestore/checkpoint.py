"""Model files: safetensors with the configuration, a card and a checksum inside.

The metadata key "fastrestore" holds JSON {format, architecture, config, card, sha256}; the checksum covers the
other four and every tensor's name, dtype, shape and bytes.  The safetensors format itself checks neither that nor
names, shapes or values, so everything is checked here: a model file is data from outside.
"""

import hashlib
import json
import math
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from fastrestore import models
from fastrestore.errors import ModelError
from fastrestore.files import whole_file

FORMAT = 1
MAX_HEADER = 16 * 2**20  # bytes
MAX_RANK = 8
MAX_SIZE = 2**48  # of one dimension, and of an offset
MAX_TENSORS = 20_000
DTYPES = {
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "BF16": torch.bfloat16,
    "I64": torch.int64,  # tables of indices, in foreign files
}
OWN_DTYPES = ("F16", "F32")  # what our own files hold


@dataclass(frozen=True)
class Description:
    """What a model file says of itself."""

    architecture: str
    config: dict[str, Any]
    card: dict[str, Any]
    sha256: str


def save(
    model: nn.Module,
    path: str | os.PathLike,
    dtype: torch.dtype | None = None,
    card: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model's weights, configuration and card; the file appears whole or not at all.

    dtype: torch.float16 halves the file (the weights are rounded), None keeps float32.  card: values that JSON can
    hold.  Raises ModelError for a model that is not in models.MODELS, for another dtype, and for weights that are
    not finite in that dtype.
    """
    path = Path(path)
    names = [name for name, kind in models.MODELS.items() if type(model) is kind]
    if not names:
        raise ModelError(f"{path}: {type(model).__name__} is not one of fastrestore's architectures")
    if dtype not in (None, torch.float32, torch.float16):
        raise ModelError(f"{path}: weights can be saved as float32 or float16, not {dtype}")
    tensors = {
        name: value.detach().to("cpu", dtype or torch.float32).contiguous()
        for name, value in model.state_dict().items()
    }
    for name, value in tensors.items():
        _check_finite(path, name, value)
    config = json.loads(json.dumps(models.config_of(model)))  # tuples become lists, as they will be read
    write(path, tensors, {"architecture": names[0], "config": config, "card": dict(card or {})})


def load(path: str | os.PathLike) -> nn.Module:
    """The model of a file that `save` wrote, with float32 weights, on the CPU, in evaluation mode.

    Raises ModelError, naming the file and the tensor, for anything that is not exactly such a file.
    """
    path = Path(path)
    header, data = _read(path)
    described = _description(path, header)
    model = _build(path, described)
    match(path, {name: spec.shape for name, spec in header.tensors.items()}, model)
    for name, spec in header.tensors.items():
        if spec.dtype not in OWN_DTYPES:
            raise ModelError(f"{path}: tensor {name} has dtype {spec.dtype}; wanted {' or '.join(OWN_DTYPES)}")
    if _checksum(_document(described), header.tensors, data) != described.sha256:
        raise ModelError(f"{path}: the checksum does not match: the file is damaged or was altered")
    tensors = {name: _tensor(path, name, spec, data) for name, spec in header.tensors.items()}
    model.load_state_dict(tensors, assign=True)
    return model.requires_grad_(True).eval()


def describe(path: str | os.PathLike) -> Description:
    """What the header of a model file says; the weights are not read.  Raises ModelError as `load` does."""
    path = Path(path)
    with _open(path) as file:
        return _description(path, _read_header(path, file))


def rewrite_card(path: str | os.PathLike, card: Mapping[str, Any]) -> None:
    """Replaces the card of a model file; the weights and their dtype stay as they are, to the bit."""
    path = Path(path)
    load(path)  # refuses a damaged file, which would otherwise get a fresh checksum
    header, data = _read(path)
    described = _description(path, header)
    tensors = {name: _tensor(path, name, spec, data, dtype=DTYPES[spec.dtype]) for name, spec in header.tensors.items()}
    write(path, tensors, {"architecture": described.architecture, "config": described.config, "card": dict(card)})


def read_tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of any safetensors file: floating-point numbers as float32, indices as int64.

    Raises ModelError for a file that is malformed or holds other dtypes or numbers that are not finite.
    """
    path = Path(path)
    header, data = _read(path)
    return {
        name: _tensor(path, name, spec, data, torch.int64 if spec.dtype == "I64" else torch.float32)
        for name, spec in header.tensors.items()
    }


def match(source: str | os.PathLike, shapes: Mapping[str, tuple[int, ...]], model: nn.Module) -> None:
    """Raises ModelError that names the first tensor that is missing, not wanted, or of another shape."""
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    kind = type(model).__name__
    missing, unknown = sorted(wanted.keys() - shapes.keys()), sorted(shapes.keys() - wanted.keys())
    if missing:
        also = f", and {unknown[0]!r:.100} is not one of its tensors" if unknown else ""
        raise ModelError(f"{source}: tensor {missing[0]} of {kind} is missing{also}")
    if unknown:
        raise ModelError(f"{source}: {kind} has no tensor {unknown[0]!r:.100}")
    for name, shape in wanted.items():
        if tuple(shapes[name]) != shape:
            raise ModelError(f"{source}: tensor {name} is {list(shapes[name])}; {kind} wants {list(shape)}")


def write(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Writes tensors and their document with its checksum; the file appears whole or not at all."""
    document = {"format": FORMAT, **document}
    layout, chunks = {}, {}
    for name, value in tensors.items():
        code = next(code for code, dtype in DTYPES.items() if dtype == value.dtype)
        layout[name] = _Spec(code, tuple(value.shape), 0, 0)
        chunks[name] = value.reshape(-1).view(torch.uint8).numpy()
    document["sha256"] = _checksum(document, layout, chunks)
    content = to_safetensors(dict(tensors), metadata={"fastrestore": json.dumps(document)})
    with whole_file(path) as file:
        file.write(content)


@dataclass(frozen=True)
class _Spec:
    """One tensor of the header; its bytes are data[begin:end]."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class _Header:
    metadata: dict[str, str]
    tensors: dict[str, _Spec]
    size: int  # bytes of the data that follows


def _open(path: Path) -> BinaryIO:
    """Opens a regular file; a FIFO, which could block for ever, is refused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ModelError(f"{path}: not a regular file")
    return os.fdopen(descriptor, "rb")


def _read(path: Path) -> tuple[_Header, dict[str, memoryview]]:
    """The header, and the bytes of each tensor.  The file's size is known to be right before it is read."""
    with _open(path) as file:
        header = _read_header(path, file)
        data = bytearray(header.size)
        if file.readinto(data) != header.size or file.read(1):
            raise ModelError(f"{path}: the file changed while it was read")
    view = memoryview(data)
    return header, {name: view[spec.begin : spec.end] for name, spec in header.tensors.items()}


def _read_header(path: Path, file: BinaryIO) -> _Header:
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    if len(prefix) < 8:
        raise ModelError(f"{path}: {size} bytes are too few for a safetensors file")
    (length,) = struct.unpack("<Q", prefix)
    if length > MAX_HEADER:
        raise ModelError(f"{path}: not a safetensors file: it claims a header of {length} bytes")
    if length > size - 8:
        raise ModelError(f"{path}: the file is cut: a header of {length} bytes in a file of {size}")
    try:
        table = json.loads(file.read(length), object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: the safetensors header is not valid JSON ({error!s:.100})") from error
    if not isinstance(table, dict):
        raise ModelError(f"{path}: the safetensors header must be a JSON object")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelError(f"{path}: the safetensors metadata must map strings to strings")
    if len(table) > MAX_TENSORS:
        raise ModelError(f"{path}: {len(table)} tensors are more than the limit of {MAX_TENSORS}")
    tensors = {name: _spec(path, name, entry) for name, entry in table.items()}
    end = 0
    for name, spec in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if spec.begin != end:
            kind = "overlaps another" if spec.begin < end else "leaves a gap before it"
            raise ModelError(f"{path}: tensor {name!r:.100} {kind} in the file")
        end = spec.end
    if end != size - 8 - length:
        kind = "is cut" if end > size - 8 - length else "has trailing bytes"
        raise ModelError(f"{path}: the file {kind}: {end} bytes of tensors wanted, {size - 8 - length} there")
    return _Header(metadata, tensors, end)


def _spec(path: Path, name: str, entry: Any) -> _Spec:
    where = f"{path}: tensor {name!r:.100}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelError(f"{where} must have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ModelError(f"{where} has dtype {dtype!r:.20}; wanted one of {', '.join(DTYPES)}")
    if not _sizes(shape, 1) or len(shape) > MAX_RANK:
        raise ModelError(f"{where} must have a shape of at most {MAX_RANK} sizes >= 1")
    if not _sizes(offsets, 0) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ModelError(f"{where} must have two data_offsets, the second not before the first")
    wanted = math.prod(shape) * DTYPES[dtype].itemsize  # Python's integers do not wrap
    if offsets[1] - offsets[0] != wanted:
        raise ModelError(f"{where} of shape {shape!s:.100} needs {wanted} bytes, {offsets[1] - offsets[0]} given")
    return _Spec(dtype, tuple(shape), *offsets)


def _sizes(value: Any, least: int) -> bool:
    return isinstance(value, list) and all(type(item) is int and least <= item <= MAX_SIZE for item in value)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice")
    return table


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _description(path: Path, header: _Header) -> Description:
    text = header.metadata.get("fastrestore")
    if text is None:
        raise ModelError(f"{path}: not a fastrestore model file; see `fastrestore convert` for foreign weights")
    try:
        document = json.loads(text, object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: the model description is not valid JSON ({error!s:.100})") from error
    kinds = {"format": int, "architecture": str, "config": dict, "card": dict, "sha256": str}
    if not isinstance(document, dict) or document.keys() != kinds.keys():
        raise ModelError(f"{path}: the model description must have exactly {', '.join(kinds)}")
    for key, kind in kinds.items():
        if type(document[key]) is not kind:
            raise ModelError(f"{path}: {key} in the model description must be of type {kind.__name__}")
    if document.pop("format") != FORMAT:
        raise ModelError(f"{path}: only model files of format {FORMAT} can be read; a newer fastrestore wrote this")
    return Description(**document)


def _build(path: Path, described: Description) -> nn.Module:
    """The described model without memory for its weights: sizes are compared before anything is allocated."""
    try:
        with torch.device("meta"):
            return models.create(described.architecture, **described.config)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _document(described: Description) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "architecture": described.architecture,
        "config": described.config,
        "card": described.card,
    }


def _checksum(document: Mapping[str, Any], tensors: Mapping[str, _Spec], data: Mapping[str, Any]) -> str:
    """SHA-256 over the document and, in the order of names, each tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name in sorted(tensors):
        spec = tensors[name]
        digest.update(json.dumps([name, spec.dtype, spec.shape]).encode())
        digest.update(data[name])
    return digest.hexdigest()


def _tensor(
    path: Path, name: str, spec: _Spec, data: Mapping[str, memoryview], dtype: torch.dtype = torch.float32
) -> Tensor:
    """The named tensor, in memory of its own."""
    value = torch.empty(spec.shape, dtype=DTYPES[spec.dtype])
    value.reshape(-1).view(torch.uint8).copy_(torch.frombuffer(data[name], dtype=torch.uint8))
    value = value.to(dtype)
    _check_finite(path, name, value)
    return value


def _check_finite(path: Path, name: str, value: Tensor) -> None:
    if not torch.isfinite(value).all():
        raise ModelError(f"{path}: tensor {name} holds numbers that are not finite in {str(value.dtype)[6:]}")
