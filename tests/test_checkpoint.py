"""Model files: what is saved comes back to the bit, and every hostile or damaged file is refused by name."""

import json
import os
import pickle
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors

from fastrestore import checkpoint, models
from fastrestore.errors import ModelError

CONFIG = {"channels": 1, "width": 4, "depth": 3}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return models.create("dncnn", **CONFIG)


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save(model, path, card={"name": "test"})
    return path


def parts(path):
    """(header as a dict, data bytes) of a safetensors file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def refused(path, *words):
    with pytest.raises(ModelError) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert str(path) in message
    for word in words:
        assert word in message
    assert len(message) < 1000


def test_float32_comes_back_to_the_bit(model, saved):
    loaded = checkpoint.load(saved)
    assert loaded.config == model.config
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert checkpoint.describe(saved).card == {"name": "test"}
    assert list(saved.parent.iterdir()) == [saved]


def test_float16_comes_back_rounded_as_float32(model, tmp_path):
    path = tmp_path / "half.safetensors"
    checkpoint.save(model, path, torch.float16)
    assert {value.dtype for value in load_file(path).values()} == {torch.float16}  # other tools can read it
    for name, value in checkpoint.load(path).state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, model.state_dict()[name].half().float())


def test_the_loaded_model_can_be_trained(saved):
    loaded = checkpoint.load(saved)
    loaded(torch.rand(1, 1, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


@pytest.mark.parametrize("name", models.MODELS)
def test_every_architecture_comes_back(name, tmp_path):
    small = {
        "autoencoder": {"widths": (4,)},
        "drunet": {"widths": (4, 4, 4, 4)},
        "esdnet": {"encoder_width": 4},
        "fusion-unet": {"widths": (4, 6)},
        "guided-unet": {"widths": (4, 6)},
        "recurrent-unet": {"widths": (4, 6)},
        "restormer": {"width": 8},
        "scunet": {"width": 8, "head_width": 4},
        "swinir": {"width": 12},
        "unet": {"widths": (4, 6)},
    }
    model = models.create(name, **small.get(name, {"width": 4}))
    checkpoint.save(model, tmp_path / "m.safetensors")
    assert checkpoint.load(tmp_path / "m.safetensors").config == model.config


def test_the_card_is_replaced_and_nothing_else(model, tmp_path):
    path = tmp_path / "half.safetensors"
    checkpoint.save(model, path, torch.float16, {"name": "a"})
    before = load_file(path)
    checkpoint.rewrite_card(path, {"name": "a", "psnr": {"set12": 30.1}})
    assert checkpoint.describe(path).card["psnr"] == {"set12": 30.1}
    after = load_file(path)
    assert all(torch.equal(before[name], after[name]) and after[name].dtype == torch.float16 for name in before)
    checkpoint.load(path)


def test_save_refuses_what_load_would(model, tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(ModelError, match="not one of"):
        checkpoint.save(torch.nn.Conv2d(1, 1, 1), path)
    with pytest.raises(ModelError, match="float32 or float16"):
        checkpoint.save(model, path, torch.bfloat16)
    with torch.no_grad():
        model.model[2].weight[0, 0, 0, 0] = 1e6
    with pytest.raises(ModelError, match=r"model\.2\.weight.*float16"):
        checkpoint.save(model, path, torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(saved, model, monkeypatch):
    before = saved.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(model, saved, torch.float16)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_missing_directory_fifo_and_empty_files(tmp_path):
    refused(tmp_path / "none.safetensors", "No such file")
    refused(tmp_path, "not a regular file")
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo", "not a regular file")
    for content in (b"", b"1234567"):
        (tmp_path / "empty").write_bytes(content)
        refused(tmp_path / "empty", "too few")


def test_a_pickle_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    path = tmp_path / "evil.safetensors"
    path.write_bytes(pickle.dumps(Evil()))
    refused(path, "not a safetensors file")
    torch.save({"model.0.weight": torch.ones(1)}, path)
    refused(path, "not a safetensors file")
    assert not (tmp_path / "ran").exists()


def test_lying_header_lengths(saved):
    content = saved.read_bytes()
    for length, word in [(2**63, "not a safetensors"), (2**24 + 1, "not a safetensors"), (len(content), "cut")]:
        saved.write_bytes(struct.pack("<Q", length) + content[8:])
        refused(saved, word)
    saved.write_bytes(struct.pack("<Q", 0) + content[8:])
    refused(saved, "not valid JSON")


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"__metadata__": 1}',
        b'{"__metadata__": {"a": 1}}',
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [1]}}',
        b'{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}',
        b'{"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [' + b"1," * 8 + b'1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [9223372036854775807, 4], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [' + b"9" * 4000 + b'], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
        b'"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    ],
    ids=lambda text: repr(text[:60]),
)
def test_malformed_headers(tmp_path, text):
    path = tmp_path / "m.safetensors"
    put(path, text, b"\0" * 4)
    refused(path)


def test_too_many_tensors(tmp_path):
    path = tmp_path / "m.safetensors"
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    put(path, {f"t{i}": entry for i in range(checkpoint.MAX_TENSORS + 1)}, b"\0" * 4)
    refused(path, "limit")


def test_ranges_must_tile_the_data(saved):
    header, data = parts(saved)
    name = "model.2.weight"
    begin, end = header[name]["data_offsets"]
    for shift, word in [(-4, "overlaps"), (4, "gap")]:
        moved = header | {name: header[name] | {"data_offsets": [begin + shift, end + shift]}}
        put(saved, moved, data + b"\0" * 4)
        refused(saved, word)
    put(saved, header, data + b"\0")
    refused(saved, "trailing bytes")
    put(saved, header, data[:-1])
    refused(saved, "is cut")


def test_two_tensors_on_one_range(saved):
    header, data = parts(saved)
    header["twin"] = dict(header["model.2.weight"])
    put(saved, header, data)
    refused(saved, "overlaps")


def test_every_cut_is_refused(saved):
    content = saved.read_bytes()
    for length in range(0, len(content), 7):
        saved.write_bytes(content[:length])
        refused(saved)


def rebuilt(path, change, document_change=None):
    """Writes the file again with changed tensors and a checksum that fits, as an attacker would."""
    described = checkpoint.describe(path)
    tensors = load_file(path)
    change(tensors)
    document = {"architecture": described.architecture, "config": described.config, "card": described.card}
    document.update(document_change or {})
    checkpoint.write(path, tensors, document)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.2.bias"), ["model.2.bias", "missing"]),
        (lambda t: t.update(extra=torch.ones(1)), ["'extra'"]),
        (lambda t: t.update({"model.2.bia5": t.pop("model.2.bias")}), ["model.2.bias", "model.2.bia5"]),
        (lambda t: t.update({"model.4.weight": t["model.4.weight"].mT.transpose(0, 1).contiguous()}), ["model.4"]),
        (lambda t: t["model.2.weight"].view(-1)[3:4].fill_(float("nan")), ["model.2.weight", "not finite"]),
        (lambda t: t["model.0.bias"].fill_(float("-inf")), ["model.0.bias", "not finite"]),
        (lambda t: t.update({"model.0.bias": t["model.0.bias"].double()}), ["model.0.bias", "F64"]),
        (lambda t: t.update({"model.0.bias": t["model.0.bias"][None].contiguous()}), ["model.0.bias", "[1, 4]"]),
    ],
    ids=["missing", "extra", "renamed", "transposed", "nan", "inf", "dtype", "rank"],
)
def test_wrong_tensors_are_named(saved, change, words):
    rebuilt(saved, change)
    refused(saved, *words)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"architecture": "os.system"}, ["unknown architecture"]),
        ({"architecture": "../dncnn"}, ["unknown architecture"]),
        ({"config": {**CONFIG, "_target_": "os.system"}}, ["_target_"]),
        ({"config": {**CONFIG, "width": 5}}, ["model.0.weight"]),
        ({"config": {**CONFIG, "width": 2048}}, ["model.0.weight"]),
        ({"config": {**CONFIG, "depth": 10**12}}, ["depth"]),
        ({"config": {**CONFIG, "width": "64"}}, ["width"]),
        ({"config": {**CONFIG, "width": [64]}}, ["width"]),
        ({"config": []}, ["config"]),
        ({"card": "x"}, ["card"]),
        ({"format": 2}, ["format"]),
        ({"format": True}, ["format"]),
        ({"import": "os"}, ["exactly"]),
    ],
    ids=str,
)
def test_wrong_descriptions_are_refused(saved, document, words):
    rebuilt(saved, lambda tensors: None, document)
    refused(saved, *words)


def test_the_largest_configuration_costs_nothing(saved):
    most = models.MOST_CHANNELS
    config = {"widths": [most] * 4, "blocks": models.MOST_LAYERS, "channels": most}
    rebuilt(saved, lambda tensors: None, {"architecture": "drunet", "config": config})
    refused(saved, "missing")


def test_foreign_safetensors_point_to_the_converter(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(to_safetensors({"a": torch.ones(2)}))
    refused(path, "fastrestore convert")


def test_an_altered_card_is_noticed(saved):
    content = saved.read_bytes()
    saved.write_bytes(content.replace(rb"\"name\": \"test\"", rb"\"name\": \"tent\""))
    assert saved.read_bytes() != content
    refused(saved, "checksum")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_refused(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("flip") / "m.safetensors"
    torch.manual_seed(0)
    checkpoint.save(models.create("dncnn", **CONFIG), path, card={"name": "test"})
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        loaded = checkpoint.load(path)
    except ModelError:
        return
    # Only a flip that leaves the meaning as it was may pass: JSON's blanks between and after the values.
    torch.manual_seed(0)
    wanted = models.create("dncnn", **CONFIG)
    assert loaded.config == wanted.config
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in wanted.state_dict().items())
    assert checkpoint.describe(path).card == {"name": "test"}
