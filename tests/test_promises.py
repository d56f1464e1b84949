"""What the pool and the executor promise to a process that they live in: threads, forks, signals, interrupts."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch

from fastrestore import engine, models


def make_plan(depth: int = 6, width: int = 32) -> engine.Plan:
    torch.manual_seed(0)
    return engine.compile(models.create("dncnn", depth=depth, width=width).eval())


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).random((height, width, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def plan() -> engine.Plan:
    return make_plan()


def test_idle_threads_sleep(plan):
    session = plan.session(threads=4)
    for _ in range(3):
        session.run(picture(120, 120))
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05


def test_many_threads_share_a_plan(plan):
    """16 threads x 200 runs, each thread with sessions of its own, some of which use the pool."""
    image = picture(24, 30)
    expected = plan.session(threads=1).run(image, clip=False)
    wrong = []

    def work(threads: int) -> None:
        session, out = plan.session(threads=threads), np.empty_like(image)
        for _ in range(200):
            out.fill(0)
            session.run(image, clip=False, out=out)
            if not np.array_equal(out, expected):
                wrong.append(threads)

    workers = [threading.Thread(target=work, args=(1 + number % 3,)) for number in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=100)
    assert not any(worker.is_alive() for worker in workers)
    assert not wrong


def test_other_threads_run_meanwhile(plan):
    """The interpreter is free during a run: another thread does most of what it does alone."""
    image = picture(400, 400)
    session = plan.session(threads=1)
    session.run(image)
    ticks, done = [0], threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks[0] += 1
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    before, start = ticks[0], time.perf_counter()
    while time.perf_counter() - start < 0.5:
        session.run(image)
    counted = ticks[0] - before
    done.set()
    ticker.join()
    assert counted > 50  # with the interpreter held, one between two runs


def test_cancel_within_a_band(plan):
    image = picture(600, 80)
    session = plan.session(threads=2, memory="3MiB")
    expected = session.run(image, clip=False)
    calls: list[float] = []
    session.run(image, progress=calls.append)
    bands = len(calls)
    assert bands > 5

    class Stop(Exception):
        pass

    def stop_at(number: int):
        calls.clear()

        def progress(share: float) -> None:
            calls.append(share)
            if len(calls) == number:
                raise Stop(str(share))

        return progress

    for number in (1, 2, bands - 1, bands):
        with pytest.raises(Stop):
            session.run(image, progress=stop_at(number))
        assert len(calls) == number  # nothing was computed after the band that said so
        np.testing.assert_array_equal(session.run(image, clip=False), expected)


@pytest.mark.parametrize("broken", ["sigma", "shape", "budget"])
def test_session_is_usable_after_an_error(plan, broken):
    image = picture(50, 60)
    session = plan.session(threads=2, memory="3MiB")
    expected = session.run(image)
    with pytest.raises((ValueError, MemoryError)):
        if broken == "sigma":
            session.run(image, sigma=3.0)
        elif broken == "shape":
            session.run(image, out=np.empty((50, 61, 3), np.float32))
        else:
            plan.session(memory="10KiB").run(image)
    np.testing.assert_array_equal(session.run(image), expected)


def run_script(script: str, timeout: float = 100) -> subprocess.CompletedProcess:
    head = """
    import os, signal, sys, threading, time
    import numpy as np, torch
    from fastrestore import engine, models
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it from birth
    torch.manual_seed(0)
    plan = engine.compile(models.create("dncnn", depth=6, width=32).eval())
    image = np.random.default_rng(0).random((200, 200, 3), dtype=np.float32)
    session = plan.session(threads=2)
    expected = session.run(image)
    """
    text = textwrap.dedent(head) + textwrap.dedent(script)
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=timeout)


def test_fork_while_other_threads_run():
    """A child of a process whose pool is at work has a pool of its own, and the same bits."""
    done = run_script(
        """
        stop = threading.Event()
        def work():
            own = plan.session(threads=3)
            while not stop.is_set():
                own.run(image)
        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers: worker.start()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                os._exit(0 if np.array_equal(plan.session(threads=2).run(image), expected) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        stop.set()
        for worker in workers: worker.join()
        assert np.array_equal(session.run(image), expected)
        """
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("threads", [1, 2])
def test_interrupt_in_the_main_thread(threads):
    """Ctrl-C stops a long run within a band, and the session goes on."""
    done = run_script(
        f"""
        large = np.random.default_rng(0).random((6000, 1000, 3), dtype=np.float32)
        long = plan.session(threads={threads}, memory="64MiB")
        shares = []
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            for _ in range(100):
                long.run(large, progress=shares.append)
            sys.exit("was not interrupted")
        except KeyboardInterrupt:
            pass
        assert shares[-1] < 1 or len(shares) > 1
        assert np.array_equal(long.run(image), expected)
        """
    )
    assert done.returncode == 0, done.stderr


def test_interrupt_while_another_thread_runs():
    """Ctrl-C reaches the main thread at once; the run in the other thread is not torn."""
    done = run_script(
        """
        results = []
        worker = threading.Thread(target=lambda: results.extend(session.run(image) for _ in range(50)))
        worker.start()
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            while True:
                time.sleep(10)
        except KeyboardInterrupt:
            pass
        worker.join()
        assert len(results) == 50 and all(np.array_equal(result, expected) for result in results)
        """
    )
    assert done.returncode == 0, done.stderr


def test_exit_while_a_thread_runs():
    """A daemon thread in the middle of a run does not keep the process, nor crash it."""
    done = run_script(
        """
        def work():
            while True:
                plan.session(threads=2).run(image)
        threading.Thread(target=work, daemon=True).start()
        time.sleep(0.2)
        print("done")
        """
    )
    assert done.returncode == 0 and done.stdout == "done\n", (done.returncode, done.stderr)


def test_signals_go_to_the_host(plan):
    """Our threads take no signals: handlers of the host run where it expects them."""
    plan.session(threads=3).run(picture(100, 100))
    own = threading.get_native_id()
    tasks = [int(task) for task in os.listdir("/proc/self/task")]
    ours = []
    for task in tasks:
        with open(f"/proc/self/task/{task}/status") as status:
            fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
        blocked = int(fields["SigBlk"], 16)
        if task != own and blocked >> (signal.SIGINT - 1) & 1 and blocked >> (signal.SIGUSR1 - 1) & 1:
            ours.append(task)
    assert len(ours) >= 2
