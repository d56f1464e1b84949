"""Plan files: what is saved runs to the same bits, and every hostile or damaged file is refused by name."""

import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

import fastrestore as fr
from fastrestore import checkpoint, engine, models, zoo
from fastrestore.errors import ModelError

SMALL = {
    "dncnn": {"depth": 3, "width": 16},
    "ffdnet": {"depth": 3, "width": 16},
    "rednet": {"layers": 4, "width": 16},
    "unet": {"widths": (16, 32), "blocks": 1},
    "autoencoder": {"widths": (16, 32), "blocks": 2},
    "drunet": {"widths": (16, 16, 32, 32), "blocks": 1},
    "mimo-unet": {"width": 16, "blocks": 1},
}
NO_PLAN = {"dmphn", "esdnet", "nafnet", "restormer", "scunet", "swinir"}  # tests/models/test_published.py says why
CARD = {"name": "test", "task": "denoise", "psnr": 31.0, "σ": [15, 25.5, None, True], "nested": {"a": {}}}


def small_model(name: str) -> nn.Module:
    torch.manual_seed(3)
    model = models.create(name, **SMALL[name])
    with torch.no_grad():  # last layers start near zero
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def run(plan: engine.Plan, height: int = 29, width: int = 35) -> np.ndarray:
    image = np.random.default_rng(0).random((height, width, plan.channels), dtype=np.float32)
    return plan.session(threads=1).run(image, sigma=20.0 if plan.takes_sigma else None, clip=False)


@pytest.mark.parametrize("precision", engine.PRECISIONS)
@pytest.mark.parametrize("name", sorted(SMALL.keys() - NO_PLAN))
def test_the_same_bits_after_saving(name, precision, tmp_path):
    plan = engine.compile(small_model(name), precision, card=CARD)
    path = tmp_path / "m.frp"
    plan.save(path)
    loaded = fr.Plan.load(path)
    np.testing.assert_array_equal(run(loaded), run(plan))
    assert loaded.steps == plan.steps
    for key in ("channels", "takes_sigma", "halo", "multiple_of", "isa", "precision", "card"):
        assert getattr(loaded, key) == getattr(plan, key)
    loaded.save(tmp_path / "again.frp")
    assert (tmp_path / "again.frp").read_bytes() == path.read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / "again.frp"])


def test_a_saved_plan_runs_without_torch(tmp_path):
    """Nor does it import anything else beside numpy."""
    plan = engine.compile(small_model("unet"))
    plan.save(tmp_path / "m.frp")
    script = f"""
import sys
for name in ("torch", "cv2", "PIL", "tifffile", "safetensors"):
    sys.modules[name] = None
import numpy as np
import fastrestore as fr
image = np.random.default_rng(0).random((29, 35, 3), dtype=np.float32)
session = fr.Plan.load({str(tmp_path / "m.frp")!r}).session(threads=1)
np.save({str(tmp_path / "out.npy")!r}, session.run(image, sigma=20.0, clip=False))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), run(plan))


class EveryConvolution(nn.Module):
    """What the models leave out: groups, dilation, strides, even kernels, borders, numbers of many digits."""

    config = models.unet.UNetConfig(channels=1)
    multiple_of = 2

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 16, (3, 5), stride=2, padding=(1, 2), bias=False)
        self.grouped = nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=4)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.up = nn.ConvTranspose2d(16, 32, 4, stride=2, padding=1, groups=4)
        self.last = nn.Conv2d(32, 1, 3, padding=1, padding_mode="reflect")

    def forward(self, x):
        y = nn.functional.leaky_relu(self.down(x), 0.1)
        z = self.depthwise(torch.relu(self.grouped(y) + y)) * (1 / 3)
        return self.last(self.up(z)) * 1e-7 + x * 0.7


def test_every_attribute_comes_back(tmp_path):
    torch.manual_seed(0)
    plan = engine.compile(EveryConvolution().eval())
    plan.save(tmp_path / "m.frp")
    np.testing.assert_array_equal(run(fr.Plan.load(tmp_path / "m.frp")), run(plan))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "m.frp"
    engine.compile(small_model("unet"), card=CARD).save(path)
    return path


def parts(path) -> tuple[dict, dict, bytes]:
    """(safetensors header, plan document, data bytes) of a plan file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["fastrestore_plan"]), content[8 + length :]


