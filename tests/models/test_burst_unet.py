"""The U-Net for bursts: shots in any order, what they do not show, any size."""

import pytest
import torch

from fastrestore import models


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = models.create("burst-unet", widths=(4, 6), blocks=1, width=8).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "fusion.own":
                parameter.add_(torch.randn_like(parameter) * parameter[0].numel() ** -0.5)
    return model


def shots(count, height=20, width=23):
    torch.manual_seed(1)
    taken, alone = (torch.rand(1, count, 3, height, width, dtype=torch.float64) for _ in range(2))
    return taken, alone, torch.ones(1, count, 1, height, width, dtype=torch.float64)


def fuse(model, *given):
    with torch.no_grad():
        return model.fusion(*given)


def test_the_order_of_the_others_changes_nothing(model):
    given = shots(6)
    fused = fuse(model, *given)
    order = [0, 4, 2, 5, 1, 3]
    torch.testing.assert_close(fuse(model, *(part[:, order] for part in given)), fused, rtol=0, atol=1e-13)
    other = fuse(model, *(part[:, [1, 0, 2, 3, 4, 5]] for part in given))
    assert (other - fused).abs().max() > 1e-3  # another reference, another picture


def test_a_shot_more_changes_the_result_and_its_unknown_parts_do_not(model):
    taken, alone, known = shots(3)
    assert (fuse(model, taken, alone, known) - fuse(model, taken[:, :2], alone[:, :2], known[:, :2])).abs().max() > 1e-3
    only = torch.zeros_like(alone)
    only[:, 1] = 1000  # would show in any share of it
    known = known.clone()
    known[:, 1] = 0
    with torch.no_grad():
        model.fusion.look.weight[:, 12:36] = 0  # what is taken of it, not what is seen of it
        assert fuse(model, taken, alone + only, known).abs().max() < 100


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (17, 22)], ids=str)
def test_any_size_and_number_come_back(model, size):
    for count in (1, 2, 16):
        fused = fuse(model, *shots(count, *size))
        assert fused.shape == (1, 3, *size)
        assert fused.isfinite().all()


@pytest.mark.parametrize("axis", [3, 4], ids=["rows", "columns"])
def test_the_halo_of_the_fusion_is_enough(model, axis):
    size = [12, 12]
    size[axis - 3] = 2 * model.fusion.halo + 16
    given = shots(2, *size)
    last = size[axis - 3] - 1
    here = fuse(model, *given).select(axis - 1, last)
    for part in given[:2]:
        far = part.clone()
        far.narrow(axis, 0, (last - model.fusion.halo) // 2 * 2).add_(0.5)
        changed = [far if one is part else one for one in given]
        assert torch.equal(fuse(model, *changed).select(axis - 1, last), here)
        near = part.clone()
        near.narrow(axis, last - 3, 4).add_(0.5)
        assert not torch.equal(
            fuse(model, *(near if one is part else one for one in given)).select(axis - 1, last), here
        )
