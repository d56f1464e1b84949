"""PSNR beside time, memory and file size: the cases of fastrestore/bench/suites/quality.py."""

SUITE = "quality"


def test_quality(measured):
    assert measured["rows"]
