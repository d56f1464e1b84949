"""Whole networks against the strongest peers: the cases of fastrestore/bench/suites/models.py."""

SUITE = "models"


def test_models(measured):
    assert measured["rows"]
