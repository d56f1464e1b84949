"""Deflate by whichever library is there: streams that zlib reads."""

import importlib
import sys
import zlib

import numpy as np
import pytest

from fastrestore import deflate


@pytest.fixture(params=["as installed", "without isal"])
def module(request, monkeypatch):
    if request.param == "without isal":
        monkeypatch.setitem(sys.modules, "isal", None)
    yield importlib.reload(deflate)
    monkeypatch.undo()
    importlib.reload(deflate)


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_streams_are_zlibs(module, size):
    data = np.random.default_rng(size).integers(0, 9, size, np.uint8)
    assert zlib.decompress(module.compress(data.tobytes())) == data.tobytes()
    assert module.decompress(zlib.compress(data.tobytes(), 6)) == data.tobytes()
    packer, pieces = module.packer(), np.array_split(data, 7)
    assert zlib.decompress(b"".join([*map(packer.compress, pieces), packer.flush()])) == data.tobytes()


def test_without_isal_it_is_zlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "isal", None)
    assert importlib.reload(deflate).compress(b"a" * 99) == zlib.compress(b"a" * 99, 1)
    monkeypatch.undo()
    importlib.reload(deflate)


def test_no_more_is_unpacked_than_wanted(module):
    packed = zlib.compress(bytes(10_000_000))
    assert module.decompress(packed, 10_000_000) == bytes(10_000_000)
    assert 1000 < len(module.decompress(packed, 1000)) < 5000


def test_what_is_damaged_is_refused(module):
    packed = module.compress(np.random.default_rng(0).bytes(3000))
    for damaged in (packed[:-1], packed[:100], b"", packed[:-1] + bytes([packed[-1] ^ 1])):
        for most in (0, 3000):
            with pytest.raises(ValueError, match="its deflated data is"):
                module.decompress(damaged, most)
