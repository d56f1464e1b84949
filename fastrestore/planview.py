"""A plan for people: what each step computes, keeps and costs, as a dict, as text and as an SVG picture."""

import statistics
import time
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from fastrestore.core import _C
from fastrestore.plan import Plan

MEASURED_RUNS = 3
# Products of a direct convolution that a kernel makes in the time of one float32 multiply-add, by parts of its name.
FASTER = (("winograd4", 4), ("bf16", 2), ("amx", 8))


def describe(
    plan: Plan, height: int, width: int, threads: int = 1, memory: int | str | None = None, measure: bool = False
) -> dict[str, Any]:
    """The plan's anatomy for pictures of height x width.

    Sizes are in pixels and bytes, times in milliseconds.  A step's estimate is a floor: its products at the measured
    multiply-add rate of `threads` threads, or its bytes at the measured rate of copying in cache, the longer of both.
    measure: runs the plan on a random picture and adds what each step took.  Raises MemoryBudgetError.
    """
    layout = plan.layout(height, width, threads, memory)
    steps = plan.steps
    multiply_adds, copied = _fma_rate() * threads, _copy_rate() * threads
    for number, step in enumerate(steps):
        step["number"] = number
        step["what"] = _what(step, steps)
        step["fused"] = _fused(step)
        step["height"], step["width"] = layout["heights"][number], layout["widths"][number]
        for reach in ("halo", "margin"):
            step[reach] = None if step[reach] >= _C.EVERYTHING else step[reach]
        step["ring_rows"] = layout["ring_rows"][number]
        step["passing_rows"] = layout["passing_rows"][number]
        step["ring_bytes"] = layout["ring_rows"][number] * layout["ring_row_bytes"][number]
        step["recomputed"] = round(
            layout["columns"][number] / step["width"] - 1, 4
        )  # share of columns, in strips' overlap
        pixels = step["height"] * layout["columns"][number]
        image = layout["height"] // step["stride"] * layout["width"] // step["stride"]
        step["flops"] = pixels * flops_per_pixel(step) + 2 * image * step["products"]
        moved = pixels * step["pixel_bytes"] + step.get("conv", {}).get("packed_bytes", 0)
        for source in step["inputs"]:
            of = steps[source]
            moved += of["height"] * layout["columns"][source] * of["pixel_bytes"]
        step["bytes"] = 0 if step["op"] == "sigma_plane" else moved
        products = step["flops"]
        for part, times in FASTER:
            products /= times if part in step["kernel"] else 1
        step["estimated_ms"] = 1e3 * max(products / multiply_adds, step["bytes"] / copied)
    about = {
        "isa": plan.isa,
        "precision": plan.precision,
        "channels": plan.channels,
        "takes_sigma": plan.takes_sigma,
        "halo": plan.halo,
        "multiple_of": plan.multiple_of,
        "packed_bytes": plan.packed_bytes,
        "picture": [height, width],
        "threads": threads,
        "strips": layout["strips"],
        "band": layout["band"],
        "working_bytes": layout["working_bytes"],
        "rings_bytes": layout["rings_bytes"],
        "workspace_bytes": layout["workspace_bytes"] * threads,
        "passing_bytes": layout["passing_bytes"],
        "fma_gflops": round(multiply_adds / 1e9, 1),
        "copy_gbytes": round(copied / 1e9, 1),
        "flops": sum(step["flops"] for step in steps),
        "overlap_flops": sum(
            (layout["columns"][n] - step["width"]) * step["height"] * flops_per_pixel(step)
            for n, step in enumerate(steps)
        ),
        "estimated_ms": sum(step["estimated_ms"] for step in steps),
    }
    if measure:
        seconds = _measure(plan, height, width, threads, memory)
        for step, value in zip(steps, seconds, strict=False):
            step["measured_ms"] = 1e3 * value
        about["writing_ms"] = 1e3 * seconds[-1]
        about["measured_ms"] = 1e3 * sum(seconds)
    return about | {"steps": steps}


def flops_per_pixel(step: dict[str, Any]) -> int:
    """Operations for one pixel of a step's result, 2 a multiply-add, counted as a direct convolution."""
    conv = step.get("conv")
    if conv is None:
        return 0
    products = conv["in_channels"] // conv["groups"] * conv["out_channels"] * conv["kernel"][0] * conv["kernel"][1]
    return 2 * products // (conv["stride"] ** 2 if step["op"] == "conv_transpose2d" else 1)


