"""Median and 99th percentile of one frame, from Python and from C: the cases of fastrestore/bench/suites/latency.py."""

SUITE = "latency"


def test_latency(measured):
    assert measured["rows"]
