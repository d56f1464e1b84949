"""Everything that is to be known of one GPU, in one run of at most nine minutes.

    python benchmarks/gpu.py --json results.json [--minutes 9] [--sections kernels,models]

Ceilings first (a large matrix product, a large copy); then every variant's answer against float64; then kernels and
whole networks at 512 x 512, 1920 x 1080 and 3840 x 2160, in float16 and bfloat16, each beside its baselines:

    ours         this package's CUDA kernels            triton      this package's Triton kernels
    cudnn        torch, channels_last, bias and activation apart
    cudnn_fused  torch.cudnn_convolution_relu, where the operation is one
    compiled     torch.compile(mode="max-autotune")

Every variant is a CUDA graph of several launches that walk a ring of inputs and outputs of four times the L2 cache
(`hot`: one set).  Variants take turns; a line holds the median, the 10th and the 90th percentile of a launch.  What the
time does not allow is recorded as skipped.  Clocks are left as they are.
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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastrestore as fr
from fastrestore import engine, ops
from fastrestore.layers import fused
from fastrestore.ops import dispatch
from fastrestore.ops.window_attention import reference as attention_reference

SIZES = {"512x512": (512, 512), "1920x1080": (1080, 1920), "3840x2160": (2160, 3840)}
TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
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
LAUNCHES = 20  # in a graph


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
    """Operators take this path; "plain": layers do not reach our operators at all."""
    before, apply = os.environ.get("FASTRESTORE_GPU"), fused._apply
    if path == "plain":
        fused._apply = lambda *tensors: False
    else:
        os.environ["FASTRESTORE_GPU"] = path
    try:
        yield
    finally:
        fused._apply = apply
        os.environ.pop("FASTRESTORE_GPU", None)
        if before is not None:
            os.environ["FASTRESTORE_GPU"] = before


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


def ring_sets(bytes_of_one: int) -> int:
    """Sets of tensors that together exceed four times the L2 cache."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(2, min(64, -(-4 * cache // max(1, bytes_of_one))))


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


@dataclass
class Case:
    """One kernel: variants by name with the path that they take; flop and bytes are counted, not measured."""

    name: str
    variants: dict[str, tuple[str, Callable[[int], Tensor]]]
    exact: Callable[[], Tensor]  # of set 0, in float64, on a crop
    crop: Callable[[Tensor], Tensor]
    flop: float
    moved: float


def conv_case(size: str, kind: str, channels: int, sets: int | None = None) -> Case:
    height, width = SIZES[size]
    dtype, one = TYPES[kind], 4 * height * width * channels
    count = sets or ring_sets(one)
    options = dict(device="cuda", dtype=dtype)
    x = [torch.randn(1, height, width, channels, **options).permute(0, 3, 1, 2) for _ in range(count)]
    weight = torch.randn(channels, channels, 3, 3, **options) / (9 * channels) ** 0.5
    bias = torch.randn(channels, **options)
    last = weight.contiguous(memory_format=torch.channels_last)

    def ours(i: int) -> Tensor:
        return ops.conv2d(x[i], weight, bias, padding=(1, 1), activation="relu")

    def plain(i: int) -> Tensor:
        return F.conv2d(x[i], last, bias, padding=1).relu_()

    def joined(i: int) -> Tensor:
        return torch.cudnn_convolution_relu(x[i], last, bias, [1, 1], [1, 1], [1, 1], 1)

    compiled = torch.compile(lambda x: F.conv2d(x, last, bias, padding=1).relu(), mode="max-autotune-no-cudagraphs")
    edge = min(128, height), min(128, width)

    def exact() -> Tensor:
        part = x[0][:, :, : edge[0] + 1, : edge[1] + 1].double()
        return F.conv2d(part, weight.double(), bias.double(), padding=1).relu()[:, :, : edge[0], : edge[1]]

    return Case(
        f"conv3x3 {channels} {size} {kind}{' hot' if sets == 1 else ''}",
        {
            "ours": ("cuda", ours),
            "triton": ("triton", ours),
            "cudnn": ("plain", plain),
            "cudnn_fused": ("plain", joined),
            "compiled": ("plain", lambda i: compiled(x[i])),
        },
        exact,
        lambda y: y[:, :, : edge[0], : edge[1]],
        18.0 * height * width * channels**2,
        one,
    )


def attention_case(size: str, kind: str, heads: int, depth: int) -> Case:
    height, width = SIZES[size]
    dtype, channels = TYPES[kind], heads * depth
    count = ring_sets(8 * height * width * channels)
    qkv = [torch.randn(1, height, width, 3 * channels, device="cuda", dtype=dtype) for _ in range(count)]
    bias = torch.randn(heads, 225, device="cuda", dtype=dtype)

    def ours(i: int) -> Tensor:
        return ops.window_attention(qkv[i], bias, 8, 4)

    def plain(i: int) -> Tensor:
        return attention_reference(qkv[i], bias, 8, 4)

    compiled = torch.compile(plain, mode="max-autotune-no-cudagraphs")
    return Case(
        f"window_attention 8 {heads}x{depth} {size} {kind}",
        {
            "ours": ("cuda", ours),
            "triton": ("triton", ours),
            "sdpa": ("plain", plain),
            "compiled": ("plain", compiled),
        },
        lambda: attention_reference(qkv[0][:, :132, :132].double(), bias.double(), 8, 4)[:, :128, :128],
        lambda y: y[:, :128, :128],
        4.0 * 64 * height * width * channels,
        8.0 * height * width * channels,
    )


