"""Which cases a suite has, and the running of them: what the command line and benchmarks/ share."""

import inspect
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastrestore.bench.process import Skipped, in_fresh_process
from fastrestore.bench.suites import SUITES
from fastrestore.bench.timing import FEW_ROUNDS, confirm

QUICK = {"rounds": 2, "peers": "ncnn,openvino,onnxruntime,jit,torch"}  # torch.compile takes longest to prepare
NUMBERS = {"threads": int, "sigma": float}


def select(
    suite: str, wanted: Mapping[str, str] = {}, full: bool = False, quick: bool = False, **more: Any
) -> list[dict[str, Any]]:
    """The options of each case of a suite.

    Without anything else, those of `make bench`.  wanted: values by axis, several by comma; an axis that is not named
    keeps the values that `make bench` has.  full: every combination.  quick: tiny ones, that show whether all works.
    more: options of every case (peers, rounds, ...) that are not None.
    Raises ValueError for an axis or an option that the suite has not.
    """
    module = SUITES[suite]
    if unknown := set(wanted) - set(module.AXES):
        raise ValueError(f"{suite} does not vary in {', '.join(sorted(unknown))}: it has {', '.join(module.AXES)}")
    more = {name: value for name, value in more.items() if value is not None}
    if unknown := set(more) - set(inspect.signature(module.run).parameters):
        raise ValueError(f"{suite} takes no {', '.join(sorted(unknown))}")
    if quick:
        more = QUICK | {name: value for name, value in module.QUICK.items() if name not in module.AXES} | more
    if not (wanted or full or quick):
        return [case | more for case in module.SHORT]
    values = {}
    for axis, all_values in module.AXES.items():
        short = list(dict.fromkeys(case[axis] for case in module.SHORT if axis in case)) or all_values[:1]
        if axis in wanted:
            values[axis] = [NUMBERS.get(axis, str)(value) for value in wanted[axis].split(",")]
        else:
            values[axis] = all_values if full else module.QUICK.get(axis, short) if quick else short
    return [dict(zip(values, combination, strict=True)) | more for combination in itertools.product(*values.values())]


def name(suite: str, options: Mapping[str, Any]) -> str:
    """Of the case's result file."""
    return SUITES[suite].name(**options)


def run(suite: str, options: Mapping[str, Any], record: Path | None = None) -> dict[str, Any]:
    """The result of one case, from a process of its own, kept as record/NAME.json.

    Where the suite says how (`again`), a second process confirms it, unless the rounds are too few for a figure.
    Raises Skipped with the reason, RuntimeError if the case failed.
    """
    result = in_fresh_process(suite, dict(options))
    again = getattr(SUITES[suite], "again", None)
    if again and result["rounds"] >= FEW_ROUNDS and (second := again(options, result)):
        result = confirm(result, in_fresh_process(suite, second))
    if record:
        record.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
        (record / f"{name(suite, options)}.json").write_text(text, encoding="utf-8")
    return result


def text(result: Mapping[str, Any]) -> str:
    """What a person reads of a result: the suite's own lines, then how each was set and who was left out, why."""
    lines = [SUITES[result["suite"]].text(result)]
    for who, row in result["rows"].items():
        if row.get("settings"):
            about = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
            lines.append(f"    {who} {row.get('version') or ''}: {about}")
    lines += [f"    {who} left out: {reason}" for who, reason in result["left_out"].items()]
    return "\n".join(lines)


def run_all(
    chosen: Mapping[str, list[dict[str, Any]]], say: Callable[[str], None], record: Path | None = None
) -> Iterator[dict[str, Any] | None]:
    """The results of all cases, by suite, each said when it is there; None for one that failed."""
    for suite, options in chosen.items():
        for case in options:
            try:
                result = run(suite, case, record)
            except Skipped as reason:
                say(f"{name(suite, case)} skipped: {reason}")
                continue
            except RuntimeError as error:
                say(f"{name(suite, case)} failed: {error}")
                yield None
                continue
            say(text(result))
            yield result
