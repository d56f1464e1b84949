"""Models of others, by spandrel: recognised, run over whole pictures, or refused by name."""

import numpy as np
import pytest
import torch

import fastrestore as fr
from fastrestore.errors import MissingDependency, ModelError


def saved(model, path):
    torch.save({"params": model.state_dict()}, path)
    return path


@pytest.fixture
def nafnet(tmp_path):
    broken = RuntimeError  # of a torchvision, which it imports, that is built for another torch
    pytest.importorskip("spandrel", reason="the models extra is not installed", exc_type=(ImportError, broken))
    from spandrel.architectures.NAFNet import NAFNet

    torch.manual_seed(0)
    model = NAFNet(img_channel=3, width=4, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]).eval()
    for name, parameter in model.named_parameters():  # the blocks begin as the identity
        if name.endswith(("beta", "gamma")):
            torch.nn.init.normal_(parameter)
    return model, saved(model, tmp_path / "foreign.pth")


def test_a_checkpoint_runs_as_its_makers_module_does(nafnet):
    model, path = nafnet
    picture = np.random.default_rng(0).random((18, 23, 3), np.float32)
    with torch.no_grad():
        padded = torch.from_numpy(picture).permute(2, 0, 1)[None]
        wanted = model(padded)[0].permute(1, 2, 0).clamp(0, 1).numpy()
    for given in (path, str(path), fr.load(path)):
        restorer = fr.Restorer(given)
        np.testing.assert_allclose(restorer(picture), wanted, atol=1e-5)
        assert restorer.info["path"].startswith("torch")
    np.testing.assert_allclose(fr.restore(picture, model=path), wanted, atol=1e-5)
    batch = torch.rand(2, 3, 9, 8)
    loaded = fr.load(path)
    assert torch.equal(loaded(batch)[1:], loaded(batch[1:]))


def test_what_is_no_restoration_model_is_refused(nafnet, tmp_path):
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    enlarging = saved(SRVGGNetCompact(num_feat=4, num_conv=2, upscale=2), tmp_path / "x2.pth")
    with pytest.raises(ModelError, match="2 times the size"):
        fr.load(enlarging)
    with pytest.raises(ModelError, match="no architecture"):
        fr.load(saved(torch.nn.Conv2d(3, 3, 3), tmp_path / "conv.pth"))
    tensors = nafnet[0].state_dict()
    tensors["intro.weight"] = tensors["intro.weight"][:2]
    torch.save(tensors, tmp_path / "cut.pth")
    with pytest.raises(ModelError, match="not a whole model"):
        fr.load(tmp_path / "cut.pth")
    (tmp_path / "code.pth").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ModelError, match="nothing in it was run"):
        fr.load(tmp_path / "code.pth")
    with pytest.raises(ModelError, match="no such file"):
        fr.load("missing.pth")


def test_without_spandrel_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "spandrel", None)
    with pytest.raises(MissingDependency, match=r"fastrestore\[models\]"):
        fr.load(saved(torch.nn.Conv2d(3, 3, 3), tmp_path / "conv.pth"))