def run_case(case: Case, kind: str, peak: dict[str, float], clock: Clock) -> dict[str, object]:
    """Correctness of every variant, then its time."""
    exact, graphs, variants = case.exact(), {}, {}
    for name, (path, run) in case.variants.items():
        if not clock.allows(f"{case.name}: {name}", 15):
            continue
        try:
            dispatch.counts.clear()
            with way(path), torch.inference_mode():
                error = relative_error(case.crop(run(0)), exact)
            taken = dict(dispatch.counts)
            variants[name] = {"relative_error": error, "right": error < TOLERANCE[kind], "taken": taken}
            if variants[name]["right"]:
                graphs[name] = graph_of(run, 1 if case.name.endswith("hot") else 2, path)
        except Exception as error:  # a variant that fails is a result; the others go on
            variants[name] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
    for name, times in (measure(graphs, 1.0) if graphs else {}).items():
        variants[name] |= times
        variants[name]["share_of_roofline"] = floor_ms(case.flop, case.moved, peak) / times["median_ms"]
        variants[name]["tflops"] = case.flop / times["median_ms"] / 1e9
    return {"case": case.name, "flop": case.flop, "bytes": case.moved, "variants": variants}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return fr.create(name.split("-")[0], **NETWORKS[name]).eval()


def run_network(name: str, size: str, kind: str, peak: dict[str, float], clock: Clock) -> dict[str, object]:
    """A module's forward on device tensors, ours and plain, and the plan from host to host."""
    height, width = SIZES[size]
    plain = network(name)
    model = network(name).to("cuda", TYPES[kind]).to(memory_format=torch.channels_last)
    x = torch.rand(1, 3, height, width, device="cuda", dtype=TYPES[kind]).contiguous(memory_format=torch.channels_last)
    sigma = (25.0,) if getattr(plain, "takes_sigma", False) else ()
    compiled = torch.compile(model, mode="max-autotune-no-cudagraphs")
    crop = x[:, :, :128, :128]
    with torch.inference_mode():
        exact = plain(crop.float().cpu(), *sigma).cuda().double()
    graphs, variants = {}, {}
    for variant, path, run in (
        ("ours", "cuda", lambda x: model(x, *sigma)),
        ("torch", "plain", lambda x: model(x, *sigma)),
        ("compiled", "plain", lambda x: compiled(x, *sigma)),
    ):
        what = f"{name} {size} {kind}: {variant}"
        if not clock.allows(what, 60 if variant == "compiled" else 15):
            continue
        try:
            dispatch.counts.clear()
            with way(path), torch.inference_mode():
                error = relative_error(run(crop), exact)
            variants[variant] = {"relative_error": error, "taken": dict(dispatch.counts)}
            graphs[variant] = graph_of(lambda _, run=run: run(x), 1, path)
        except Exception as error:  # as above
            variants[variant] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
    for variant, times in (measure(graphs, 1.0) if graphs else {}).items():
        variants[variant] |= times
    if clock.allows(f"{name} {size} {kind}: plan", 20):
        try:
            session = engine.compile(plain).session(device="cuda", memory="32GiB", precision=kind)
            image = (x[0].permute(1, 2, 0).float() * 255).byte().cpu().numpy()
            times = []
            for _ in range(8):
                begin = time.perf_counter()
                session.run(image, *sigma)
                times.append(1e3 * (time.perf_counter() - begin))
            variants["plan, host to host"] = summary(times[2:]) | {"ways": session.ways}
        except Exception as error:  # as above
            variants["plan, host to host"] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
    return {"case": f"{name} {size} {kind}", "variants": variants}


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


def table(results: dict[str, object]) -> str:
    """Markdown: the median of every variant in milliseconds, and ours against the best of the others."""
    lines = ["| case | ours, ms | best other, ms | which | ratio |", "|---|---|---|---|---|"]
    for row in [*results.get("kernels", []), *results.get("models", [])]:
        known = {k: v["median_ms"] for k, v in row["variants"].items() if "median_ms" in v and "plan" not in k}
        others = {k: v for k, v in known.items() if k not in ("ours", "triton")}
        if "ours" in known and others:
            best = min(others, key=others.get)
            ratio = others[best] / known["ours"]
            lines.append(f"| {row['case']} | {known['ours']:.3f} | {others[best]:.3f} | {best} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--sections", default="kernels,models", help="of kernels, models")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs an NVIDIA GPU that this torch can use", file=sys.stderr)
        return 2
    clock = Clock(time.monotonic() + 60 * options.minutes)
    torch.backends.cudnn.benchmark = True
    results: dict[str, object] = {"about": about(), "ceilings": ceilings(), "kernels": [], "models": []}
    peak = results["ceilings"]

    def write() -> None:
        results["skipped"] = clock.skipped
        Path(options.json).write_text(json.dumps(results, indent=2))

    write()
    if "kernels" in options.sections:
        cases = [
            ("1920x1080", "bfloat16"),
            ("512x512", "bfloat16"),
            ("3840x2160", "bfloat16"),
            ("1920x1080", "float16"),
        ]
        for size, kind in cases:
            for make in (
                lambda s=size, k=kind: conv_case(s, k, 64),
                lambda s=size, k=kind: conv_case(s, k, 32),
                lambda s=size, k=kind: conv_case(s, k, 96),
                lambda s=size, k=kind: attention_case(s, k, 6, 10),
                lambda s=size, k=kind: conv_case(s, k, 64, sets=1),
            ):
                if clock.allows(f"a kernel at {size} in {kind}", 20):
                    results["kernels"].append(run_case(make(), kind, peak, clock))
                    torch.cuda.empty_cache()
                    write()
    if "models" in options.sections:
        for size, kind in (("1920x1080", "bfloat16"), ("512x512", "bfloat16"), ("3840x2160", "float16")):
            for name in NETWORKS:
                if clock.allows(f"{name} {size} {kind}", 20):
                    results["models"].append(run_network(name, size, kind, peak, clock))
                    torch.cuda.empty_cache()
                    write()
    write()
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
