"""Foreign weights: what is published converts, to the bit; what is not exactly that is refused and never run."""

import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fastrestore import checkpoint, models
from fastrestore.convert import convert
from fastrestore.errors import ModelError

SMALL = {
    "dmphn": {"channels": 3, "width": 4, "layers": 4},
    "dncnn": {"channels": 1, "width": 6, "depth": 4},
    "drunet": {"channels": 1, "widths": (4, 6, 8, 10), "blocks": 2},
    "esdnet": {"channels": 1, "encoder_width": 4, "decoder_width": 8, "growth": 2, "blocks": 2},
    "ffdnet": {"channels": 3, "width": 6, "depth": 5},
    "mimo-unet": {"channels": 3, "width": 8, "blocks": 3},
    "nafnet": {"channels": 1, "width": 4, "encoder_blocks": (1, 3), "middle_blocks": 2, "decoder_blocks": (2, 1)},
    "rednet": {"channels": 3, "width": 6, "layers": 10, "skips": True},
    "restormer": {"channels": 1, "width": 8, "blocks": (1, 2, 1, 3), "refinement_blocks": 2, "heads": (1, 2, 2, 4)},
    "scunet": {"channels": 1, "width": 16, "blocks": (2, 1, 1, 2, 1, 3, 1), "head_width": 4, "window": 4},
    "swinir": {"channels": 3, "width": 12, "blocks": (2, 3), "heads": (2, 3), "window": 4, "expansion": 3},
}


def state_of(name):
    return models.create(name, **SMALL[name]).state_dict()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".ckpt"])
def test_published_names_convert_with_their_configuration(name, suffix, tmp_path):
    state, path = state_of(name), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    model = convert(path, name)
    assert model.config == models.MODELS[name].Config(**SMALL[name])
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_restormer_expansion_and_norm_follow_from_the_tensors(tmp_path):
    for norm_bias in (True, False):
        model = models.create("restormer", blocks=(1, 1, 1, 1), refinement_blocks=1, norm_bias=norm_bias)
        save_file(model.state_dict(), tmp_path / "w.safetensors")
        assert convert(tmp_path / "w.safetensors", "restormer").config == model.config


def test_what_no_tensor_tells_is_given(tmp_path):
    save_file(state_of("nafnet"), tmp_path / "w.safetensors")
    assert convert(tmp_path / "w.safetensors", "nafnet").config.local == 0
    assert convert(tmp_path / "w.safetensors", "nafnet", {"local": 384}).config.local == 384


def test_swinir_tables_that_follow_from_the_configuration_are_left_out(tmp_path):
    state = dict(state_of("swinir"))
    for i, blocks in enumerate(SMALL["swinir"]["blocks"]):
        for j in range(blocks):
            path = f"layers.{i}.residual_group.blocks.{j}"
            state[f"{path}.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
            if j % 2:
                state[f"{path}.attn_mask"] = torch.zeros(4, 16, 16)
    torch.save({"params": state}, tmp_path / "w.pth")
    assert convert(tmp_path / "w.pth", "swinir").config.window == 4
    save_file(state, tmp_path / "w.safetensors")
    assert convert(tmp_path / "w.safetensors", "swinir").config.window == 4
    state["attn_mask"] = torch.zeros(4, 16, 16)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="no tensor 'attn_mask'"):
        convert(tmp_path / "w.pth", "swinir")


def test_other_integers_are_refused(tmp_path):
    state = dict(state_of("dncnn"))
    state["model.2.bias"] = torch.ones(6, dtype=torch.int64)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"model\.2\.bias' holds torch\.int64"):
        convert(tmp_path / "w.safetensors", "dncnn")


def test_swinir_of_windows_of_7_works_on_0_to_255(tmp_path):
    save_file(
        models.create("swinir", width=4, blocks=(1,), heads=(1,), window=7).state_dict(), tmp_path / "w.safetensors"
    )
    assert convert(tmp_path / "w.safetensors", "swinir").config.peak == 255


