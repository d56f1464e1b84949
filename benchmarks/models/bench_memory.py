"""Peak memory of a run: the cases of fastrestore/bench/suites/memory.py."""

SUITE = "memory"


def test_memory(measured):
    assert measured["rows"]
