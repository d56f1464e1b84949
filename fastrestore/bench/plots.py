"""The report's pictures: each takes results and returns a figure, or None if the results have nothing for it."""

import io
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fastrestore import engine
from fastrestore.bench.networks import NETWORKS
from fastrestore.bench.timing import OURS

Results = list[dict[str, Any]]
OWN_COLOUR, OTHER_COLOUR, INK, GRID = "#c8102e", "#8a8f98", "#22252a", "#dfe2e6"
COLOURS = {  # a contestant has its colour in every picture
    "ncnn": "#1b7f5c",
    "OpenVINO": "#2f6fb7",
    "ONNX Runtime": "#7a4fa3",
    "OpenCV": "#b07d2b",
    "torch compiled, frozen": "#e08214",
    "torch jit, frozen": "#c9a227",
    "torch prepacked, fused": "#e08214",
    "torch eager, channels last": "#6b6f76",
}
SHADES = ("#c8102e", "#2f6fb7", "#1b7f5c", "#e08214", "#7a4fa3", "#6b6f76", "#b07d2b", "#0f8b8d")
STYLE = {
    "figure.dpi": 110,
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def colour(who: str) -> str:
    return OWN_COLOUR if who.startswith(OURS) else COLOURS.get(who, OTHER_COLOUR)


def _logarithmic(axes: Axes, which: str) -> None:
    """Plain numbers, more of them where the axis is short."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    axis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0) if high > 10 * low else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _of(results: Results, suite: str) -> Results:
    return [result for result in results if result.get("suite") == suite and result["rows"]]


def speed(results: Results) -> Figure | None:
    """How many times longer each peer takes than ours, by network: a bar a peer, the noise as its whisker."""
    compared = _of(results, "models")
    if not compared:
        return None
    names = list(dict.fromkeys(who for result in compared for who in result["ratios"] if who != OURS))
    if not names:
        return None
    bars = sum(len(result["ratios"]) for result in compared)
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.2 * bars))
    y, ticks = 0.0, []
    for result in compared:
        present = [who for who in names if who in result["ratios"]]
        ticks.append(y + (len(present) - 1) / 2)
        for who in present:
            times, uncertain = result["ratios"][who], result["noise"][who]
            error = {"ecolor": INK, "elinewidth": 0.8, "capsize": 2}
            axes.barh(y, times, color=colour(who), height=0.85, xerr=times * uncertain, error_kw=error)
            axes.annotate(f"  {times:.2f}", (times * (1 + uncertain), y), va="center", fontsize=8)
            y += 1
        y += 0.8
    axes.set_yticks(ticks, [_title(result) for result in compared])
    axes.set_ylim(-1, y)
    axes.axvline(1, color=OWN_COLOUR, linewidth=1.5)
    axes.annotate("fastrestore", (1, -1.1), color=OWN_COLOUR, ha="center", fontsize=9, annotation_clip=False)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("times as long as fastrestore, on the same weights")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour(who)) for who in names]
    axes.legend(handles, names, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    axes.set_title("Whole networks: right of the line, fastrestore is faster", pad=18)
    return figure


def _title(result: dict[str, Any]) -> str:
    isa = f", {result['isa']}" if result.get("isa") else ""
    threads = "" if result["threads"] == 1 else f", {result['threads']} threads"
    return f"{NETWORKS[result['network']].title} {result['size']}\n{result['precision']}{isa}{threads}"


def roofline(results: Results) -> Figure | None:
    """GFLOP/s of each kernel over the operations that a byte of its input and output is worth."""
    kernels = [result for result in _of(results, "kernels") if result["gflop"] and result["threads"] == 1]
    if not kernels:
        return None
    figure, axes = plt.subplots(figsize=(9, 5.5))
    peak = max(result["ceilings"]["arithmetic_gflops"] for result in kernels)
    moving = max(max(result["ceilings"][f"{kind}_gbytes"] for kind in ("copy", "triad")) for result in kernels)
    intensities = [float(f"{1e9 * result['gflop'] / result['bytes']:.3g}") for result in kernels]
    low, high = min(intensities) / 3, max(intensities) * 3
    knee = peak / moving
    axes.plot([low, knee, high], [low * moving, peak, peak], color=INK, linewidth=1.5)
    axes.annotate(f"multiply-adds: {peak:.0f} GFLOP/s", (high, peak), ha="right", va="bottom", fontsize=9)
    if low < knee:
        axes.annotate(f"copies: {moving:.0f} GB/s", (low, low * moving), va="bottom", fontsize=9, rotation=30)
    for who in dict.fromkeys(name for result in kernels for name in result["rows"]):
        points = [
            (x, result["rows"][who]["gflops"])
            for x, result in zip(intensities, kernels, strict=True)
            if who in result["rows"]
        ]
        brought = any(who in result["brought"] for result in kernels)
        marker, size = ("*", 90) if brought else ("o" if who == OURS else "s", 45)
        if who == OURS or who in COLOURS or brought:
            axes.scatter(*zip(*points, strict=True), color=colour(who), marker=marker, s=size, label=who)
    top = max(row["gflops"] for result in kernels for row in result["rows"].values())
    for x in sorted(set(intensities)):
        cases = [result for other, result in zip(intensities, kernels, strict=True) if other == x]
        labels = [result["case"].removeprefix("conv2d-") + " cold" * (result["cache"] == "cold") for result in cases]
        axes.axvline(x, color=GRID, linewidth=0.8, zorder=0)
        axes.annotate("\n".join(labels), (x, 1.15 * top), rotation=35, fontsize=8, annotation_clip=False)
    _logarithmic(axes, "x")
    _logarithmic(axes, "y")
    axes.set_xlim(low, high)
    axes.set_ylim(top=1.1 * top)
    axes.set_xlabel("operations a byte read and written")
    axes.set_ylabel("GFLOP/s, counted as direct convolution")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_title("Roofline, one thread, float32: above the roof, Winograd multiplies less than is counted", pad=80)
    return figure


def quality(results: Results) -> Figure | None:
    """PSNR over the time of a megapixel: a colour a denoiser, a marker a precision."""
    sets = _of(results, "quality")
    if not sets:
        return None
    figure, all_axes = plt.subplots(len(sets), 1, figsize=(9, 4.5 * len(sets)), squeeze=False, layout="constrained")
    for axes, result in zip(all_axes[:, 0], sets, strict=True):
        rows = sorted(result["rows"].items(), key=lambda item: -item[1]["psnr"])
        names = sorted({_without_precision(who) for who, _ in rows})
        for who, row in rows:
            label = f"{who}: {row['psnr']:.2f} dB, {row['ms_per_mpixel']:.0f} ms"
            marker = "s" if "bfloat16" in who else "^" if "int8" in who else "o"
            shade = SHADES[names.index(_without_precision(who)) % len(SHADES)]
            axes.scatter(row["ms_per_mpixel"], row["psnr"], color=shade, marker=marker, s=60, label=label)
        _logarithmic(axes, "x")
        axes.set_xlabel("milliseconds a megapixel (left is faster)")
        axes.set_ylabel("PSNR in dB (up is better)")
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axes.set_title(f"Quality and speed: {result['set']}, {rows[0][1]['pictures']} pictures, σ {result['sigma']:g}")
    return figure


def _without_precision(who: str) -> str:
    return who.rsplit(", ", 1)[0] if who.endswith(engine.PRECISIONS) else who


def memory(results: Results) -> Figure | None:
    """What a run takes over the size of its picture."""
    measured = _of(results, "memory")
    if not measured:
        return None
    curves: dict[str, list[tuple[float, float]]] = {}
    for result in measured:
        width, height = map(int, result["size"].split("x"))
        for who, row in result["rows"].items():
            taken = max(row["peak_growth_mib"] - row["result_mib"], 0.1)
            curves.setdefault(who, []).append((width * height / 1e6, taken))
    figure, axes = plt.subplots(figsize=(9, 5))
    ends = {}
    for who, points in sorted(curves.items()):
        points.sort()
        dashed = "--" if who != OURS and who.startswith(OURS) else "-"
        axes.plot(*zip(*points, strict=True), dashed, marker="o", color=colour(who))
        ends[who] = points[-1]
    previous = 0.0
    for who, (x, y) in sorted(ends.items(), key=lambda item: item[1][1]):
        shown = max(y, previous * 1.35)
        axes.annotate(f" {who}", (x, shown), va="center", color=colour(who), fontsize=9, annotation_clip=False)
        previous = shown
    _logarithmic(axes, "x")
    _logarithmic(axes, "y")
    axes.set_xlabel("megapixels of the picture")
    axes.set_ylabel("MiB beyond picture and result")
    titles = dict.fromkeys(NETWORKS[result["network"]].title for result in measured)
    axes.set_title(f"Memory of a run: {', '.join(titles)}")
    return figure


def latency(results: Results) -> Figure | None:
    """Which share of the frames is ready after how many milliseconds."""
    measured = [r for r in _of(results, "latency") if any("percentiles_ms" in row for row in r["rows"].values())]
    if not measured:
        return None
    size = (9, 3.6 * len(measured))
    figure, all_axes = plt.subplots(len(measured), 1, figsize=size, squeeze=False, layout="constrained")
    for axes, result in zip(all_axes[:, 0], measured, strict=True):
        for who, row in result["rows"].items():
            if "percentiles_ms" in row:
                shares = range(len(row["percentiles_ms"]))
                wide = 2.5 if who == OURS else 1.3
                label = f"{who}: p50 {row['p50_ms']:.2f}, p99 {row['p99_ms']:.2f} ms"
                axes.plot(row["percentiles_ms"], shares, color=colour(who), linewidth=wide, label=label)
        _logarithmic(axes, "x")
        axes.set_xlabel("milliseconds")
        axes.set_ylabel("% of the frames ready")
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        title = _title({**result, "isa": ""}).replace("\n", ", ")
        axes.set_title(f"One frame after another: {title}")
    return figure


FIGURES = {"speed": speed, "roofline": roofline, "quality": quality, "memory": memory, "latency": latency}


def draw(results: Results) -> dict[str, bytes]:
    """PNG files by name, of whatever the results have something for."""
    pictures = {}
    with plt.rc_context(STYLE):
        for name, make in FIGURES.items():
            figure = make(results)
            if figure is not None:
                file = io.BytesIO()
                figure.savefig(file, bbox_inches="tight", facecolor="white")
                plt.close(figure)
                pictures[name] = file.getvalue()
    return pictures