def test_a_folder_of_parts_converts(tmp_path):
    state = state_of("dmphn")
    parts = {name.split(".")[0] for name in state}
    for part in parts:
        tensors = {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}
        torch.save(tensors, tmp_path / f"{part}.pkl", _use_new_zipfile_serialization=False)  # as the authors' are
    model = convert(tmp_path, "dmphn")
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    (tmp_path / "decoder_lv2.pkl").unlink()
    with pytest.raises(ModelError, match=r"decoder_lv2\.layer13\.0\.bias of DMPHN is missing"):
        convert(tmp_path, "dmphn")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds no \.pkl files"):
        convert(tmp_path / "empty", "dmphn")


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"dncnn", "ffdnet", "rednet"}))
def test_a_missing_and_an_unknown_tensor_are_named(name, tmp_path):
    state = dict(state_of(name))
    last = max(state)
    value = state.pop(last)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError) as caught:
        convert(tmp_path / "w.pth", name)
    assert last in str(caught.value)
    torch.save(state | {last: value, "extra.weight": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"no tensor 'extra\.weight'"):
        convert(tmp_path / "w.pth", name)


def test_rednet10_has_no_inner_skips(tmp_path):
    save_file(models.create("rednet", layers=5, width=4).state_dict(), tmp_path / "w.safetensors")
    assert not convert(tmp_path / "w.safetensors", "rednet").config.skips
    assert convert(tmp_path / "w.safetensors", "rednet", {"skips": True}).config.skips


@pytest.mark.parametrize("wrapper", ["params", "params_ema", "state_dict", "model"])
def test_wrappers_and_prefixes_come_off(wrapper, tmp_path):
    state = state_of("dncnn")
    torch.save({wrapper: {f"module.{key}": value for key, value in state.items()}}, tmp_path / "w.pth")
    model = convert(tmp_path / "w.pth", "dncnn")
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_other_dtypes_become_float32(tmp_path):
    state = state_of("ffdnet")
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        save_file({key: value.to(dtype) for key, value in state.items()}, tmp_path / "w.safetensors")
        model = convert(tmp_path / "w.safetensors", "ffdnet")
        for key, value in state.items():
            assert torch.equal(model.state_dict()[key], value.to(dtype).float())


def test_counted_convolutions_convert(tmp_path):
    state = {
        f"conv.{int(key.split('.')[1]) // 2}.{key.split('.')[2]}": value for key, value in state_of("ffdnet").items()
    }
    save_file(state, tmp_path / "w.safetensors")
    assert convert(tmp_path / "w.safetensors", "ffdnet").config.depth == 5


def test_a_pickle_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    for name, save in (
        ("a.pth", torch.save),
        ("b.pth", lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))),
    ):
        save({"model.0.weight": Evil()}, tmp_path / name)
        with pytest.raises(ModelError, match="nothing in it was run"):
            convert(tmp_path / name, "dncnn")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("model.2.bias"), "model.2.bias"),
        (lambda s: s.pop("model.0.weight"), "model"),
        (lambda s: s.update(extra=torch.ones(1)), "extra"),
        (lambda s: s.update({"model.2.weight": torch.ones(6, 5, 3, 3)}), "model.2.weight"),
        (lambda s: s.update({"model.2.weight": torch.ones(6)}), "model.2.weight"),
        (lambda s: s.update({"model.0.weight": torch.ones(6)}), "model.0.weight"),
        (lambda s: s["model.2.bias"].fill_(float("nan")), "model.2.bias"),
        (lambda s: s.update({"model.2.bias": torch.ones(6, dtype=torch.int32)}), "model.2.bias"),
        (lambda s: s.update({"model.2.bias": torch.ones(6).to_sparse()}), "model.2.bias"),
        (lambda s: s.update({"model.2.bias": torch.ones(1).expand(2**40)}), "model.2.bias"),
        (lambda s: s.clear(), "no table"),
        (lambda s: s.update({3: torch.ones(1)}), "3"),
        (lambda s: s.update(config={"_target_": "os.system"}), "config"),
    ],
    ids=str,
)
def test_wrong_tensors_are_named(change, words, tmp_path):
    state = dict(state_of("dncnn"))
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"w\.pth") as caught:
        convert(tmp_path / "w.pth", "dncnn")
    assert words in str(caught.value)


@pytest.mark.parametrize("name", SMALL)
def test_another_architectures_tensors_are_refused(name, tmp_path):
    for other in set(SMALL) - {name}:
        save_file(state_of(other), tmp_path / "w.safetensors")
        with pytest.raises(ModelError):
            convert(tmp_path / "w.safetensors", name)