def text(about: dict[str, Any]) -> str:
    """The description as a table."""
    mib = 2.0**20
    height, width = about["picture"]
    lines = [
        f"{about['precision']} on {about['isa']}, {width}x{height} on {about['threads']} thread(s)",
        f"halo {_reach(about)}, sides padded to multiples of {about['multiple_of']}"
        + (", takes sigma" if about["takes_sigma"] else ""),
        f"weights {about['packed_bytes'] / mib:.1f} MiB packed; working memory {about['working_bytes'] / mib:.1f} MiB, "
        f"{about['passing_bytes'] / mib:.1f} of them rows in passing, {about['workspace_bytes'] / mib:.1f} scratch",
        f"{about['strips']} strip(s), bands of {about['band']} rows",
        f"{about['flops'] / 1e9:.1f} GFLOP, {about['overlap_flops'] / 1e9:.1f} of them again where strips overlap",
        f"estimates from {about['fma_gflops']} GFLOP/s of multiply-adds, {about['copy_gbytes']} GB/s of cached copies",
        "",
    ]
    table = [["", "step", "of", "size", "kernel", "fused", "halo", "rows", "MiB", "GFLOP", "MB", "est. ms"]]
    measured = "measured_ms" in about
    if measured:
        table[0] += ["ms", "GFLOP/s"]
    for step in about["steps"]:
        row = [str(step["number"]), step["what"], " ".join(map(str, step["inputs"]))]
        row += [f"{step['channels']}@{step['width']}x{step['height']}", step["kernel"], ", ".join(step["fused"])]
        row += [
            "all" if step["halo"] is None else f"+{step['halo']}",
            str(step["ring_rows"]),
            f"{step['ring_bytes'] / mib:.2f}",
        ]
        row += [_number(step["flops"] / 1e9), _number(step["bytes"] / 1e6), _number(step["estimated_ms"])]
        if measured:
            taken = step["measured_ms"]
            row += [_number(taken), f"{step['flops'] / taken / 1e6:.0f}" if step["flops"] and taken else ""]
        table.append(row)
    total = ["", "all", *[""] * 6, f"{about['working_bytes'] / mib:.2f}", _number(about["flops"] / 1e9), ""]
    total.append(_number(about["estimated_ms"]))
    if measured:
        table.append(["", "writing the result", *[""] * 10, _number(about["writing_ms"]), ""])
        total += [_number(about["measured_ms"]), f"{about['flops'] / about['measured_ms'] / 1e6:.0f}"]
    table.append(total)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    left = {1, 3, 4, 5}
    for row in table:
        cells = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


ROW, TOP, LANE = 30, 118, 14  # pixels of a picture's row, of its head, between two arcs
COLOURS = {
    "input": "#dfe7ee",
    "sigma_plane": "#dfe7ee",
    "conv2d": "#cfe3f7",
    "conv_transpose2d": "#d9d3f0",
    "pixel_shuffle": "#f5e6c8",
    "pixel_unshuffle": "#f5e6c8",
    "concat": "#e2e2e2",
    "add": "#e2e2e2",
    "layer_norm": "#e2e2e2",
    "window_attention": "#d5ecd4",
    "partial_gram": "#d5ecd4",
    "channel_softmax": "#d5ecd4",
    "mix": "#d5ecd4",
}


