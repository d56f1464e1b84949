import pytest

from gpu import emulated


@pytest.fixture(scope="session")
def module():
    """The emulated kernels as a module."""
    if reason := emulated.missing():
        pytest.skip(reason)
    return emulated.load(emulated.build())


@pytest.fixture
def machine(module):
    """An emulated H100."""
    return emulated.Emulation(module, emulated.H100)