def put(path, header, data: bytes, document=None) -> None:
    """Writes the parts with the right checksum: an attacker can compute it as well."""
    if isinstance(header, dict) and document is not None:
        text = document if isinstance(document, str) else json.dumps(document)
        digest = hashlib.sha256(text.encode())
        for name in sorted(header.keys() - {"__metadata__"}):
            begin, end = header[name]["data_offsets"]
            digest.update(json.dumps([name, header[name]["shape"]], separators=(",", ":")).encode())
            digest.update(data[begin:end])
        header = header | {"__metadata__": {"fastrestore_plan": text, "sha256": digest.hexdigest()}}
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def refused(path, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        fr.Plan.load(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 1000
    for word in words:
        assert word in message


def test_other_tools_can_read_the_tensors(saved):
    model = small_model("unet")
    arrays = list(load_file(saved).values())
    assert sum(array.size for array in arrays) == sum(value.numel() for value in model.state_dict().values())


def test_the_checksum_is_what_the_header_file_says(saved, tmp_path):
    header, document, data = parts(saved)
    put(tmp_path / "m.frp", header, data, document)
    np.testing.assert_array_equal(run(fr.Plan.load(tmp_path / "m.frp")), run(fr.Plan.load(saved)))


def test_cut_or_longer_files(saved, tmp_path):
    content, path = saved.read_bytes(), tmp_path / "m.frp"
    for size in [*range(0, 200, 7), *range(200, len(content), 997), len(content) - 1]:
        path.write_bytes(content[:size])
        refused(path)
    path.write_bytes(content + b"\0")
    refused(path, "trailing")


def test_flipped_bits(saved, tmp_path):
    content, path = saved.read_bytes(), tmp_path / "m.frp"
    rng = np.random.default_rng(0)
    for bit in [*range(64), *rng.integers(64, 8 * len(content), 200)]:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        refused(path)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "too few"),
        (b"\xff" * 8 + b"{}", "claims a header"),
        (struct.pack("<Q", 17 * 2**20) + b" " * (17 * 2**20), "claims a header"),
        (struct.pack("<Q", 100) + b"{}", "cut"),
        (struct.pack("<Q", 2) + b"[]", "JSON object"),
        (struct.pack("<Q", 2) + b"{}", "not a fastrestore plan"),
        (struct.pack("<Q", 2**20) + b"[" * 2**20, "deep"),
        (struct.pack("<Q", 14) + b'{"a":1,"a":1} ', "twice"),
        (struct.pack("<Q", 2**22) + b"[" + b"0," * (2**21 - 1) + b"0", "values"),
        (pickle.dumps({"a": 1}) * 10, "claims a header"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_of_other_kinds(content, words, tmp_path):
    path = tmp_path / "m.frp"
    path.write_bytes(content)
    refused(path, words)


def test_a_model_file_is_named_as_such(tmp_path):
    checkpoint.save(models.create("dncnn", depth=3, width=4), tmp_path / "m.safetensors")
    refused(tmp_path / "m.safetensors", "fastrestore compile")


def test_places_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "fifo.frp")
    refused(tmp_path / "fifo.frp", "regular")
    refused(tmp_path, "regular")
    refused(tmp_path / "missing.frp", "No such file")


def first(header: dict) -> str:
    return next(name for name in header if name != "__metadata__")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"data_offsets": [-4, 0]}, "data_offsets"),
        ({"data_offsets": [4, 0]}, "data_offsets"),
        ({"data_offsets": [0, 2**63]}, "64 bits"),
        ({"data_offsets": [0.0, 4.0]}, "data_offsets"),
        ({"data_offsets": [0]}, "data_offsets"),
        ({"shape": [2**40, 2**40]}, "63 bits"),
        ({"shape": [2**32, 2**30]}, "63 bits"),
        ({"shape": [1] * 9}, "shape"),
        ({"shape": [0]}, "shape"),
        ({"shape": [-1]}, "shape"),
        ({"shape": 3}, "shape"),
        ({"dtype": "F16"}, "F32"),
        ({"dtype": 1}, "F32"),
        ({"extra": 1}, "must have dtype"),
    ],
    ids=str,
)
def test_hostile_tensor_entries(change, words, saved, tmp_path):
    header, document, data = parts(saved)
    name = first(header)
    header[name] = header[name] | change
    text = json.dumps(document)
    header["__metadata__"] = {"fastrestore_plan": text, "sha256": "0" * 64}
    put(tmp_path / "m.frp", header, data)
    refused(tmp_path / "m.frp", words)


