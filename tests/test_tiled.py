"""Tiles partition the image, carry their halo, and keep a module's result."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastrestore import models
from fastrestore.errors import MemoryBudgetError
from fastrestore.tiled import TiledModel, tiles


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    halo=st.integers(0, 40),
    multiple=st.sampled_from([1, 2, 8, 16]),
    side=st.integers(1, 200),
)
def test_cores_partition_and_halos_suffice(height, width, halo, multiple, side):
    margin = -(-halo // multiple) * multiple
    memory = (2 * margin + side + multiple) ** 2
    covered = np.zeros((height, width), int)
    for tile in tiles(height, width, halo, multiple, memory, bytes_per_pixel=1):
        covered[tile.core] += 1
        for core, read, size in zip(tile.core, tile.read, (height, width), strict=True):
            assert read.start % multiple == 0
            assert read.start <= max(0, core.start - halo) and read.stop >= min(size, core.stop + halo)
            assert 0 <= read.start < read.stop <= size
        area = (tile.read[0].stop - tile.read[0].start) * (tile.read[1].stop - tile.read[1].start)
        assert area <= memory
    assert (covered == 1).all()


def test_a_budget_below_one_tile_names_what_is_needed():
    with pytest.raises(MemoryBudgetError, match=str((2 * 16 + 8) ** 2 * 10)):
        list(tiles(100, 100, halo=10, multiple_of=8, memory=1000, bytes_per_pixel=10))


@pytest.mark.parametrize("arguments", [(0, 5, 1), (5, 0, 1), (5, 5, -1), (5, 5, 0, 0)])
def test_refuses_sizes(arguments):
    with pytest.raises(ValueError, match="no tiles"):
        list(tiles(*arguments))


class Local(nn.Module):
    """A network with an operator that no plan covers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.halo, self.multiple_of = 2, 1

    def forward(self, x):
        return x - self.b(torch.tanh(self.a(x)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiles_agree_with_the_whole(dtype):
    torch.manual_seed(0)
    image = (np.random.default_rng(0).random((70, 91, 3)) * (np.iinfo(dtype).max if dtype != np.float32 else 1)).astype(
        dtype
    )
    model = Local()
    whole = TiledModel(model, memory="1GiB").run(image)
    tiled = TiledModel(model, memory=30 * 30 * 2048).run(image)
    step = 1 if dtype != np.float32 else 1e-6  # torch's own convolutions may round by the size of their input
    assert np.abs(whole.astype(float) - tiled.astype(float)).max() <= step
    assert np.abs(whole.astype(float) - image.astype(float)).max() > step


def test_tiles_agree_with_a_plan():
    from fastrestore import engine

    torch.manual_seed(0)
    model = models.create("unet", widths=(16, 32), blocks=1).eval()
    nn.init.normal_(model.tail.weight, std=0.05)
    image = np.random.default_rng(0).random((70, 91, 1), dtype=np.float32)
    plan = engine.compile(model)
    expected = plan.session().run(image, sigma=10.0, strength=0.7)
    actual = TiledModel(model, memory=100 * 100 * 2048).run(image, sigma=10.0, strength=0.7)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