def test_files_that_cannot_be_converted(tmp_path):
    with pytest.raises(ModelError, match="no converter"):
        convert(tmp_path / "w.pth", "unet")
    with pytest.raises(ModelError, match="no such file"):
        convert(tmp_path / "w.pth", "dncnn")
    with pytest.raises(ModelError, match="cannot convert"):
        convert(tmp_path / "w.exe", "dncnn")
    for suffix in (".pth", ".safetensors", ".mat"):
        for content in (b"", b"MATLAB 5.0 MAT-file", b"a.", os.urandom(1000)):
            (tmp_path / f"w{suffix}").write_bytes(content)
            with pytest.raises(ModelError, match="w\\" + suffix):
                convert(tmp_path / f"w{suffix}", "dncnn")


def test_an_overruled_configuration_must_still_match(tmp_path):
    save_file(state_of("dncnn"), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="missing"):
        convert(tmp_path / "w.safetensors", "dncnn", {"depth": 5})
    with pytest.raises(ModelError, match="no option"):
        convert(tmp_path / "w.safetensors", "dncnn", {"_target_": 1})


def write_mat(path, layers, link=None):
    """A MATLAB 7.3 file of a MatConvNet SimpleNN; layers: (type, filters [h, w, in, out] or None, bias)."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        store = file.create_group("#refs#")
        references = []
        for i, (kind, filters, bias) in enumerate(layers):
            group = store.create_group(f"layer{i}")
            if link:
                group["type"] = link
            else:
                group["type"] = np.frombuffer(kind.encode("utf-16-le"), np.uint16)[:, None]
            if filters is not None:
                trimmed = filters[..., 0] if filters.shape[3] == 1 else filters  # MATLAB drops trailing ones
                pair = [store.create_dataset(f"w{i}", data=trimmed.T), store.create_dataset(f"b{i}", data=bias[None])]
                group["weights"] = np.array([[p.ref] for p in pair], dtype=h5py.ref_dtype)
            references.append([group.ref])
        file.create_group("net")["layers"] = np.array(references, dtype=h5py.ref_dtype)


def mat_layers(state):
    layers = []
    for i in range(0, 2 * len(state), 2):
        if f"model.{i}.weight" in state:
            weight = state[f"model.{i}.weight"].numpy()
            layers += [("conv", weight.transpose(2, 3, 1, 0), state[f"model.{i}.bias"].numpy()), ("relu", None, None)]
    return layers[:-1]


def test_matconvnet_dncnn_converts(tmp_path):
    state = state_of("dncnn")
    write_mat(tmp_path / "w.mat", mat_layers(state))
    model = convert(tmp_path / "w.mat", "dncnn")
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_matconvnet_refusals(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "w.mat"
    layers = mat_layers(state_of("dncnn"))
    write_mat(path, [*layers, ("bnorm", None, None)])
    with pytest.raises(ModelError, match="batch normalisation"):
        convert(path, "dncnn")
    write_mat(path, layers, link=h5py.ExternalLink(str(tmp_path / "other.h5"), "/secret"))
    with pytest.raises(ModelError, match="has no 'type'"):
        convert(path, "dncnn")
    with h5py.File(path, "w") as file:
        file["net"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/net")
    with pytest.raises(ModelError, match="has no 'net'"):
        convert(path, "dncnn")
    write_mat(path, layers)
    with pytest.raises(ModelError, match="ffdnet"):
        convert(path, "ffdnet")


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("original", "given", "architecture"),
    [
        ("ffdnet_gray_original.mat", "ffdnet_gray.safetensors", "ffdnet"),
        ("dncnn_gray_s25_original.mat", "dncnn_gray_s25.safetensors", "dncnn"),
    ],
)
def test_the_authors_files_convert_to_the_bit(original, given, architecture, shared_data, tmp_path):
    pytest.importorskip("h5py")
    from_mat = convert(shared_data / "weights" / original, architecture)
    wanted = convert(shared_data / "weights" / given, architecture)
    assert from_mat.config == wanted.config
    for name, value in wanted.state_dict().items():
        assert torch.equal(from_mat.state_dict()[name], value)
    checkpoint.save(from_mat, tmp_path / "m.safetensors")
    assert checkpoint.load(tmp_path / "m.safetensors").config == wanted.config