def test_hostile_tensor_tables(saved, tmp_path):
    header, document, data = parts(saved)
    path = tmp_path / "m.frp"
    names = [name for name in header if name != "__metadata__"]
    put(path, header | {names[1]: header[names[0]]}, data, document)
    refused(path, "overlaps")
    put(path, {name: entry for name, entry in header.items() if name != names[0]}, data[:], document)
    refused(path, names[1], "gap")
    many = {f"t{i}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i in range(20_001)}
    put(path, many, bytes(4 * len(many)), document)
    refused(path, "20000 tensors")
    put(path, {**header, "__metadata__": {"fastrestore_plan": 3}}, data)
    refused(path, "metadata")
    put(path, {**header, "__metadata__": {**header["__metadata__"], "more": "x"}}, data)
    refused(path, "more")


def test_missing_extra_renamed_and_transposed_tensors(saved, tmp_path):
    header, document, data = parts(saved)
    path = tmp_path / "m.frp"
    last = max((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    begin, end = header[last]["data_offsets"]
    put(path, {name: entry for name, entry in header.items() if name != last}, data[:begin], document)
    refused(path, last, "missing")
    put(path, {("other" if name == last else name): entry for name, entry in header.items()}, data, document)
    refused(path, last, "missing")
    extra = {"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]}
    put(path, header | {"more": extra}, data + bytes(4), document)
    refused(path, "more", "no node")
    weight = next(name for name, entry in header.items() if len(entry.get("shape", [])) == 4 and entry["shape"][0] > 3)
    shape = header[weight]["shape"]
    put(path, header | {weight: header[weight] | {"shape": [shape[1], shape[0], *shape[2:]]}}, data, document)
    refused(path, "node")
    flat = header[weight] | {"shape": [int(np.prod(shape))]}
    put(path, header | {weight: flat}, data, document)
    refused(path, "4 dimensions")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(value, saved, tmp_path):
    header, document, data = parts(saved)
    values = np.frombuffer(data, np.float32).copy()
    values[7] = value
    put(tmp_path / "m.frp", header, values.tobytes(), document)
    refused(tmp_path / "m.frp", "not finite", first(header))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"format": 2}, "newer"),
        ({"format": True}, "format"),
        ({"precision": "float8"}, "float8"),
        ({"precision": None}, "precision"),
        ({"channels": 1}, "channels"),
        ({"takes_sigma": False}, "takes_sigma"),
        ({"card": []}, "card"),
        ({"graph": None}, "graph"),
        ({"graph": {"nodes": [], "output": 0}}, "no node 0"),
        ({"graph": {"nodes": {}, "output": 0}}, "graph"),
        ({"graph": {"nodes": [3], "output": 0}}, "node 0"),
        ({"more": 1}, "exactly"),
    ],
    ids=str,
)
def test_hostile_documents(change, words, saved, tmp_path):
    header, document, data = parts(saved)
    put(tmp_path / "m.frp", header, data, document | change)
    refused(tmp_path / "m.frp", words)


def test_documents_that_are_not_json(saved, tmp_path):
    header, _, data = parts(saved)
    for text, word in (("{", "JSON"), ("[" * 5000, "deep"), ('{"a":NaN}', "JSON"), ("[1]", "format"), ("", "not a")):
        put(tmp_path / "m.frp", header, data, text)
        refused(tmp_path / "m.frp", word)


