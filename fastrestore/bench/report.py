"""Results as one page, report.html, that needs no other file, with its pictures as PNG files beside it."""

import base64
import html
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastrestore.bench import cases
from fastrestore.bench.timing import OURS, verdict
from fastrestore.errors import MissingDependency

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#22252a;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem} h2{font-size:1.2rem;margin-top:2.2rem} img{max-width:100%}
.about{color:#5c626b} .warning{background:#fff4d6;border-left:4px solid #e0a400;padding:.4rem .8rem;margin:.6rem 0}
pre{background:#f5f6f8;padding:.7rem;overflow-x:auto;font-size:12.5px;line-height:1.4}
table{border-collapse:collapse} td,th{text-align:left;padding:.15rem .9rem .15rem 0;border-bottom:1px solid #dfe2e6}
summary{cursor:pointer;font-weight:600} ul{padding-left:1.2rem}
"""
CAPTIONS = {
    "speed": "How many times longer the peers take. Whiskers are the noise: where one crosses the line, no difference "
    "is claimed.",
    "roofline": "Each kernel against what this machine can compute and copy, both measured in the same run.",
    "quality": "Quality beside speed: up and left is better. Circles are float32, squares bfloat16, triangles int8.",
    "memory": "The peak of a run's resident memory, each contestant in a process of its own.",
    "latency": "A steep line is a steady frame time; its tail at the top is what a camera's pipeline has to wait for.",
}


def need_matplotlib() -> None:
    """Raises MissingDependency where the pictures cannot be drawn."""
    if find_spec("matplotlib") is None:
        raise MissingDependency("the report needs matplotlib: pip install 'fastrestore[bench]'")


def write(results: list[dict[str, Any]], folder: Path) -> str:
    """Makes the page and its pictures; returns a sentence that says where they are.

    Raises MissingDependency without matplotlib, OSError if writing fails.
    """
    need_matplotlib()
    from fastrestore.bench import plots

    results = [with_suite(result) for result in results if "rows" in result]
    folder.mkdir(parents=True, exist_ok=True)
    pictures = plots.draw(results)
    for name, content in pictures.items():
        (folder / f"{name}.png").write_bytes(content)
    page = folder / "report.html"
    page.write_text(_page(results, pictures), encoding="utf-8")
    return f"{page}, with {', '.join(pictures) or 'no pictures'}"


def with_suite(result: dict[str, Any]) -> dict[str, Any]:
    """A result as today's are, where one of an older version lacks what they say."""
    first = next(iter(result["rows"].values()))
    suite = "memory" if "peak_growth_mib" in first else "latency" if "p50_ms" in first else "models"
    missing = {"suite": suite if "network" in result else "older", "isa": "", "precision": "float32", "left_out": {}}
    missing |= {"conditions": {"warnings": []}, "same_twice_noise": 0.0}
    return missing | {"noise": dict.fromkeys(result["rows"], 0.0)} | result


def _page(results: list[dict[str, Any]], pictures: dict[str, bytes]) -> str:
    machine = results[0]["machine"] if results else {}
    about = [machine.get("cpu", ""), f"instruction set {machine.get('isa')}", f"commit {machine.get('commit') or '-'}"]
    about += [f"torch {machine.get('torch')}", f"allocator {machine.get('allocator')}"]
    parts = ["<h1>fastrestore bench</h1>", f"<p class=about>{html.escape(', '.join(about))}</p>"]
    parts += [_first_table(results), _won(results)]
    warnings = dict.fromkeys(warning for result in results for warning in result["conditions"]["warnings"])
    if warnings:
        cases_with = sum(bool(result["conditions"]["warnings"]) for result in results)
        words = f"In {cases_with} of {len(results)} cases the machine was not quiet; each says so below."
        parts.append(f"<p class=warning>{words}</p>")
    for name, content in pictures.items():
        coded = base64.b64encode(content).decode()
        parts.append(f"<h2>{name.capitalize()}</h2><p>{CAPTIONS[name]}</p>")
        parts.append(f'<img alt="{name}" src="data:image/png;base64,{coded}">')
    parts.append("<h2>All figures</h2>")
    for suite, module in cases.SUITES.items():
        of_suite = [result for result in results if result["suite"] == suite]
        if of_suite:
            texts = "\n\n".join(cases.text(result) for result in of_suite)
            title = html.escape(f"{suite}: {(module.__doc__ or '').splitlines()[0]}")
            parts.append(f"<details><summary>{title}</summary><pre>{html.escape(texts)}</pre></details>")
    body = "\n".join(parts)
    head = f"<meta charset=utf-8><title>fastrestore bench</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>\n"


def _first_table(results: list[dict[str, Any]]) -> str:
    """Each network with our time and the strongest peer's, at a glance."""
    lines = []
    for result in results:
        ratios = {who: times for who, times in result.get("ratios", {}).items() if not who.startswith(OURS)}
        if result["suite"] != "models" or not ratios:
            continue
        strongest = min(ratios, key=ratios.get)
        own = result["rows"][OURS]
        cells = [cases.name("models", result), f"{own['ms']:.2f} ms", f"{own['gflops']:.0f} GFLOP/s", strongest]
        cells.append(verdict(ratios[strongest], result["noise"][strongest]))
        lines.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    if not lines:
        return ""
    head = "".join(f"<th>{word}</th>" for word in ("network", "fastrestore", "", "strongest peer", "takes"))
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _won(results: list[dict[str, Any]]) -> str:
    """Where a peer is the faster one, beyond noise."""
    lines = []
    for result in results:
        for who, times in result.get("ratios", {}).items():
            if not who.startswith(OURS) and times < 1 - result["noise"][who]:
                case = html.escape(cases.name(result["suite"], result))
                lines.append(f"<li>{case}: {html.escape(who)} takes {times:.2f} of our time</li>")
    if not lines:
        return "<p>No peer was faster than fastrestore in any of these cases.</p>"
    return f"<h2>Where a peer is faster</h2><ul>{''.join(lines)}</ul>"
