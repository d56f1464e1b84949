"""Everything that is to be known of one GPU, in one run of at most nine minutes.

    python benchmarks/gpu.py --json results.json [--minutes 9] [--plan-only] [--from results.json] [--plot results.png]

Ceilings first (a large matrix product, a large copy); then kernels and whole networks at 512 x 512, 1920 x 1080 and
3840 x 2160, in float16 and bfloat16, each beside its baselines, and every variant's answer against float64 before its
time:

    ours         this package's CUDA kernels            triton      this package's Triton kernels
    cudnn        torch, channels_last, bias and activation apart
    cudnn_fused  torch.cudnn_convolution_relu, where the operation is one
    torch        torch's own operators
    compiled     torch.compile(mode="max-autotune")
    plan         a session's run on a picture that lies on the device; from host to host; in parts

Every variant but the plans is a CUDA graph of several launches that walk a ring of inputs and outputs of four times the
L2 cache (`hot`: one set).  Variants take turns; a line holds the median, the 10th and the 90th percentile of a launch.
The most telling comparisons come first, and what the time does not allow is recorded as skipped: --plan-only prints the
order with the seconds that each is granted, and needs no GPU.  Clocks are left as they are.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from gpu_cases import (
    SIZES,
    TYPES,
    Case,
    attention_case,
    block_case,
    channel_attention_case,
    conv_case,
    local_mean_case,
)
from torch import Tensor, nn

import fastrestore as fr
from fastrestore import engine
from fastrestore.layers import fused
from fastrestore.ops import dispatch

# Relative to the root mean square of the exact result.
TOLERANCE = {"bfloat16": 6e-3, "float16": 1e-3}
NETWORKS = {
    "dncnn": dict(depth=20),
    "ffdnet": {},
    "drunet": {},
    "nafnet-32": dict(width=32),
    "nafnet-64": dict(width=64),
    "restormer": {},
    "swinir-light": dict(width=60, blocks=(6, 6, 6, 6), heads=(6, 6, 6, 6)),
}
# Of whole networks: what many layers make of that; 50 dB below the result's root mean square is 3.2e-3.
NETWORK_TOLERANCE = {"bfloat16": 3e-2, "float16": 4e-3}
LAUNCHES = 20  # in a graph
Row = dict[str, object]
OTHERS = ("cudnn", "cudnn_fused", "compiled", "sdpa", "torch")
CEILING_SECONDS = 8
# That compiling with autotuning is granted: a guess until it has been measured once.
COMPILE_SECONDS = {"dncnn": 25, "ffdnet": 20, "drunet": 60, "nafnet-32": 75, "nafnet-64": 75, "restormer": 75,
                   "swinir-light": 60}  # fmt: skip


@dataclass
class Clock:
    """Time left, and what was skipped for want of it."""

    end: float
    skipped: list[str] = field(default_factory=list)

    def allows(self, what: str, seconds: float) -> bool:
        if time.monotonic() + seconds < self.end:
            return True
        self.skipped.append(what)
        return False


@contextlib.contextmanager
def way(path: str) -> Iterator[None]:
    """Operators take this path; "plain": layers do not reach our operators at all; "joined": convolutions take cuDNN's
    own with bias and ReLU where they are one."""
    before, apply, operators = os.environ.get("FASTRESTORE_GPU"), fused._apply, fused.ops
    if path == "plain":
        fused._apply = lambda *tensors: False
    elif path == "joined":
        fused._apply = lambda *tensors: len(tensors) == 2 and tensors[1].ndim == 4
        fused.ops = SimpleNamespace(conv2d=joined_conv2d)
    else:
        os.environ["FASTRESTORE_GPU"] = path
    try:
        yield
    finally:
        fused._apply, fused.ops = apply, operators
        os.environ.pop("FASTRESTORE_GPU", None)
        if before is not None:
            os.environ["FASTRESTORE_GPU"] = before


def joined_conv2d(x, weight, bias, residual, *, stride, padding, dilation, groups, activation, slope, scale,
                  residual_first):  # fmt: skip
    """ops.conv2d by cuDNN's fused convolutions where they can, else by torch's operators one after the other."""
    shape = (stride, padding, dilation, groups)
    if activation == "relu" and scale == 1.0 and bias is not None:
        if residual is None:
            return torch.cudnn_convolution_relu(x, weight, bias, *shape)
        if residual_first:
            return torch.cudnn_convolution_add_relu(x, weight, residual, 1.0, bias, *shape)
    y = F.conv2d(x, weight, bias, *shape)
    if residual is not None and residual_first:
        y = y + residual
    y = fused._activate(y, activation, slope) * scale
    return y if residual is None or residual_first else y + residual


def graph_of(run: Callable[[int], object], sets: int, path: str) -> torch.cuda.CUDAGraph:
    """LAUNCHES runs over `sets` sets of tensors, captured after a warm-up."""
    stream = torch.cuda.Stream()
    with way(path), torch.cuda.stream(stream), torch.inference_mode():
        for i in range(3):
            run(i % sets)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for i in range(LAUNCHES):
                run(i % sets)
    torch.cuda.synchronize()
    return graph


def measure(graphs: dict[str, torch.cuda.CUDAGraph], seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of one launch: variants take turns, at least 25 times, until the time is up."""
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(5):
        for graph in graphs.values():
            graph.replay()
    torch.cuda.synchronize()
    begin = time.monotonic()
    while time.monotonic() - begin < seconds or len(next(iter(times.values()))) < 25:
        for name, graph in graphs.items():
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            stop.record()
            stop.synchronize()
            times[name].append(start.elapsed_time(stop) / LAUNCHES)
    return {name: summary(values) for name, values in times.items()}


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median_ms": statistics.median(ordered),
        "p10_ms": ordered[len(ordered) // 10],
        "p90_ms": ordered[-1 - len(ordered) // 10],
        "samples": len(ordered),
    }


def relative_error(actual: Tensor, exact: Tensor) -> float:
    return float((actual.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def ceilings() -> dict[str, float]:
    """Dense products in bfloat16, and a copy that reads and writes; random data."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(2**31, device="cuda", dtype=torch.uint8).random_()
    target = torch.empty_like(source)
    graphs = {
        "matmul": graph_of(lambda _: torch.matmul(a, b), 1, "plain"),
        "copy": graph_of(lambda _: target.copy_(source), 1, "plain"),
    }
    times = measure(graphs, 1.0)
    return {
        "tflops": 2 * 8192**3 / times["matmul"]["median_ms"] / 1e9,
        "gbytes_per_s": 2 * source.nbytes / times["copy"]["median_ms"] / 1e6,
    }


def floor_ms(flop: float, moved: float, peak: dict[str, float]) -> float:
    """The least that the ceilings allow: products and traffic overlap."""
    return max(flop / peak["tflops"] / 1e9, moved / peak["gbytes_per_s"] / 1e6)


@contextlib.contextmanager
def failing(variants: dict[str, dict], name: str) -> Iterator[None]:
    """A variant that fails is a result; the others go on."""
    try:
        yield
    except Exception as error:
        variants[name] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}


def run_case(case: Case, kind: str, peak: dict[str, float], clock: Clock) -> Row:
    """Correctness of every variant, then its time."""
    exact, graphs, variants = case.exact(), {}, {}
    for name, (path, run) in case.variants.items():
        if not clock.allows(f"{case.name}: {name}", 5):
            continue
        with failing(variants, name):
            dispatch.counts.clear()
            with way(path), torch.inference_mode():
                error = relative_error(case.crop(run(0)), exact)
            taken = dict(dispatch.counts)
            variants[name] = {"relative_error": error, "right": error < case.rounds * TOLERANCE[kind], "taken": taken}
            if variants[name]["right"]:
                graphs[name] = graph_of(run, case.sets, path)
    for name, times in (measure(graphs, 1.0) if graphs else {}).items():
        variants[name] |= times
        variants[name]["share_of_roofline"] = floor_ms(case.flop, case.moved, peak) / times["median_ms"]
        variants[name]["tflops"] = case.flop / times["median_ms"] / 1e9
    return {"case": case.name, "flop": case.flop, "bytes": case.moved, "variants": variants}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = fr.create(name.split("-")[0], **NETWORKS[name]).eval()
    for parameter in model.parameters():  # what begins at 0 would hide what it multiplies
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return model


def counted(plan: engine.Plan, height: int, width: int) -> tuple[float, list[tuple[float, float]]]:
    """FLOP of a plan, and of each step with products its FLOP and the bytes that it reads and writes in 16 bits."""
    pixels, layers = height * width, []
    for step in plan.steps:
        size = pixels / step["stride"] ** 2
        if "conv" in step:
            conv = step["conv"]
            taps = conv["kernel"][0] * conv["kernel"][1] * conv["in_channels"] // conv["groups"]
            # A transposed convolution's taps are shared by the phases of its output.
            phases = conv["stride"] ** 2 if step["op"] == "conv_transpose2d" else 1
            source = plan.steps[step["inputs"][0]]
            read = source["channels"] * pixels / source["stride"] ** 2
            layers.append((2.0 * size * step["channels"] * taps / phases, 2.0 * (read + step["channels"] * size)))
        elif step["op"] == "window_attention":
            layers.append((4.0 * 64 * size * step["channels"], 8.0 * size * step["channels"]))
    return sum(flop for flop, _ in layers), layers


def run_network(name: str, size: str, kind: str, peak: dict[str, float], clock: Clock, compiled: bool) -> Row:
    """A module's forward on device tensors, ours and torch's, and the plan; or, `compiled`, the compiled module."""
    height, width = SIZES[size]
    plain = network(name)
    model = network(name).to("cuda", TYPES[kind]).to(memory_format=torch.channels_last)
    x = torch.rand(1, 3, height, width, device="cuda", dtype=TYPES[kind]).contiguous(memory_format=torch.channels_last)
    sigma = (25.0,) if getattr(plain, "takes_sigma", False) else ()
    crop = x[:, :, :128, :128]
    with torch.inference_mode():
        exact = plain(crop.float().cpu(), *sigma).cuda().double()
    graphs, variants = {}, {}
    eager = lambda x: model(x, *sigma)  # noqa: E731
    runs = {"ours": ("cuda", eager), "cudnn": ("plain", eager), "cudnn_fused": ("joined", eager)}
    if compiled:
        made = torch.compile(model, mode="max-autotune-no-cudagraphs")
        runs = {"compiled": ("plain", lambda x: made(x, *sigma))}
    for variant, (path, run) in runs.items():
        if not clock.allows(f"{name} {size} {kind}: {variant}", 10):
            continue
        with failing(variants, variant):
            dispatch.counts.clear()
            with way(path), torch.inference_mode():
                error = relative_error(run(crop), exact)
            variants[variant] = {"relative_error": error, "right": error < NETWORK_TOLERANCE[kind]}
            variants[variant]["taken"] = dict(dispatch.counts)
            if variants[variant]["right"]:
                graphs[variant] = graph_of(lambda _, run=run: run(x), 1, path)
    for variant, times in (measure(graphs, 1.0) if graphs else {}).items():
        variants[variant] |= times
    graphs.clear()
    plan = engine.compile(plain)
    flop, layers = counted(plan, height, width)
    if not compiled and clock.allows(f"{name} {size} {kind}: plan", 10):
        for variant, memory in (("plan", "64GiB"), ("plan in parts", "1GiB")):
            if plan.halo is None and variant != "plan":
                continue
            with failing(variants, variant):
                variants[variant] = time_plan(plan, x, sigma, kind, memory, crop, exact)
    floor = sum(floor_ms(layer_flop, moved, peak) for layer_flop, moved in layers)
    for times in variants.values():
        if "median_ms" in times:
            times["share_of_roofline"] = floor / times["median_ms"]
            times["tflops"] = flop / times["median_ms"] / 1e9
    return {"case": f"{name} {size} {kind}", "flop": flop, "floor_ms": floor, "variants": variants}


def time_plan(plan, x: Tensor, sigma: tuple, kind: str, memory: str, crop: Tensor, exact: Tensor) -> dict[str, object]:
    """A session's answer and its time, on the device and from host to host."""
    session = plan.session(device="cuda", memory=memory, precision=kind)
    there = crop[0].permute(1, 2, 0).float().contiguous()
    restored = session.run_tensor(there, *sigma, clip=False).permute(2, 0, 1)[None]
    error = relative_error(restored, exact)
    about = {"relative_error": error, "right": error < NETWORK_TOLERANCE[kind], "ways": session.ways}
    image = (x[0].permute(1, 2, 0).float() * 255).byte().contiguous()
    on_host, host_times, times = image.cpu().numpy(), [], []
    for turn in range(12):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        session.run_tensor(image, *sigma)
        middle = time.perf_counter()
        session.run(on_host, *sigma)
        if turn >= 3:  # kernels are loaded, then their launches recorded
            times.append(1e3 * (middle - begin))
            host_times.append(1e3 * (time.perf_counter() - middle))
    about |= summary(times)
    return about | {"host_to_host": summary(host_times), "strips": session.report.strips}


def about() -> dict[str, object]:
    """Device, driver, versions and commit."""
    root = Path(__file__).resolve().parents[1]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True).stdout.strip()
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,power.draw", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    except OSError:
        driver = "nvidia-smi is not there"
    return {
        "device": torch.cuda.get_device_name(),
        "driver, SM clock, power": driver,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": commit,
        "paths": dispatch.report(),
    }


@dataclass(frozen=True)
class Item:
    """What is measured in one go: its name, the seconds that it is granted, and how."""

    name: str
    seconds: float
    run: Callable[[dict[str, float], Clock], Row]


def kernel_item(make: Callable[..., Case], size: str, kind: str, *arguments) -> Item:
    name = " ".join(map(str, (make.__name__.removesuffix("_case"), *arguments, size, kind)))
    return Item(name, 9, lambda peak, clock: run_case(make(size, kind, *arguments), kind, peak, clock))


def model_item(name: str, size: str, kind: str, compiled: bool = False) -> Item:
    return Item(
        f"{name} {size} {kind}{' compiled' if compiled else ''}",
        COMPILE_SECONDS[name] if compiled else 9,
        lambda peak, clock: run_network(name, size, kind, peak, clock, compiled),
    )


def schedule() -> list[Item]:
    """Everything, the most telling first."""
    full, small, large = "1920x1080", "512x512", "3840x2160"
    kernels = [(conv_case, 64), (block_case, 32), (block_case, 64), (attention_case, 6, 10), (conv_case, 32),
               (conv_case, 96), (conv_case, 64, 1), (channel_attention_case, 1, 48),
               (local_mean_case, 32, 384)]  # fmt: skip
    items = [kernel_item(make, full, "bfloat16", *rest) for make, *rest in kernels[:4]]
    items += [model_item(name, full, "bfloat16") for name in NETWORKS]
    items += [model_item(name, full, "bfloat16", True) for name in ("dncnn", "nafnet-32")]
    items += [kernel_item(make, full, "bfloat16", *rest) for make, *rest in kernels[4:]]
    items += [model_item(name, large, "float16") for name in NETWORKS]
    items += [model_item(name, small, "bfloat16") for name in NETWORKS]
    items += [model_item(name, full, "bfloat16", True) for name in NETWORKS if name not in ("dncnn", "nafnet-32")]
    for size, kind in (
        (full, "float16"),
        (large, "bfloat16"),
        (small, "float16"),
        (small, "bfloat16"),
        (large, "float16"),
    ):
        items += [kernel_item(make, size, kind, *rest) for make, *rest in kernels[:4]]
    for size, kind in ((full, "float16"), (large, "bfloat16"), (small, "float16")):
        items += [model_item(name, size, kind) for name in NETWORKS]
    return items


def table(results: dict[str, object]) -> str:
    """Markdown: the median of every case in milliseconds, ours and the best of the others; a network's compiled module
    is measured apart from the rest of it."""
    cases: dict[str, dict[str, float]] = {}
    shares: dict[str, float] = {}
    for row in results["rows"]:
        known = cases.setdefault(row["case"], {})
        for name, variant in row.get("variants", {}).items():
            if "median_ms" in variant:
                known[name] = variant["median_ms"]
                shares[f"{row['case']} {name}"] = variant.get("share_of_roofline", 0.0)
    lines = [
        "| case | ours, ms | way | of roofline | best other, ms | which | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, known in cases.items():
        mine = {name: known[name] for name in ("ours", "plan") if name in known}
        others = {name: time for name, time in known.items() if name in OTHERS}
        if mine and others:
            best, own = min(others, key=others.get), min(mine, key=mine.get)
            share, ratio = shares[f"{case} {own}"], others[best] / mine[own]
            lines.append(
                f"| {case} | {mine[own]:.3f} | {own} | {share:.0%} | {others[best]:.3f} | {best} | {ratio:.2f} |"
            )
    return "\n".join(lines)


def plot(results: dict[str, object], path: str) -> None:
    """Bars of every case with an answer of ours: time relative to the best of the others."""
    from matplotlib import pyplot

    names, ratios = [], []
    for line in table(results).splitlines()[2:]:
        name, *_, ratio = (part.strip() for part in line.strip("|").split("|"))
        names.append(name)
        ratios.append(float(ratio))
    figure, axes = pyplot.subplots(figsize=(8, 1.5 + 0.3 * len(names)), layout="constrained")
    axes.barh(names, ratios)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as the best of cuDNN and torch.compile")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def print_plan(items: list[Item], minutes: float) -> None:
    """The order, and when each begins if all before it take what they are granted."""
    begin = CEILING_SECONDS
    for item in items:
        late = begin + item.seconds > 60 * minutes
        print(f"{begin:6.0f} s  {item.name}{'  (skipped if those before take so long)' if late else ''}")
        begin += item.seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="where the results go")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--only", default="", help="a part of the names of what is to be measured")
    parser.add_argument("--plan-only", action="store_true", help="say what would be measured")
    parser.add_argument("--from", dest="source", help="results to make the table and the plot of")
    parser.add_argument("--plot", help="where a plot of the results goes")
    options = parser.parse_args()
    items = [item for item in schedule() if options.only in item.name]
    if options.plan_only:
        print_plan(items, options.minutes)
        return 0
    if options.source:
        results = json.loads(Path(options.source).read_text())
    elif not options.json:
        parser.error("--json, --plan-only or --from is needed")
    elif not torch.cuda.is_available():
        print("benchmarks/gpu.py needs an NVIDIA GPU that this torch can use", file=sys.stderr)
        return 2
    else:
        results = run(items, Clock(time.monotonic() + 60 * options.minutes), Path(options.json))
    print(table(results))
    if options.plot:
        plot(results, options.plot)
    return 0


def run(items: list[Item], clock: Clock, path: Path) -> dict[str, object]:
    """Measures what the clock allows; the file at `path` holds what there is after each item."""
    torch.backends.cudnn.benchmark = True
    results: dict[str, object] = {"about": about(), "ceilings": ceilings(), "rows": []}
    for item in items:
        if clock.allows(item.name, item.seconds):
            try:
                results["rows"].append(item.run(results["ceilings"], clock))
            except Exception as error:  # memory that is not there, say; the others go on
                results["rows"].append({"case": item.name, "failed": f"{type(error).__name__}: {str(error)[:300]}"})
            torch.cuda.empty_cache()
        results["skipped"] = clock.skipped
        path.write_text(json.dumps(results, indent=2))
    return results


if __name__ == "__main__":
    sys.exit(main())
