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
