"""One network beside its peers, interleaved in one process: which is how much faster, and is its answer right?

    python benchmarks/compare.py dncnn20 [--size 1920x1080] [--threads 1] [--precision bfloat16] [--peers ncnn,openvino]

Prints a table, each peer's settings, and the result as JSON on the last line.  All answers are compared with float64
before the first measured round and after the last one.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from harness import interleave, machine, settle, summary, table
from networks import NETWORKS, SIGMA, Network, Plain, flops_per_pixel
from peers import PEERS, Peer, missing, short_name, version

from fastrestore import engine

# Of the exact result: no peer's error in float32 is near this; a wrong tap, tile or plane is far beyond.  bfloat16 has
# 8 bits: networks of 12 to 65 layers end at 0.4 to 2 % of the result's standard deviation, ours and all peers'.
GREATEST = {"float32": 1e-4, "bfloat16": 0.15}
RMS = {"float32": 1e-5, "bfloat16": 0.03}  # as a share of the standard deviation
CORNER = 48  # side of the corner that float64 computes, with the model's halo around it


def sides(size: str) -> tuple[int, int]:
    """Height and width of "1920x1080"."""
    width, height = map(int, size.split("x"))
    return height, width


def fastrestore_peer(network: Network, image: np.ndarray, threads: int, precision: str, memory: str | None) -> Peer:
    model = network.model()
    session = engine.compile(model, precision=precision).session(threads=threads, memory=memory)
    out, sigma = np.empty_like(image), SIGMA if model.takes_sigma else None

    def run() -> np.ndarray:
        return session.run(image, sigma=sigma, clip=False, out=out)

    return Peer(run, session.info | {"working_mib": round(session.working_bytes(*image.shape[:2]) / 2**20, 1)})


class Truth:
    """What the network gives in float64 (in a corner, with all that the corner sees) and in float32 (everywhere)."""

    def __init__(self, network: Network, image: np.ndarray):
        model = network.model()
        cell = model.multiple_of
        seen = -(-(CORNER + model.halo) // cell) * cell
        crop = image[:seen, :seen]
        self.kept = [CORNER if side > seen else side for side in image.shape[:2]]
        self.exact = self._run(network.make_plain(model, *crop.shape[:2]).in_precision("float64"), crop)
        self.exact = self.exact[: self.kept[0], : self.kept[1]]
        self.whole = self._run(network.make_plain(model, *image.shape[:2]), image)

    @staticmethod
    @torch.no_grad()
    def _run(plain: Plain, image: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(image).permute(2, 0, 1)[None].to(plain.dtype)
        return plain(x)[0].permute(1, 2, 0).numpy()

    def check(self, name: str, result: np.ndarray, precision: str) -> dict[str, float]:
        """The errors; raises AssertionError if they are not those of rounding."""
        corner = np.abs(result[: self.kept[0], : self.kept[1]] - self.exact)
        everywhere = np.abs(result - self.whole)
        rms = float(np.sqrt(np.square(corner).mean()) / self.exact.std())
        greatest = {"exact": float(corner.max()), "float32": float(everywhere.max())}
        assert result.shape == self.whole.shape, f"{name}: shape {result.shape}"
        assert rms < RMS[precision], f"{name} is off by {rms:.2g} of the result's deviation"
        assert max(greatest.values()) < GREATEST[precision], f"{name} is off by {greatest}"  # and not for NaN
        return {
            "rms_of_deviation": float(f"{rms:.3g}"),
            "greatest": float(f"{greatest['exact']:.3g}"),
            "greatest_from_float32_anywhere": float(f"{greatest['float32']:.3g}"),
        }


def rounds_for(first_call: float) -> int:
    """More for what is quick; the slowest case costs minutes a round."""
    return next((rounds for limit, rounds in ((0.2, 21), (1.0, 11), (4.0, 7), (15.0, 5)) if first_call < limit), 3)


@dataclass
class Line:
    """Who takes part in a comparison on one network and size, each made, called and checked."""

    peers: dict[str, Peer] = field(default_factory=dict)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)  # version, settings, first call, error
    left_out: dict[str, str] = field(default_factory=dict)  # who cannot take part, and why
    truth: Truth | None = None


def line_up(name: str, size: str, threads: int, precision: str, wanted: list[str], memory: str | None = None) -> Line:
    network, (height, width) = NETWORKS[name], sides(size)
    image = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
    plain = network.make_plain(network.model(), height, width)
    line = Line(truth=Truth(network, image))
    makers: dict[str, Callable[[], Peer]] = {
        "fastrestore": lambda: fastrestore_peer(network, image, threads, precision, memory)
    }
    for peer in PEERS:
        if short_name(peer) not in wanted:
            continue
        if reason := missing(peer, precision):
            line.left_out[peer] = reason
        else:
            makers[peer] = lambda make=PEERS[peer][0]: make(plain, image, threads, precision)
    for peer, make in makers.items():
        start = time.perf_counter()
        line.peers[peer] = make()
        made = time.perf_counter()
        result = line.peers[peer].run()
        called = time.perf_counter()
        line.about[peer] = {
            "version": version(PEERS[peer][1]) if peer in PEERS else version("fastrestore"),
            "settings": line.peers[peer].settings,
            "prepare_s": round(made - start, 3),
            "first_call_s": round(called - made, 3),
            "error": line.truth.check(peer, result, precision),
        }
        for _ in range(2 if called - made < 4 else 0):  # TorchScript recompiles at its second and third call
            line.peers[peer].run()
    return line


def compare(
    name: str, size: str, threads: int, precision: str, wanted: list[str], rounds: int | None, memory: str | None
) -> dict[str, Any]:
    """The result: machine, peak, one row for each that took part, who did not and why."""
    line = line_up(name, size, threads, precision, wanted, memory)
    last: dict[str, np.ndarray] = {}
    cases = {peer: lambda p=peer: last.update({p: line.peers[p].run()}) for peer in line.peers}
    rounds = rounds or rounds_for(max(row["first_call_s"] for row in line.about.values()))
    seconds = interleave(cases, rounds, warm=False)
    height, width = sides(size)
    result = summary(seconds, flops_per_pixel(NETWORKS[name]) * height * width / 1e9, threads)
    own = result["rows"]["fastrestore"]["ms"]
    for peer, row in result["rows"].items():
        row |= line.about[peer] | {"error_after": line.truth.check(peer, last[peer], precision)}
    result["ratios"] = {peer: round(row["ms"] / own, 2) for peer, row in result["rows"].items()}
    what = {"network": name, "size": size, "precision": precision, "rounds": rounds, "left_out": line.left_out}
    working = line.peers["fastrestore"].settings["working_mib"]
    return {"machine": machine(), **what, **result, "working_mib": working}


def arguments(description: str) -> argparse.ArgumentParser:
    """What this script and its siblings take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--size", default="512x512", help="WIDTHxHEIGHT")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=GREATEST, default="float32")
    parser.add_argument("--peers", default="all", help="some of: " + ",".join(map(short_name, PEERS)) + "; or none")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with `wanted` peers; settles the process."""
    options = parser.parse_args()
    settle(options.threads)
    if options.precision not in engine.PRECISIONS:
        sys.exit(f"fastrestore has no {options.precision} yet")
    options.wanted = list(map(short_name, PEERS)) if options.peers == "all" else options.peers.split(",")
    if unknown := set(options.wanted) - set(map(short_name, PEERS)) - {"none"}:
        parser.error(f"unknown peers: {', '.join(unknown)}")
    return options


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="measured rounds; by default 3 to 21 depending on the time")
    parser.add_argument("--memory", help="our plan's budget, e.g. 64MiB")
    options = parsed(parser)
    case = options.network, options.size, options.threads, options.precision
    result = compare(*case, options.wanted, options.rounds, options.memory)
    print(table(f"{NETWORKS[options.network].title}, {options.size}, {options.precision}", result))
    for peer, row in result["rows"].items():
        print(f"  {peer:28} {row['version']}: {row['settings']}")
    for peer, reason in result["left_out"].items():
        print(f"  {peer:28} left out: {reason}")
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