def svg(about: dict[str, Any], title: str) -> str:
    """The description as a picture of its own: nodes from top to bottom, skips as arcs at their left, and at their
    right what each keeps in memory and takes in time."""
    steps, mib = about["steps"], 2.0**20
    arcs = _lanes(steps)
    left = 30 + LANE * (1 + max((lane for *_, lane in arcs), default=0))
    box = 290
    columns = {"kernel": left + box + 16, "halo": left + box + 300, "ring": left + box + 370, "time": left + box + 600}
    bar = 110
    width, height = columns["time"] + bar + 130, TOP + ROW * len(steps) + 40
    measured = "measured_ms" in about
    times = [step["measured_ms" if measured else "estimated_ms"] for step in steps]
    whole = about["measured_ms" if measured else "estimated_ms"] or 1.0
    most_time, most_ring = max(times) or 1.0, max(step["ring_bytes"] for step in steps)
    picture_height, picture_width = about["picture"]
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#1c2733">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(20, 30, title, size=20, weight="bold"),
        _text(
            20,
            52,
            f"{about['precision']} on {about['isa']} · {picture_width} x {picture_height} · "
            f"{about['threads']} thread(s) · halo {_reach(about)} · multiples of {about['multiple_of']}",
        ),
        _text(
            20,
            70,
            f"{about['strips']} strip(s), bands of {about['band']} rows · working memory "
            f"{about['working_bytes'] / mib:.1f} MiB, {about['workspace_bytes'] / mib:.1f} of them scratch · weights "
            f"{about['packed_bytes'] / mib:.1f} MiB · {about['flops'] / 1e9:.1f} GFLOP "
            f"({about['overlap_flops'] / 1e9:.1f} in overlaps) in {whole:.1f} ms "
            + ("measured" if measured else "estimated at least"),
        ),
        _text(left, TOP - 14, "step, its size", colour="#5b6b7a"),
        _text(columns["kernel"], TOP - 14, "kernel, what is fused into it", colour="#5b6b7a"),
        _text(columns["halo"], TOP - 14, "halo", colour="#5b6b7a"),
        _text(columns["ring"], TOP - 14, "rows kept in its ring", colour="#5b6b7a"),
        _text(columns["time"], TOP - 14, "share of the time", colour="#5b6b7a"),
        f'<line x1="20" y1="{TOP - 6}" x2="{width - 20}" y2="{TOP - 6}" stroke="#c5ced6"/>',
    ]
    indent = [12 * int(step["stride"]).bit_length() - 12 for step in steps]  # coarser levels stand further to the right
    middle = [TOP + ROW * number + ROW // 2 for number in range(len(steps))]
    for source, target, lane in arcs:
        x, y1, y2, end = left - 8 - LANE * lane, middle[source] + 5, middle[target] - 5, left + indent[target]
        out.append(
            f'<path d="M {left + indent[source]} {y1} H {left} C {x} {y1}, {x} {y1}, {x} {y1 + LANE} V {y2 - LANE} '
            f'C {x} {y2}, {x} {y2}, {left - 4} {y2} H {end - 4}" fill="none" stroke="#b0562c" stroke-width="1.4"/>'
            f'<path d="M {end - 6} {y2 - 3.5} l 6 3.5 l -6 3.5 z" fill="#b0562c"/>'
        )
    for step, y, taken in zip(steps, middle, times, strict=True):
        x = left + indent[step["number"]]
        if step["number"] and step["number"] - 1 in step["inputs"]:
            out.append(
                f'<line x1="{left + 120}" y1="{y - ROW + 11}" x2="{left + 120}" y2="{y - 11}" stroke="#5b6b7a"/>'
            )
        out.append(
            f'<rect x="{x}" y="{y - 11}" width="{left + box - x}" height="22" rx="4" '
            f'fill="{COLOURS.get(step["op"], "#ffffff")}" stroke="#8fa1b0"/>'
        )
        out.append(_text(x + 6, y + 4, f"{step['number']}  {step['what']}"))
        size = f"{step['width']} x {step['height']}"
        out.append(_text(left + box - 6, y + 4, size, anchor="end", colour="#3d4a56", size=10))
        out.append(_text(columns["kernel"], y + 4, " + ".join([step["kernel"], *step["fused"]]).strip(" +"), size=11))
        if step["halo"] != 0:
            reach = "all" if step["halo"] is None else f"+{step['halo']}"
            out.append(_text(columns["halo"], y + 4, reach))
        length = bar * step["ring_bytes"] / most_ring
        out.append(f'<rect x="{columns["ring"]}" y="{y - 7}" width="{length:.1f}" height="14" fill="#8fb996"/>')
        ring = f"{step['ring_rows']} rows, {_bytes(step['ring_bytes'])}"
        out.append(_text(columns["ring"] + length + 5, y + 4, ring, size=11))
        length = bar * taken / most_time
        out.append(f'<rect x="{columns["time"]}" y="{y - 7}" width="{length:.1f}" height="14" fill="#6a9bd1"/>')
        share = f"{100 * taken / whole:.1f} %, {_number(taken)} ms"
        out.append(_text(columns["time"] + length + 5, y + 4, share, size=11))
    foot = "Each ring keeps only the rows that a later band still needs; an arc is a result used again further down."
    out.append(_text(20, height - 14, foot, colour="#5b6b7a", size=11))
    return "\n".join([*out, "</svg>"]) + "\n"


def _reach(about: dict[str, Any]) -> str:
    return "the whole picture" if about["halo"] is None else f"{about['halo']} pixels"


def _lanes(steps: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
    """(from, to, lane) of every connection that is not from one step to the next; those that overlap get other lanes,
    the shorter the nearer."""
    skips = [(source, step["number"]) for step in steps for source in step["inputs"] if source != step["number"] - 1]
    lanes: list[list[tuple[int, int]]] = []
    placed = []
    for source, target in sorted(skips, key=lambda skip: skip[1] - skip[0]):
        lane = next(
            (i for i, taken in enumerate(lanes) if all(target <= a or source >= b for a, b in taken)), len(lanes)
        )
        if lane == len(lanes):
            lanes.append([])
        lanes[lane].append((source, target))
        placed.append((source, target, lane))
    return placed


def _text(
    x: float, y: float, words: str, size: int = 12, anchor: str = "start", colour: str = "", weight: str = ""
) -> str:
    more = f' fill="{colour}"' if colour else ""
    more += f' font-weight="{weight}"' if weight else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}"{more}>{escape(words)}</text>'


def _what(step: dict[str, Any], steps: list[dict[str, Any]]) -> str:
    """The operator in a few words: "conv 2x2 /2, 64 to 96", "pixel shuffle x2, 3"."""
    conv = step.get("conv")
    if conv is None:
        factor = f" x{step['factor']}" if "factor" in step else ""
        detail = f" {step['detail']}" if "detail" in step else ""
        return f"{step['op'].replace('_', ' ')}{detail}{factor}, {step['channels']}"
    up = step["op"] == "conv_transpose2d"
    words = f"{'transposed' if up else 'conv'} {conv['kernel'][0]}x{conv['kernel'][1]}"
    if conv["stride"] > 1:
        words += f" {'x' if up else '/'}{conv['stride']}"
    words += f", {conv['in_channels']} to {conv['out_channels']}"
    for name in ("dilation", "groups"):
        words += f", {name} {conv[name]}" if conv[name] > 1 else ""
    return words


def _fused(step: dict[str, Any]) -> list[str]:
    """What the step does besides its operator, in the order in which it is done."""
    conv = step.get("conv")
    if conv is None:
        return []
    residual = f"residual {step['inputs'][-1]}" if conv["residual"] != "none" else ""
    words = ["bias" if conv["bias"] else "", residual if conv["residual"] == "before activation" else ""]
    curve = conv["activation"]
    words.append({"none": "", "leaky_relu": f"leaky relu {conv['slope']:g}"}.get(curve, curve))
    words.append(f"x {conv['scale']:g}" if conv["scale"] != 1 else "")
    words.append(residual if conv["residual"] == "after scale" else "")
    return [word for word in words if word]


def _measure(plan: Plan, height: int, width: int, threads: int, memory: int | str | None) -> list[float]:
    """Median seconds of each step, and last of writing the result."""
    session = plan.session(threads=threads, memory=memory)
    image = np.random.default_rng(0).random((height, width, plan.channels), dtype=np.float32)
    out, runs = np.empty_like(image), []
    for _ in range(1 + MEASURED_RUNS):
        session.run(image, sigma=25.0 if plan.takes_sigma else None, out=out)
        runs.append(session.report.seconds)
    return [statistics.median(values) for values in zip(*runs[1:], strict=True)]


def _fma_rate() -> float:
    """Operations a second of one thread that does nothing but multiply-add: the best of a few tries."""
    operations = _C.fma_chains("", 200_000)
    return max(operations / seconds for seconds in _timed(lambda: _C.fma_chains("", 200_000)))


def _copy_rate() -> float:
    """Bytes a second, read and written together, when one thread copies half a MiB: what rings in cache allow."""
    source = np.ones(2**17, np.float32)
    target = source.copy()
    return max(2 * source.nbytes / seconds for seconds in _timed(lambda: np.copyto(target, source)))


def _timed(work: Callable[[], object]) -> list[float]:
    taken = []
    for _ in range(10):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return taken


def _number(value: float) -> str:
    """Three digits or more, to hundredths: 0.12, 1.23, 12.3, 1234; nothing for 0."""
    return "" if value == 0 else f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else "<0.01"


def _bytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
