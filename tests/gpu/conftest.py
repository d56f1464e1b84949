import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from fastrestore.ops import _C
from gpu import emulated


@pytest.fixture(scope="session")
def module():
    """The emulated kernels as a module."""
    if reason := emulated.missing():
        pytest.skip(reason)
    return emulated.load(emulated.build())


@pytest.fixture
def machine(request):
    """An emulated H100 or, with --device cuda, this machine's own GPU."""
    if request.config.getoption("--device") == "emulated":
        return emulated.Emulation(request.getfixturevalue("module"), emulated.H100)
    if not hasattr(_C, "cuda"):
        pytest.fail("--device cuda: the core was built without nvcc")
    _C.cuda.device_count()
    return emulated.Gpu(_C.cuda)


@pytest.fixture
def sessions(request, tmp_path):
    """Sessions of plans on an emulated H100 or, with --device cuda, on this machine's own GPU."""
    if request.config.getoption("--device") == "cuda":
        return emulated.GpuSessions()
    return emulated.Sessions(request.getfixturevalue("module"), tmp_path)


@pytest.fixture(scope="session")
def apart():
    """Runs a function in a process of its own: one process holds one module of emulated kernels."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "gpu.test_emulation", "gpu.test_session"])

    def call(function, *arguments):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(function, *arguments).result(timeout=300)

    return call