@pytest.mark.parametrize(
    "op, change, words",
    [
        ("conv2d", {"op": "eval"}, "unknown operator 'eval'"),
        ("conv2d", {"op": ["conv2d"]}, "op"),
        ("conv2d", {"path": "/etc/passwd"}, "unknown"),
        ("conv2d", {"stride_h": 0}, "stride"),
        ("conv2d", {"stride_h": 0, "stride_w": 0}, "stride"),
        ("conv2d", {"stride_h": 2**62, "stride_w": 2**62}, "stride"),
        ("conv2d", {"stride_h": 1.0}, "integer"),
        ("conv2d", {"pad_top": 2**62}, "padding"),
        ("conv2d", {"pad_left": -1}, "padding"),
        ("conv2d", {"dilation_h": 2**40}, "dilation"),
        ("conv2d", {"dilation_w": 0}, "dilation"),
        ("conv2d", {"groups": 0}, "channels"),
        ("conv2d", {"groups": -1}, "node"),
        ("conv2d", {"groups": 2**62}, "63 bits"),
        ("conv2d", {"groups": 2**50}, "channels"),
        ("conv2d", {"activation": "exec"}, "exec"),
        ("conv2d", {"residual": "both"}, "both"),
        ("conv2d", {"slope": "1"}, "number"),
        ("conv2d", {"scale": 1e39}, "float32"),
        ("conv2d", {"inputs": []}, "0 inputs"),
        ("conv2d", {"inputs": [0, 0, 0]}, "3 inputs"),
        ("conv2d", {"inputs": [-1]}, "earlier node"),
        ("conv2d", {"inputs": [2**31]}, "earlier node"),
        ("conv2d", {"inputs": [10**6]}, "no node"),
        ("conv2d", {"inputs": ["0"]}, "earlier node"),
        ("conv2d", {"inputs": 0}, "inputs"),
        ("conv2d", {"weight": None}, "4 dimensions"),
        ("conv2d", {"weight": "nothing"}, "nothing"),
        ("conv2d", {"weight": 1}, "weight"),
        ("input", {"channels": 0}, "channels"),
        ("input", {"channels": 2**40}, "channels"),
        ("sigma_plane", {"inputs": [100]}, "no node"),
        ("pixel_shuffle", {"factor": 0}, "factor"),
        ("pixel_shuffle", {"factor": 2**32}, "factor"),
        ("pixel_unshuffle", {"factor": -1}, "factor"),
        ("pixel_unshuffle", {"factor": 2**62}, "factor"),
        ("concat", {"inputs": []}, "0 inputs"),
        ("concat", {"inputs": [0] * 65}, "64 images"),
    ],
    ids=str,
)
def test_hostile_nodes(op, change, words, saved, tmp_path):
    header, document, data = parts(saved)
    node = next(node for node in document["graph"]["nodes"] if node["op"] == op)
    node |= change
    put(tmp_path / "m.frp", header, data, document)
    refused(tmp_path / "m.frp", words)


