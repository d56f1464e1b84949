"""Rounds in turn, ratios by pairs, and what counts as noise."""

from types import SimpleNamespace

import pytest

from fastrestore.bench import timing
from fastrestore.bench.timing import AGAIN, PEAK, interleave, noise, ratio, summary, verdict


def test_rounds_are_in_turn_and_the_first_comes_twice():
    calls = []
    seconds = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b", *"aba", *"aba"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2, AGAIN: 2, PEAK: 2}


def test_timed_calls_may_follow_some_that_are_not(monkeypatch):
    clock = [0.0]
    watch = SimpleNamespace(perf_counter=lambda: clock[0], sleep=lambda seconds: None)
    monkeypatch.setattr(timing, "time", watch)

    def case():
        clock[0] += 1.0

    seconds = interleave({"a": case}, rounds=3, warm=False, twice=False, lead=1.5)
    assert clock[0] == 9 and seconds["a"] == [1.0] * 3  # two that lead, and one


def test_a_ratio_is_that_of_pairs():
    own = [1.0, 2.0, 4.0, 8.0, 16.0]  # a clock that halves each round
    times, uncertain = ratio([3 * value for value in own], own)
    assert times == pytest.approx(3) and uncertain == pytest.approx(0)


def test_the_uncertainty_of_a_median():
    pairs = [1.9, 1.95, 2.0, 2.05, 2.1]
    times, uncertain = ratio(pairs, [1.0] * 5)
    assert times == 2.0 and uncertain == pytest.approx(2 * 1.2533 * 1.4826 * 0.05 / 5**0.5 / 2)
    assert ratio([1.0, 3.0], [1.0, 1.0]) == (2.0, 0.5)  # too few for more than their span


def test_noise_is_what_the_same_differs_by():
    seconds = {"a": [1.0] * 5, "b": [1.02] * 5, AGAIN: [1.05] * 5, PEAK: [100.0] * 5}
    assert noise(seconds) == pytest.approx(0.05)
    result = summary(seconds, gflop=50.0, threads=1)
    assert result["ratios"] == {"a": 1.0, "b": 1.02} and result["noise"]["b"] == pytest.approx(0.05)
    assert result["rows"]["a"]["gflops"] == 50 and result["rows"]["a"]["percent_of_peak"] == 50
    assert verdict(result["ratios"]["b"], result["noise"]["b"]).startswith("no difference")
    assert verdict(1.2, 0.05) == "x 1.20 ±0.06"
    assert "no difference" in timing.table(
        "title", {**result, "conditions": {"warnings": []}, "ratios": {"a": 1, "b": 1.02}}
    )


def test_work_that_is_not_counted_has_no_rate():
    seconds = {"a": [1.0] * 5, AGAIN: [1.0] * 5, PEAK: [100.0] * 5}
    assert "gflops" not in summary(seconds, gflop=0.0, threads=1)["rows"]["a"]


def test_a_second_process_adds_its_noise():
    def process(**milliseconds):
        base = milliseconds["a"]
        ratios = {name: value / base for name, value in milliseconds.items()}
        rows = {name: {"ms": value} for name, value in milliseconds.items()}
        return {"rows": rows, "ratios": ratios, "noise": dict.fromkeys(rows, 0.01), "same_twice_noise": 0.01}

    both = timing.confirm(process(a=1.0, b=2.0, c=3.0), process(a=1.25, b=2.0))
    assert both["ratios"] == {"a": 1.0, "b": 1.8, "c": 3.0}  # the mean, where both know it
    assert both["noise"]["b"] == both["noise"]["c"] == both["processes_noise"] == pytest.approx(0.4 / 1.8, abs=1e-4)
    assert [one["ms"] for one in both["processes"]] == [{"a": 1.0, "b": 2.0}, {"a": 1.25, "b": 2.0}]
    assert "between two processes: 22.2%" in timing.noises(both)
    same = timing.confirm(process(a=1.0, b=2.0), process(a=1.5, b=3.0))
    assert same["noise"]["b"] == 0.01 and same["ratios"]["b"] == 2.0
