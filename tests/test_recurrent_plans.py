"""Plans with states: frames as float64 torch gives them, however they are cut; a session can begin anew."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_operators import conv, picture, randomised
from torch import nn

import fastrestore as fr
from fastrestore import engine
from fastrestore.errors import MemoryBudgetError, UnsupportedOperator
from fastrestore.layers import ConvGRU, ConvLSTM
from fastrestore.models.fusion_unet import FusionStep
from fastrestore.ops import warp


class Video(nn.Module):
    """A hidden image at half size, a memory at full size, and the frame before as it was."""

    multiple_of = 2
    states = ((8, 2), (5, 1), (5, 1), (3, 1))

    def __init__(self, takes_sigma=False):
        super().__init__()
        self.config, self.takes_sigma = SimpleNamespace(channels=3), takes_sigma
        self.down, self.up = nn.Conv2d(3 + takes_sigma, 8, 2, stride=2), nn.ConvTranspose2d(8, 3, 2, stride=2)
        self.gru, self.lstm, self.read = ConvGRU(8, 8), ConvLSTM(3, 5), conv(5, 3)

    def forward(self, x, *rest):
        y = x
        if self.takes_sigma:
            y = torch.cat([x, (rest[0] / 255).reshape(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])], 1)
        hidden, h, c, last = rest[self.takes_sigma :]
        hidden = self.gru(self.down(y), hidden)
        h, c = self.lstm(x, h, c)
        return x + 0.3 * self.up(hidden) + 0.3 * self.read(h) + 0.2 * (last - x), hidden, h, c, x


def frames(count, height, width):
    return [picture(height, width, seed=i) / 3 for i in range(count)]


def eager(model, images, sigma=None):
    """In float64; sides are padded with the last row and column."""
    model = model.double()
    height, width = images[0].shape[:2]
    m = model.multiple_of
    padded = (height + -height % m, width + -width % m)
    states = [torch.zeros(1, c, padded[0] // s, padded[1] // s, dtype=torch.float64) for c, s in model.states]
    results = []
    for image in images:
        image = np.pad(image, ((0, padded[0] - height), (0, padded[1] - width), (0, 0)), mode="edge")
        x = torch.from_numpy(image).permute(2, 0, 1)[None].double()
        given = () if sigma is None else (torch.tensor([sigma], dtype=torch.float64),)
        with torch.no_grad():
            y, *states = model(x, *given, *states)
        results.append(y[0].permute(1, 2, 0).numpy()[:height, :width])
    model.float()
    return results


@pytest.mark.parametrize("size", [(1, 1), (9, 14), (37, 53)], ids=str)
@pytest.mark.parametrize("sigma", [None, 25.0])
def test_frames_are_those_of_float64(size, sigma):
    model = randomised(Video(sigma is not None))
    plan = engine.compile(model)
    assert plan.states == list(model.states)
    images = frames(4, *size)
    session = plan.session(threads=2)
    for image, exact in zip(images, eager(model, images, sigma), strict=True):
        np.testing.assert_allclose(session.run(image, sigma=sigma, clip=False), exact, rtol=0, atol=1e-5)


def test_cuts_threads_and_files_change_no_bit(tmp_path):
    model = randomised(Video())
    for precision in ("float32", "bfloat16"):
        plan = engine.compile(model, precision=precision)
        plan.save(tmp_path / "v.frp")
        loaded = fr.Plan.load(tmp_path / "v.frp")
        assert loaded.states == plan.states
        images = frames(3, 70, 211)
        first = plan.session(threads=1)
        wanted = [first.run(image, clip=False) for image in images]
        with pytest.raises(MemoryBudgetError, match=r"needs (\d+) bytes") as caught:
            plan.session(threads=2, memory=1).run(images[0])
        least = int(str(caught.value).split("needs ")[1].split()[0])
        for memory in (least, "1GiB"):
            session = loaded.session(threads=2, memory=memory)
            for image, result in zip(images, wanted, strict=True):
                np.testing.assert_array_equal(session.run(image, clip=False), result)
            assert (session.report.strips > 1) == (memory == least)
            for mine, theirs in zip(session.states, first.states, strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_begins_anew():
    plan = engine.compile(randomised(Video()))
    session = plan.session(threads=1)
    assert session.states == [None] * 4
    a, b = frames(2, 12, 16)
    first = session.run(a, clip=False)
    second = session.run(b, clip=False)
    assert np.abs(second - plan.session(threads=1).run(b, clip=False)).max() > 1e-3  # it remembers
    session.reset()
    np.testing.assert_array_equal(session.run(a, clip=False), first)
    kept = session.states
    assert [state.shape for state in kept] == [(6, 8, 8), (12, 16, 5), (12, 16, 5), (12, 16, 3)]
    np.testing.assert_array_equal(kept[3], a)
    session.run(b, clip=False)
    session.states = kept  # back to the first frame
    np.testing.assert_array_equal(session.run(b, clip=False), second)
    session.run(a[:, :10])  # another size: a stream of its own
    session.run(a[:, :12])
    np.testing.assert_array_equal(session.run(a, clip=False), first)
    session.states = [None] * 4
    np.testing.assert_array_equal(session.run(a, clip=False), first)


def test_a_cancelled_frame_is_forgotten():
    plan = engine.compile(randomised(Video()))
    session, other = plan.session(threads=1), plan.session(threads=1)
    a, b = frames(2, 300, 64)
    session.run(a)
    other.run(a)

    def stop(share):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        session.run(b, progress=stop)
    np.testing.assert_array_equal(session.run(b, clip=False), other.run(b, clip=False))


class Moving(Video):
    """What was before is moved along a flow that the two frames give."""

    states = ((3, 1), (8, 2))

    def __init__(self):
        super().__init__()
        self.flow, self.coarse = conv(6, 2), nn.Conv2d(6, 2, 2, stride=2)

    def forward(self, x, last, hidden):
        both = torch.cat([x, last], 1)
        moved = warp(last, 3 * self.flow(both))
        hidden = self.gru(self.down(x), warp(hidden, 5 * self.coarse(both)))
        y = x + 0.5 * (moved - x) + 0.3 * self.up(hidden)
        return y, y, hidden


@pytest.mark.parametrize("size", [(1, 1), (9, 14), (37, 53)], ids=str)
def test_states_are_warped(size):
    model = randomised(Moving())
    plan = engine.compile(model)
    assert plan.halo is None
    images = frames(3, *size)
    exact = eager(model, images)
    for threads in (1, 3):
        session = plan.session(threads=threads)
        results = [session.run(image, clip=False) for image in images]
        # A flow of several pixels is rounded like a coordinate, and multiplies the difference of two pixels.
        np.testing.assert_allclose(results, exact, rtol=0, atol=1e-4)
        if threads == 1:
            wanted = results
    np.testing.assert_array_equal(results, wanted)
    narrow = engine.compile(model, precision="bfloat16").session(threads=2)
    for image, result in zip(images, exact, strict=True):
        error = narrow.run(image, clip=False) - result
        assert 10 * np.log10((result**2).max() / (error**2).mean()) > 40


@pytest.mark.parametrize("precision", engine.PRECISIONS)
def test_a_fusion_before_the_network(precision):
    """FusionUNet's step: what its module gives frame after frame, the state in both directions; and its watching."""
    torch.manual_seed(0)
    model = randomised(fr.create("fusion-unet", widths=(16, 16), blocks=1, hidden=16)).float()
    images = [np.abs(image) / 3 for image in frames(4, 45, 61)]
    plan, watching = (engine.compile(FusionStep(model, watch), precision=precision) for watch in (False, True))
    assert plan.states == watching.states == [(4, 1), (16, 2)]
    session, beside, narrow = plan.session(threads=2), watching.session(threads=1), plan.session(threads=1)
    state = None
    for image in images:
        padded = np.pad(image, ((0, -45 % 4), (0, -61 % 4), (0, 0)), mode="edge")
        x = torch.from_numpy(padded).permute(2, 0, 1)[None].double()
        with torch.no_grad():
            exact, state = model.double().step(x, 25.0, state)
        model.float()
        result = session.run(image, sigma=25.0, clip=False)
        error = result - exact[0].permute(1, 2, 0).numpy()[:45, :61]
        if precision == "float32":
            assert np.abs(error).max() < 1e-4
        else:
            assert 10 * np.log10(np.abs(exact.numpy()).max() ** 2 / (error**2).mean()) > 40
        np.testing.assert_array_equal(beside.run(padded, sigma=25.0, clip=False), padded)
        np.testing.assert_array_equal(narrow.run(image, sigma=25.0, clip=False), result)
        for mine, theirs in zip(beside.states, session.states, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_wrong_states_are_named():
    session = engine.compile(randomised(Video())).session()
    with pytest.raises(ValueError, match="4 states, got 1"):
        session.states = [None]
    with pytest.raises(ValueError, match="state 3 has 3 channels"):
        session.states = [None, None, None, np.zeros((4, 4, 2), np.float32)]

    class Forgets(Video):
        def forward(self, *given):
            return super().forward(*given)[:2]

    with pytest.raises(UnsupportedOperator, match="4 states, and gives 1"):
        engine.compile(randomised(Forgets()))