@pytest.mark.parametrize(
    "op, attributes, words",
    [
        ("multiply", {"inputs": [0, 0], "parts": [0, 4]}, "two parts"),
        ("multiply", {"inputs": [0, 0], "parts": [0, 4, 0, 3]}, "different shapes"),
        ("multiply", {"inputs": [0, 0], "parts": [0, 4, 1, 4]}, "no channels"),
        ("multiply", {"inputs": [0, 0], "parts": [0, 4, 2**63 - 1, 1]}, "no channels"),
        ("multiply", {"inputs": [0, 0], "parts": [-1, 2, 0, 2]}, "no channels"),
        ("multiply", {"inputs": [0, 0], "parts": [0, 0, 0, 0]}, "no channels"),
        ("concat", {"inputs": [0, 0], "parts": [0, 4]}, "joins"),
        ("concat", {"inputs": [0], "parts": [0]}, "pairs"),
        ("concat", {"inputs": [0], "parts": [0, "4"]}, "integers"),
        ("concat", {"inputs": [0], "parts": None}, "array"),
        ("resize", {"mode": "lanczos", "enlarge": 0, "factor": 2}, "lanczos"),
        ("resize", {"mode": "nearest", "enlarge": 2, "factor": 2}, "0 or 1"),
        ("resize", {"mode": "nearest", "enlarge": True, "factor": 2}, "integer"),
        ("resize", {"mode": "nearest", "enlarge": 1, "factor": 2}, "larger than the input"),
        ("layer_norm", {"scale": None, "shift": None, "epsilon": 0.1, "centred": 1}, "one scale"),
        ("mean", {}, "takes partial sums"),
        ("channel_softmax", {"temperature": None}, "takes partial sums of products"),
        ("partial_gram", {"heads": 0}, "for each of 0 heads"),
        ("partial_gram", {"heads": 1}, "4 channels are not three for each of 1 heads"),
        ("mix", {"inputs": [0, 0], "heads": 1, "parts": [0, 4, 0, 2]}, "weights do not fit"),
        ("mix", {"inputs": [0, 0], "heads": 1, "parts": [0, 4]}, "two parts"),
        ("window_attention", {"heads": 2**62, "window": 8, "shift": 0, "bias": None}, "heads"),
        ("resize", {"mode": "nearest", "enlarge": 0, "factor": 0}, "factor"),
        ("resize", {"mode": "nearest", "enlarge": 0, "factor": 2**62}, "factor"),
        ("activate", {"curve": "eval", "a": 0.0, "b": 0.0, "c": 0.0, "slope": None}, "eval"),
        ("activate", {"curve": "clamp", "a": "nan", "b": 0.0, "c": 0.0, "slope": None}, "inf"),
        ("activate", {"curve": "prelu", "a": 0.0, "b": 0.0, "c": 0.0, "slope": None}, "slope"),
        ("affine", {"scale": None, "shift": None}, "one scale"),
        ("combine", {"inputs": [0, 0], "parts": [0, 4], "formula": "divide"}, "two parts"),
        ("combine", {"inputs": [0, 0], "parts": [0, 4, 0, 4], "formula": "power"}, "power"),
        ("combine", {"inputs": [0, 0], "parts": [0, 4, 0, 3], "formula": "above"}, "different shapes"),
        ("combine", {"inputs": [0, 0], "parts": [0, 4, 2**63 - 1, 1], "formula": "minimum"}, "no channels"),
        ("combine", {"inputs": [0], "parts": [0, 4], "formula": "divide"}, "1 inputs"),
        ("channel_pool", {"kind": "min"}, "min"),
        ("channel_pool", {"kind": "max", "inputs": [2**30]}, "no node"),
        ("local_mean", {"side": 0}, "side"),
        ("local_mean", {"side": 2**16 + 1}, "side"),
        ("local_mean", {"side": -(2**62)}, "side"),
        ("local_mean", {"side": 2.5}, "integer"),
        ("local_mean", {}, "side is missing"),
        ("pool", {"kernel_h": 0}, "kernel"),
        ("pool", {"kernel_w": 2**62}, "kernel"),
        ("pool", {"stride_h": 0, "stride_w": 0}, "stride"),
        ("pool", {"pad_top": 2}, "padding"),
        ("pool", {"dilation_h": 2**62}, "dilation"),
        ("pool", {"divisor": -1}, "divisor"),
        ("pool", {"kind": "min"}, "min"),
    ],
    ids=str,
)
def test_hostile_nodes_without_weights(op, attributes, words, saved, tmp_path):
    node = {"op": op, "inputs": [0]}
    if op == "pool":
        node |= {"kind": "max", "kernel_h": 2, "kernel_w": 2, "stride_h": 2, "stride_w": 2, "pad_top": 0, "pad_left": 0}
        node |= {"dilation_h": 1, "dilation_w": 1, "divisor": 0}
    graph = {"nodes": [{"op": "input", "inputs": [], "channels": 4, "border": "clamp"}, node | attributes], "output": 0}
    _, document, _ = parts(saved)
    put(tmp_path / "m.frp", {}, b"", document | {"graph": graph, "channels": 4, "takes_sigma": False})
    refused(tmp_path / "m.frp", words, "node 1")


