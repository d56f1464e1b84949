"""A session's copies beside its work: what the host asks of an emulated driver that runs things as late and in as odd
an order as streams and events allow (driver.h), and what becomes of it when one of the waits is left out."""

from collections import Counter

import numpy as np
import pytest
import torch.nn.functional as F

from fastrestore import engine
from gpu import emulated
from gpu.test_session import NETWORKS, Net, picture

# Little to emulate: what matters here is when things happen.
BLURRED = Net(lambda x: x - 0.5 * F.avg_pool2d(F.avg_pool2d(x, 3, 1, 1), 3, 1, 1))


def parts_of(sessions, size=(28, 36)):
    """A network's result in parts, and whole, with the session in parts and what its driver was asked."""
    plan, image = engine.compile(BLURRED), picture(*size)
    whole, one = sessions.run(sessions.open(plan, "float16"), image)
    session = sessions.open(plan, "float16", one.working_bytes // 2)
    sessions.module.take_record()
    result, report = sessions.run(session, image)
    assert one.strips == 1 and report.strips > 3
    return whole, result, session, report, sessions.module.take_record()


@pytest.mark.parametrize("seed", range(4))
def test_parts_are_right_in_any_order_that_the_driver_may_take(sessions, seed):
    sessions.module.set_device(**emulated.H100, seed=seed)
    whole, result, *_ = parts_of(sessions)
    np.testing.assert_array_equal(result, whole)


def finished_at(record, copy_cost, work_cost):
    """When the host is done, if a copy and a launch take so long, each stream does one thing at a time, and streams and
    host wait as they were told; and how long the streams were busy."""
    free, reached, busy = Counter(), {}, Counter()  # when a stream, and the host (0), is free; events' times
    for what, stream, event, amount in record:
        if what == "wait":
            free[0] = max(free[0], reached.get(event, 0))
        elif what == "wait for":
            free[stream] = max(free[stream], reached.get(event, 0))
        elif what == "record":
            reached[event] = max(free[stream], free[0])
        elif what == "wait for stream":
            free[0] = max(free[0], free[stream])
        else:
            cost = copy_cost if what == "copy" else work_cost * (amount if what == "replay" else 1)
            free[stream] = max(free[stream], free[0]) + cost
            busy[stream] += cost
    return free[0], busy


def test_copies_are_hidden_behind_the_work(sessions):
    *_, report, record = parts_of(sessions)
    record = [entry for entry in record if entry[0] != "clear" and entry[3] != 8]  # of the count of what is not finite
    launches = sum(amount if what == "replay" else what == "launch" for what, _, _, amount in record)
    work = launches / report.strips
    end, busy = finished_at(record, copy_cost=0.2 * work, work_cost=1.0)
    copies = 2 * report.strips * 0.2 * work
    assert sum(busy.values()) == pytest.approx(launches + copies, rel=0.02)
    # All copies but the first to the device and the last to the host.
    assert end == pytest.approx(launches + copies / report.strips, rel=0.05)
    # And where copies are what takes long, the work is hidden behind them.
    end, _ = finished_at(record, copy_cost=2 * work, work_cost=1.0)
    assert end == pytest.approx(4 * report.strips * work, rel=0.15)


def test_two_slots_and_nothing_of_the_pictures_size(sessions):
    """The device's memory stays within the budget whatever the picture's size; the weights are not counted."""
    plan, budget = engine.compile(BLURRED), 60_000
    sessions.module.take_device_bytes()
    session = sessions.open(plan, "float16", budget)
    weights = sessions.module.take_device_bytes()
    for size in ((24, 20), (50, 61), (9, 200), (24, 20)):
        _, report = sessions.run(session, picture(*size))
        assert (report.strips > 3) == (size != (24, 20))
        assert report.working_bytes <= budget
        assert sessions.module.take_device_bytes() - weights <= budget


def test_launches_are_recorded_once_for_each_shape_and_then_replayed(sessions):
    plan, image = engine.compile(NETWORKS["dncnn"]), picture(16, 20)
    session = sessions.open(plan, "float16")
    results, replays = [], []
    for seed in range(4):
        image = picture(16, 20, seed=seed)
        sessions.module.take_record()
        results.append((sessions.run(session, image)[0], image))
        replays.append([amount for what, _, _, amount in sessions.module.take_record() if what == "replay"])
    assert replays == [[], [3], [3], [3]]  # of three convolutions
    for result, image in results:
        np.testing.assert_array_equal(result, sessions.run(sessions.open(plan, "float16"), image)[0])
    larger = sessions.run(session, picture(30, 40))  # images move: what was recorded for them is of no use any more
    np.testing.assert_array_equal(larger[0], sessions.run(sessions.open(plan, "float16"), picture(30, 40))[0])
    again = sessions.run(session, results[0][1])[0]
    np.testing.assert_array_equal(again, results[0][0])


def test_a_cancelled_run_leaves_the_session_usable(sessions):
    whole, _, session, report, _ = parts_of(sessions)
    image, out, seen = picture(28, 36), np.empty((28, 36, 3), np.float32), []

    def stop(share):
        seen.append(share)
        if len(seen) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        session.run(image, out, None, 1.0, False, stop)
    assert seen == [1 / report.strips, 2 / report.strips]
    np.testing.assert_array_equal(sessions.run(session, image)[0], whole)


def test_pictures_that_lie_on_the_device_are_not_copied(sessions):
    whole, _, session, *_ = parts_of(sessions)
    for open_one in (session, sessions.open(engine.compile(BLURRED), "float16")):
        sessions.module.take_record()
        np.testing.assert_array_equal(sessions.module.run_there(open_one, picture(28, 36), True), whole)
        copies = [amount for what, _, _, amount in sessions.module.take_record() if what == "copy"]
        assert copies == [8]  # how many values were not finite


WAITS = {
    "the host fills a slot that is still being copied": "    cuda::wait(slot.sent);\n",
    "a copy overwrites what is still read": "  cuda::wait_for(copies_.get(), slot.worked);\n  cuda::copy(slot.in",
    "work begins before its part is there": "  if (!in_there_) cuda::wait_for(work_.get(), slot.sent);\n",
    "a result is copied before it is there": "  cuda::wait_for(copies_.get(), slot.worked);\n  cuda::copy(several_",
    "the caller takes a result before it is there": "  cuda::wait(slot.fetched);\n",
}


def wrong_parts(path, folder):
    """How many of a few runs on the module at `path` were wrong.  Results go to the host, whose waits for them order
    much besides, and stay on the device."""
    sessions = emulated.Sessions(emulated.load(path), folder)
    wrong = 0
    for seed in range(4):
        sessions.module.set_device(**emulated.H100, seed=seed)
        whole, result, session, *_ = parts_of(sessions)
        kept = sessions.module.run_there(session, picture(28, 36), False)
        wrong += not np.array_equal(whole, result) or not np.array_equal(whole, kept)
    return wrong


@pytest.mark.parametrize("what", WAITS)
def test_a_wait_that_is_left_out_is_noticed(what, apart, tmp_path):
    if reason := emulated.missing():
        pytest.skip(reason)
    source = (emulated.ROOT / "csrc" / "engine" / "cuda_copies.cc").read_text()
    text = WAITS[what]
    assert source.count(text) == 1, "the wait is no longer there once"
    changed = tmp_path / "cuda_copies.cc"
    changed.write_text(source.replace(text, text.split("\n", 1)[1]))
    assert apart(wrong_parts, emulated.build(changed), tmp_path) > 0
