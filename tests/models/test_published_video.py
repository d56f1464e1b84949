"""Published networks for clips: counts, names, an independent implementation of what they compute, conversion."""

import pytest
import torch
import torch.nn.functional as F

from fastrestore import models
from fastrestore.convert import convert


def filled(name, **config):
    """With weights, and running statistics where there are any, that are not those of a new model."""
    torch.manual_seed(0)
    model = models.create(name, **config).double().eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.rand_like(value) + 0.5 if value.dim() == 1 else torch.randn_like(value) * 0.1)
    return model


# 2.48 and, for B15C80, 2.47 million in the literature's tables.
@pytest.mark.parametrize(("name", "count"), [("fastdvdnet", 2_479_096), ("estrnn", 2_467_931)])
def test_parameter_counts(name, count):
    with torch.device("meta"):
        model = models.create(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_names():
    with torch.device("meta"):
        denoiser, deblurrer = models.create("fastdvdnet").state_dict(), models.create("estrnn").state_dict()
    shapes = {
        "temp1.inc.convblock.0.weight": (90, 4, 3, 3),
        "temp1.inc.convblock.3.weight": (32, 90, 3, 3),
        "temp1.downc0.convblock.3.convblock.4.running_var": (64,),
        "temp2.upc2.convblock.0.convblock.0.weight": (128, 128, 3, 3),
        "temp2.upc1.convblock.1.weight": (128, 64, 3, 3),
        "temp2.outc.convblock.3.weight": (3, 32, 3, 3),
    }
    assert {name: tuple(denoiser[name].shape) for name in shapes} == shapes
    shapes = {
        "cell.F_B0.weight": (16, 3, 5, 5),
        "cell.F_B1.rdb.dense_layers.2.conv.weight": (16, 48, 3, 3),
        "cell.F_B2.down_sampling.weight": (64, 32, 5, 5),
        "cell.F_R.RDBs.14.conv1x1.weight": (80, 176, 1, 1),
        "cell.F_h.1.conv1x1.bias": (16,),
        "fusion.F_f.0.weight": (320, 160),
        "fusion.fusion.weight": (400, 400, 1, 1),
        "recons.model.0.weight": (400, 32, 3, 3),
    }
    assert {name: tuple(deblurrer[name].shape) for name in shapes} == shapes


def test_fastdvdnet_computes_what_the_paper_says():
    """Figure 2 of the paper, written again over the state dict alone."""
    model = filled("fastdvdnet", width=4, frame_width=2)
    state = model.state_dict()
    x = torch.rand(2, 5, 3, 12, 16, dtype=torch.float64)

    def layer(y, conv, norm, **options):
        y = F.conv2d(y, state[f"{conv}.weight"], padding=1, **options)
        names = ("running_mean", "running_var", "weight", "bias")
        return F.relu(F.batch_norm(y, *(state[f"{norm}.{name}"] for name in names)))

    def pair(y, at):
        return layer(layer(y, f"{at}.0", f"{at}.1"), f"{at}.3", f"{at}.4")

    def stage(a, b, c, at):
        noise = torch.full_like(a[:, :1], 20 / 255)
        y = layer(
            torch.cat([a, noise, b, noise, c, noise], 1), f"{at}.inc.convblock.0", f"{at}.inc.convblock.1", groups=3
        )
        y0 = layer(y, f"{at}.inc.convblock.3", f"{at}.inc.convblock.4")
        levels = [y0]
        for i in (0, 1):
            y = layer(levels[-1], f"{at}.downc{i}.convblock.0", f"{at}.downc{i}.convblock.1", stride=2)
            levels.append(pair(y, f"{at}.downc{i}.convblock.3.convblock"))
        y = levels.pop()
        for i in (2, 1):
            y = pair(y, f"{at}.upc{i}.convblock.0.convblock")
            y = F.pixel_shuffle(F.conv2d(y, state[f"{at}.upc{i}.convblock.1.weight"], padding=1), 2) + levels.pop()
        y = layer(y, f"{at}.outc.convblock.0", f"{at}.outc.convblock.1")
        return b - F.conv2d(y, state[f"{at}.outc.convblock.3.weight"], padding=1)

    a, b, c, d, e = x.unbind(1)
    wanted = stage(*(stage(*part, "temp1") for part in ((a, b, c), (b, c, d), (c, d, e))), "temp2")
    with torch.no_grad():
        torch.testing.assert_close(model(x, 20.0), wanted)
        still = x[:, :1].expand(-1, 5, -1, -1, -1)
        assert torch.equal(model(x[:, 0], 20.0), model(still, 20.0))
        assert model(x[..., :11, :13], 20.0).shape == (2, 3, 11, 13)
        with pytest.raises(ValueError, match="5 frames"):
            model(x[:, :4], 20.0)


def test_estrnn_is_recurrent_and_sees_two_frames_ahead():
    model = filled("estrnn", width=4, blocks=2)
    x = torch.rand(1, 8, 3, 16, 20, dtype=torch.float64)
    with torch.no_grad():
        whole = model(x)
        assert whole.shape == (1, 4, 3, 16, 20)
        changed = x.clone()
        changed[:, 0] += 0.1
        assert (model(changed) - whole).abs().amax((0, 2, 3, 4)).min() > 1e-9  # the state remembers
        changed = x.clone()
        changed[:, 5] += 0.1
        moved = (model(changed) - whole).abs().amax((0, 2, 3, 4))
        assert moved[0] == 0
        assert moved[1:].min() > 1e-9
        assert model(x[:, 0, :, :13, :18]).shape == (1, 3, 13, 18)
        with pytest.raises(ValueError, match="5 frames or more"):
            model(x[:, :4])


@pytest.mark.parametrize(
    ("name", "config"), [("fastdvdnet", {"width": 8, "frame_width": 6}), ("estrnn", {"width": 4, "blocks": 2})]
)
def test_published_files_convert(tmp_path, name, config):
    model = filled(name, **config).float()
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    if name == "fastdvdnet":
        state["module.temp1.inc.convblock.1.num_batches_tracked"] = torch.tensor(7)
    torch.save({"state_dict": state}, tmp_path / "model.pth")
    converted = convert(tmp_path / "model.pth", name)
    assert converted.config == model.config
    assert all(torch.equal(value, converted.state_dict()[key]) for key, value in model.state_dict().items())
