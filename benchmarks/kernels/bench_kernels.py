"""One operator at a time against torch and the peers: the cases of fastrestore/bench/suites/kernels.py."""

SUITE = "kernels"


def test_kernels(measured):
    assert measured["rows"]
