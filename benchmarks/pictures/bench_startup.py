"""From the start of a process to its first frame: the cases of fastrestore/bench/suites/startup.py."""

SUITE = "startup"


def test_startup(measured):
    assert measured["rows"]
