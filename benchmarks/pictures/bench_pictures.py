"""From file to file: the cases of fastrestore/bench/suites/pictures.py."""

SUITE = "pictures"


def test_pictures(measured):
    assert measured["rows"]
