"""Recurrent architectures: without a state a UNet, with one local, and what they do with a state."""

import pytest
import torch

from fastrestore import models
from fastrestore.errors import ModelError
from fastrestore.layers import State, carried, follow

CASES = {
    "fusion-unet": {"widths": (4, 6), "blocks": 1, "hidden": 4},
    "recurrent-unet": {"widths": (4, 6), "blocks": 1, "width": 4, "depth": 1, "hidden": 4},
}


@pytest.fixture(params=CASES)
def model(request):
    torch.manual_seed(0)
    model = models.create(request.param, **CASES[request.param]).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the trained ones start near the identity, which would prove little
            parameter.add_(torch.randn_like(parameter) * (1 / parameter[0].numel()) ** 0.5)
    return model


def clip(frames=3, height=40, width=44):
    torch.manual_seed(1)
    scene = torch.rand(1, 3, height, width, dtype=torch.float64)
    return [scene + 0.1 * torch.randn_like(scene) for _ in range(frames)]


def run(model, frames, sigma=25.0):
    state, results = None, []
    with torch.no_grad():
        for frame in frames:
            y, state = model.step(frame, sigma, state)
            results.append(y)
    return results, state


def test_without_a_state_it_is_a_unet(model):
    unet = models.create("unet", widths=(4, 6), blocks=1).double()
    unet.load_state_dict({name: model.state_dict()[name] for name in unet.state_dict()})
    x = clip(1)[0]
    with torch.no_grad():
        alone, (first, _) = unet(x, 25.0), model.step(x, 25.0)
    assert torch.equal(model(x, 25.0), alone)
    assert torch.equal(first, alone)


def test_a_state_changes_the_result_and_other_frames_do_not(model):
    a, b, c = clip()
    with_past, alone = run(model, [a, b])[0][1], run(model, [b])[0][0]
    assert (with_past - alone).abs().max() > 1e-3
    assert torch.equal(run(model, [a, b, c])[0][1], with_past)  # causal


@pytest.mark.parametrize("axis", [2, 3], ids=["rows", "columns"])
def test_the_halo_of_a_step_is_enough(model, axis):
    """What lies further than step_halo, in frame or state, changes neither result nor state."""
    side = 2 * model.step_halo + 16
    shape = [1, 3, 16, 16]
    shape[axis] = side
    torch.manual_seed(2)
    frames = [torch.rand(shape, dtype=torch.float64) for _ in range(2)]
    _, state = run(model, frames[:1])

    def last(x, state):
        with torch.no_grad():
            y, after = model.step(x, 25.0, state)
        return y.select(axis, side - 1), after.frame.select(axis, side - 1), after.hidden.select(axis, side // 2 - 1)

    reach = side - 1 - model.step_halo
    far = slice(0, reach // 2 * 2)
    here = last(frames[1], state)
    x, frame, hidden = frames[1].clone(), state.frame.clone(), state.hidden.clone()
    for part, scale in ((x, 1), (frame, 1), (hidden, 2)):
        part.narrow(axis, 0, far.stop // scale).add_(0.5)
    for a, b in zip(here, last(x, State(frame, hidden)), strict=True):
        assert torch.equal(a, b)
    x = frames[1].clone()
    x.narrow(axis, side - 20, 20).add_(0.5)
    assert not torch.equal(here[0], last(x, state)[0])


def test_a_state_of_another_size_is_refused(model):
    a, _, _ = clip()
    _, state = run(model, [a])
    with pytest.raises(ValueError, match="a state of"):
        model.step(clip(1, 40, 60)[0], 25.0, state)


def test_sides_that_are_no_multiples_keep_their_size(model):
    frames = clip(2, 13, 9)
    results, state = run(model, frames)
    assert [y.shape for y in results] == [x.shape for x in frames]
    assert state.frame.shape[2:] == (13, 9)
    assert torch.isfinite(results[1]).all()


def test_watching_gives_the_state_of_a_step():
    torch.manual_seed(0)
    model = models.create("fusion-unet", **CASES["fusion-unet"]).double()
    a, b, _ = clip()
    with torch.no_grad():
        _, state = model.step(b, 25.0, model.step(a, 25.0)[1])
        watched = model.watch(b, 25.0, model.watch(a, 25.0))
    assert torch.equal(state.frame, watched.frame)
    assert torch.equal(state.hidden, watched.hidden)


def test_the_filter_averages_what_stands_still_and_takes_anew_what_has_changed():
    """Before any training: the gates' first guess is that of statistics."""
    torch.manual_seed(0)
    model = models.create("fusion-unet", **CASES["fusion-unet"]).double()
    clean = torch.rand(1, 3, 48, 48, dtype=torch.float64)
    sigma = 25.0
    noisy = [clean + sigma / 255 * torch.randn_like(clean) for _ in range(8)]
    state = None
    with torch.no_grad():
        for frame in noisy:
            state = model.watch(frame, sigma, state)
        error = (state.frame[:, :3] - clean).square().mean().sqrt() * 255
        assert error < 0.65 * sigma
        other = torch.rand(1, 3, 48, 48, dtype=torch.float64)
        state = model.watch(other, sigma, state)
    assert (state.frame[:, :3] - other).square().mean().sqrt() * 255 < 0.3 * sigma


def test_a_carried_state_lies_where_the_content_went():
    frame, hidden = torch.rand(1, 4, 16, 24), torch.rand(1, 5, 8, 12)
    flow = torch.zeros(1, 2, 16, 24)
    flow[:, 0], flow[:, 1] = 4, -2  # what is at (x, y) now was at (x + 4, y - 2)
    moved = carried(State(frame, hidden), flow)
    torch.testing.assert_close(moved.frame[..., 4:, :18], frame[..., 2:14, 4:22])
    torch.testing.assert_close(moved.hidden[..., 1:, :10], hidden[..., :7, 2:])
    assert not moved.frame[..., :1, :].any()  # come into view
    assert not moved.hidden[..., 11:].any()


def test_following_between_pixels_is_their_mean():
    x = torch.rand(1, 1, 6, 6)
    flow = torch.zeros(1, 2, 6, 6)
    flow[:, 0] = 0.5
    torch.testing.assert_close(follow(x, flow)[..., :5], (x[..., :5] + x[..., 1:]) / 2)


def test_fusion_is_for_noise():
    with pytest.raises(ModelError, match="needs sigma"):
        models.create("fusion-unet", sigma=False)
