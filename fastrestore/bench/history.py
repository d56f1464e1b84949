"""Results of two times: what became faster, what slower, and what noise alone would explain."""

import json
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastrestore.bench.machine import ROOT
from fastrestore.bench.timing import OURS
from fastrestore.errors import ModelError

LEAST_NOISE = 0.02  # of two runs on one machine on two days, whatever either said of itself
OLD_NOISE = 0.05  # of a result that does not state its own


@dataclass(frozen=True)
class Change:
    """Of one contestant of ours in one case."""

    case: str
    who: str
    before_ms: float
    after_ms: float
    machine: float  # how many times longer what did not change took (peers, multiply-adds): the machine's part
    times: float  # how many times longer ours took, the machine's part taken off
    noise: float  # as a share
    verdict: str  # faster, slower, none


def load(source: str) -> dict[str, dict[str, Any]]:
    """Results by name, of a folder or of COMMIT:FOLDER of this checkout.

    Raises ModelError if there are none, or if the source cannot be read.
    """
    folder = Path(source)
    if folder.is_dir():
        texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.json"))}
    else:
        texts = _of_commit(*source.partition(":")[::2])
    try:
        results = {name: json.loads(text) for name, text in texts.items()}
    except ValueError as error:
        raise ModelError(f"{source}: holds a file that is not JSON: {error}") from error
    results = {name: result for name, result in results.items() if isinstance(result, dict) and "machine" in result}
    if not results:
        raise ModelError(f"{source}: holds no results")
    return results


def _of_commit(commit: str, folder: str) -> dict[str, str]:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
        if done.returncode:
            raise ModelError(f"{commit}:{folder}: {done.stderr.strip() or 'no such folder'}")
        return done.stdout

    if not folder or commit.startswith("-"):
        raise ModelError(f"{commit}: no such folder; of a commit, say COMMIT:FOLDER")
    names = git("ls-tree", "--name-only", commit, f"{folder.rstrip('/')}/").split()
    return {Path(name).stem: git("show", f"{commit}:{name}") for name in names if name.endswith(".json")}


def compare(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> list[Change]:
    """A change for each of our contestants that both have measured, in name order."""
    changes = []
    for name in sorted(before.keys() & after.keys()):
        old, new = before[name], after[name]
        machine = _machine(old, new)
        for who, row in new["rows"].items():
            first = old["rows"].get(who)
            was, now = _time(first), _time(row)
            if not who.startswith(OURS) or was is None or now is None:
                continue
            times = now / was / machine
            noise = max(LEAST_NOISE, (_noise(old, who) ** 2 + _noise(new, who) ** 2) ** 0.5)
            verdict = "none" if abs(times - 1) <= noise else "slower" if times > 1 else "faster"
            changes.append(Change(name, who, was, now, round(machine, 3), round(times, 3), round(noise, 3), verdict))
    return changes


def _time(row: dict[str, Any] | None) -> float | None:
    """Of one piece of work, in whatever unit its suite has."""
    return None if row is None else next((row[key] for key in ("ms", "p50_ms", "ms_per_mpixel") if key in row), None)


def _machine(old: dict[str, Any], new: dict[str, Any]) -> float:
    """How many times longer the same work took by the machine's own doing.

    The median of the peers whose version is the same, for the same code ran; without them, of the FMA peak.
    """
    times = []
    for who, row in new["rows"].items():
        first = old["rows"].get(who, {})
        same = not who.startswith(OURS) and row.get("version") and first.get("version") == row["version"]
        if same and _time(first) and _time(row):
            times.append(_time(row) / _time(first))
    if times:
        return statistics.median(times)
    peaks = old.get("fma_peak_gflops"), new.get("fma_peak_gflops")
    return peaks[0] / peaks[1] if all(peaks) else 1.0


def _noise(result: dict[str, Any], who: str) -> float:
    return result.get("noise", {}).get(who, OLD_NOISE)


def text(changes: list[Change]) -> str:
    if not changes:
        return "no case was measured in both"
    lines = []
    for change in changes:
        words = {"none": f"no difference (within {change.noise:.0%})"}.get(
            change.verdict, f"{change.verdict}: x {change.times:.2f} of the time ±{change.noise:.0%}"
        )
        lines.append(
            f"{change.case:40} {change.who:24} {change.before_ms:9.2f} -> {change.after_ms:9.2f} ms  {words}"
            + (f"  (the machine itself x {change.machine:.2f})" if abs(change.machine - 1) > LEAST_NOISE else "")
        )
    counts = {word: sum(change.verdict == word for change in changes) for word in ("faster", "slower", "none")}
    total = f"{counts['faster']} faster, {counts['slower']} slower, {counts['none']} without a difference"
    return "\n".join([*lines, total])