def test_hostile_graphs(saved, tmp_path):
    header, document, data = parts(saved)
    path, nodes = tmp_path / "m.frp", document["graph"]["nodes"]
    for key in nodes[-1]:
        shorter = [*nodes[:-1], {name: value for name, value in nodes[-1].items() if name != key}]
        put(path, header, data, document | {"graph": {"nodes": shorter, "output": 0}})
        refused(path, key)
    for output in (-1, len(nodes), 2**40, None, 2):
        put(path, header, data, document | {"graph": {"nodes": nodes, "output": output}})
        refused(path)
    # A weight that serves twice would let a short file ask for much memory.
    conv = next(node for node in nodes if node["op"] == "conv2d")
    twice = {"nodes": [*nodes, conv], "output": document["graph"]["output"]}
    put(path, header, data, document | {"graph": twice})
    refused(path, "used twice")
    # Graphs without weights that would take for ever: many nodes, many edges, strides without a small multiple.
    plain = {"op": "concat", "inputs": [0], "parts": [0, 1]}
    start = [{"op": "input", "inputs": [], "channels": 1, "border": "clamp"}]
    unshuffle = [{"op": "pixel_unshuffle", "inputs": [n], "factor": f} for n, f in [(0, 11), (0, 13), (1, 7), (2, 5)]]
    for more, word in (
        ([plain] * 30_000, "nodes"),
        ([plain | {"inputs": [0] * 64, "parts": [0, 1] * 64}] * 1_600, "inputs"),
        (unshuffle, "common multiple"),
    ):
        began = time.perf_counter()
        graph = {"nodes": start + more, "output": 0}
        put(path, {}, b"", document | {"graph": graph, "channels": 1, "takes_sigma": False})
        refused(path, word)
        assert time.perf_counter() - began < 10


def test_what_cannot_be_saved(tmp_path):
    path = tmp_path / "m.frp"
    model = small_model("dncnn")
    for card in ({"a": float("nan")}, {"a": object()}, {"a": 2**70}, {"a": "\ud800"}):
        with pytest.raises(ModelError, match="cannot be saved"):
            engine.compile(model, card=card).save(path)
    deep: dict = {}
    for _ in range(100):
        deep = {"a": deep}
    with pytest.raises(ModelError, match="deep"):
        engine.compile(model, card=deep).save(path)
    with torch.no_grad():
        next(model.parameters())[0, 0, 0, 0] = float("inf")
    with pytest.raises(ModelError, match="finite"):
        engine.compile(model).save(path)
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_stays_when_writing_fails(saved, tmp_path, monkeypatch):
    path = tmp_path / "m.frp"
    path.write_bytes(b"old")
    plan = fr.Plan.load(saved)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="space"):
        plan.save(path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_an_instruction_set_that_is_not_there(saved):
    with pytest.raises(ValueError, match="sse9") as caught:
        fr.Plan.load(saved, isa="sse9")
    assert not isinstance(caught.value, ModelError)
    assert fr.Plan.load(saved, isa="baseline").isa == "baseline"


def test_the_restorer_takes_plan_files(tmp_path):
    model, path = small_model("unet"), tmp_path / "m.frp"
    engine.compile(model).save(path)
    image = np.random.default_rng(1).integers(0, 256, (40, 30, 3), np.uint8)
    expected = fr.Restorer(model)(image, sigma=12)
    for name in (path, str(path)):
        restorer = fr.Restorer(name)
        np.testing.assert_array_equal(restorer(image, sigma=12), expected)
        assert restorer.info["path"] == "plan" and restorer.info["takes_sigma"]
    with pytest.raises(ValueError, match="compiled for float32"):
        fr.Restorer(path, precision="bfloat16")
    with pytest.raises(ModelError, match=r"Plan\.load"):
        zoo.load(str(path))
