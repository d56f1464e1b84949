"""Streams: the same bits however frames are fed, bounded state, scene changes, resumption, sizes."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as PilImage

import fastrestore as fr
from fastrestore import align, estimate
from fastrestore.layers import carried
from fastrestore.restorer import Stream
from fastrestore.stream import ESTIMATE_EVERY, NoiseLevel, StepPlans, StepRunner


def scene(seed, height=72, width=88):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 226, (9, 11, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def clip(frames, seed=0, height=72, width=88, dtype=np.uint8):
    """A part of a larger scene that moves by one pixel a frame, with noise."""
    large, rng = scene(seed, height + frames, width + frames), np.random.default_rng(seed + 1)
    for i in range(frames):
        part = large[i : i + height, i : i + width] + rng.normal(0, 12, (height, width, 3))
        yield np.rint(part.clip(0, 255)).astype(np.uint8) if dtype == np.uint8 else (part / 255).astype(dtype)


def create(name, **more):
    torch.manual_seed(0)
    model = fr.create(name, widths=(16, 16), blocks=1, hidden=16, **more)
    with torch.no_grad():
        for parameter in model.parameters():  # the trained ones start near the identity, which would prove little
            parameter.add_(torch.randn_like(parameter) * 0.3 * parameter[0].numel() ** -0.5)
    return model


@pytest.fixture(params=["fusion-unet", "recurrent-unet"])
def restorer(request):
    return fr.Restorer(create(request.param), threads=1)


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_clip_at_once_frame_by_frame_and_beside_another_gives_the_same_bits(restorer):
    frames, others = list(clip(5)), list(clip(5, seed=7))
    whole = list(restorer.stream(frames, sigma=12))
    assert same(whole, list(restorer.stream((frame for frame in frames), sigma=12)))
    session = Stream(restorer)
    assert same(whole, [session(frame, sigma=12) for frame in frames])
    a, b = restorer.stream(frames, sigma=12), restorer.stream(others, sigma=12)
    beside = [(next(a), next(b)) for _ in frames]
    assert same(whole, [first for first, _ in beside])
    assert same(list(restorer.stream(others, sigma=12)), [second for _, second in beside])


def test_each_result_comes_before_the_next_frame_is_asked_for(restorer):
    asked = []

    def frames():
        for number, frame in enumerate(clip(3)):
            asked.append(number)
            yield frame

    for number, _ in enumerate(restorer.stream(frames(), sigma=12)):
        assert asked == list(range(number + 1))
    assert restorer.info["latency"] == 0


def test_the_past_matters_and_the_first_frame_is_a_picture(restorer):
    frames = list(clip(3))
    whole = list(restorer.stream(frames, sigma=12))
    assert np.abs(whole[0].astype(int) - restorer(frames[0], sigma=12)).max() <= 1  # by a plan
    assert not np.array_equal(whole[2], restorer(frames[2], sigma=12))


def test_memory_and_threads_change_no_bit():
    plans = StepPlans(create("fusion-unet"), "float32")
    frames = list(clip(3, height=50, width=620, dtype=np.float32))
    states = 3 * 4 * 50 * 620 * (4 + 4)
    with pytest.raises(fr.MemoryBudgetError, match=r"needs (\d+) bytes") as caught:
        StepRunner(plans, states + 1, 2).run(frames[0], sigma=12.0)
    least = int(str(caught.value).split("needs ")[1].split()[0])
    whole, small = StepRunner(plans, "1GiB", 1), StepRunner(plans, states + least, 2)
    for frame in frames:
        a, b = (runner.run(frame, sigma=12.0, clip=False) for runner in (whole, small))
        np.testing.assert_array_equal(a, b)
    assert small._session.report.strips > whole._session.report.strips == 1
    with pytest.raises(fr.MemoryBudgetError, match="states"):
        StepRunner(plans, states).run(frames[0], sigma=12.0)


@pytest.mark.parametrize("size", [(69, 85), (64, 64)], ids=str)
def test_a_step_as_a_plan_gives_what_the_module_does(size):
    model = create("fusion-unet")
    session, state, before = Stream(fr.Restorer(model, threads=1, memory="64MiB")), None, None
    assert session.info["path"] == "plan"
    for number, frame in enumerate(clip(4, height=size[0], width=size[1], dtype=np.float32)):
        x = torch.from_numpy(frame).permute(2, 0, 1)[None]
        if state is not None:
            flow = align.flow(align.outline(frame), before, align.EVEN_NOISY)
            state = carried(state, torch.from_numpy(flow).permute(2, 0, 1)[None])
        with torch.inference_mode():
            expected, state = model.step(x, 12.0, state)
        before = align.outline(np.ascontiguousarray(state.frame[0, :3].permute(1, 2, 0)))
        if number == 1:
            session.watch(frame, sigma=12.0)
        else:
            result = session(frame, sigma=12.0, clip=False)
            np.testing.assert_allclose(result, expected[0].permute(1, 2, 0).numpy(), atol=1e-4)
    assert session._runner.cuts == 0


def test_a_plan_and_its_fusions_give_what_the_module_does():
    model = create("recurrent-unet")
    restorer = fr.Restorer(model, threads=1, memory="64MiB")
    assert restorer.info["path"] == Stream(restorer).info["path"] == "plan"
    session, state, before = Stream(restorer), None, None
    for frame in clip(4, height=45, width=61, dtype=np.float32):
        x = torch.from_numpy(frame).permute(2, 0, 1)[None]
        with torch.inference_mode():
            alone = model(x, 12.0)
            outline = align.outline(alone[0].permute(1, 2, 0).numpy())
            if state is not None:
                flow = torch.from_numpy(align.flow(outline, before)).permute(2, 0, 1)[None]
                state = carried(state, flow)
            expected, state = model.step(x, 12.0, state)
        before = outline
        result = session(frame, sigma=12.0, clip=False)
        np.testing.assert_allclose(result, expected[0].permute(1, 2, 0).numpy(), atol=2e-4)
    with pytest.raises(fr.MemoryBudgetError, match="states"):
        list(fr.Restorer(model, threads=1, memory="256KiB").stream(clip(1), sigma=12))


def test_a_scene_change_begins_anew(restorer):
    first, second = list(clip(3)), list(clip(3, seed=7))
    together = list(restorer.stream(first + second, sigma=12))
    assert same(together[3:], list(restorer.stream(second, sigma=12)))
    runner = StepRunner(StepPlans(create("fusion-unet"), "float32"), threads=1)
    for frame in first + second + first:
        runner.run(frame, sigma=12.0)
    assert runner.cuts == 2


def test_a_frame_of_another_size_is_an_error_after_the_results_before_it(restorer):
    results = restorer.stream([*clip(2), scene(0, 40, 40)], sigma=12)
    assert next(results).shape == next(results).shape == (72, 88, 3)
    with pytest.raises(fr.ImageError, match="40 x 40 pixels in a stream of 88 x 72"):
        next(results)


def test_a_stream_that_resumes_goes_on_to_the_same_bits(restorer):
    frames = list(clip(6))
    whole = list(restorer.stream(frames))  # σ is estimated
    session = Stream(restorer)
    before = [session(frame) for frame in frames[:3]]
    other = Stream(restorer)
    other.resume({name: array.copy() for name, array in session.state().items()})
    assert same(whole, before + [other(frame) for frame in frames[3:]])


def test_kinds_of_frames(restorer):
    frames = list(clip(2))
    arrays = list(restorer.stream(frames, sigma=12))
    pictures = list(restorer.stream(map(PilImage.fromarray, frames), sigma=12))
    assert same(arrays, list(map(np.asarray, pictures)))
    tensors = [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in frames]
    restored = [x[0].permute(1, 2, 0).numpy() for x in restorer.stream(tensors, sigma=12)]
    assert same(arrays, restored)
    grey = [frame[..., 0] for frame in frames]
    assert [x.shape for x in restorer.stream(grey, sigma=12)] == [(72, 88)] * 2
    with pytest.raises(fr.ImageError, match="NaN"):
        list(restorer.stream([np.full((72, 88, 3), np.nan, np.float32)], sigma=12))


def test_a_model_for_pictures_restores_each_frame_by_itself():
    restorer = fr.Restorer(fr.create("unet", widths=(16, 16), blocks=1), threads=1)
    frames = list(clip(3))
    assert same(list(restorer.stream(frames, sigma=12)), [restorer(frame, sigma=12) for frame in frames])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the resident memory is read from /proc")
def test_memory_does_not_grow_with_the_clip(restorer):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    session = Stream(restorer)
    frame = scene(0, 24, 32)
    for _ in range(100):
        session(frame, sigma=12.0)
    before = resident()
    for _ in range(2000):
        session(frame, sigma=12.0)
    state = sum(array.nbytes for name, array in session.state().items() if name != "noise")
    assert state == 24 * 32 * (1 + 4 * (4 + 16 // 4))
    assert resident() - before < 200 * state  # kept states would be 2000 of them


def test_bfloat16_is_near_float32():
    model = fr.load("denoise-rnn")
    frames = list(clip(3, height=96, width=96, dtype=np.float32))
    exact, rounded = (
        list(fr.Restorer(model, precision=precision, threads=1).stream(frames, sigma=12))
        for precision in ("float32", "bfloat16")
    )
    error = np.mean([np.square(a - b).mean() for a, b in zip(exact, rounded, strict=True)])
    assert -10 * np.log10(error) > 50


def test_the_noise_level_is_the_mean_of_estimates():
    frames = list(clip(ESTIMATE_EVERY + 1))
    level = NoiseLevel()
    told = [level(frame) for frame in frames]
    ends = [estimate.noise_level(frames[i]) for i in (0, ESTIMATE_EVERY)]
    assert set(told[:-1]) == {ends[0]}
    assert told[-1] == pytest.approx(np.mean(ends))


@pytest.mark.parametrize("sigma", [0, 50])
def test_flow_finds_a_shift_and_tells_scenes_apart(sigma):
    rng = np.random.default_rng(0)
    large = scene(3, 120, 140)
    before, now = (
        (large[y : y + 96, x : x + 112] + rng.normal(0, sigma, (96, 112, 3))).astype(np.float32) / 255
        for y, x in ((10, 12), (7, 16))
    )
    flow = align.flow(align.outline(now), align.outline(before))
    inner = flow[16:-16, 16:-16].reshape(-1, 2)
    assert np.abs(np.median(inner, 0) - (4, -3)).max() < 0.3
    assert align.difference(align.outline(now), align.outline(before), flow) < align.OTHER_SCENE / 2
    other = align.outline(scene(5, 96, 112))
    assert align.difference(other, align.outline(now), align.flow(other, align.outline(now))) > align.OTHER_SCENE


def test_tiny_frames_have_no_flow():
    outline = align.outline(np.zeros((3, 200, 3), np.uint8))
    assert not align.flow(outline, outline).any()
    restorer = fr.Restorer(create("fusion-unet"), threads=1)
    assert [x.shape for x in restorer.stream([np.zeros((1, 1, 3), np.uint8)] * 2, sigma=5)] == [(1, 1, 3)] * 2
