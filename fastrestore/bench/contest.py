"""Who takes part in a comparison on one network: each made, called, and its answer compared with float64."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fastrestore import engine
from fastrestore.bench.machine import Watch
from fastrestore.bench.networks import NETWORKS, SIGMA, Network, Plain, picture, sides
from fastrestore.bench.peers import PEERS, Peer, missing, version
from fastrestore.bench.process import Skipped
from fastrestore.bench.timing import OURS, PEAK, interleave, summary
from fastrestore.errors import UnsupportedOperator

# Of the exact result: no peer's error in float32 is near this; a wrong tap, tile or plane is far beyond.  bfloat16 has
# 8 bits: networks of 12 to 65 layers end at 0.4 to 2 % of the result's standard deviation, ours and all peers'; int8
# with ranges from one picture at up to 6 %.
GREATEST = {"float32": 1e-4, "bfloat16": 0.15, "int8": 0.5}
RMS = {"float32": 1e-5, "bfloat16": 0.03, "int8": 0.15}  # as a share of the standard deviation
SECOND_CORE_WAKES = 0.3  # seconds for which a core that has idled, while one thread ran, is up to a third slower
CORNER = 48  # side of the corner that float64 computes, with the model's halo around it


class WrongAnswer(AssertionError):
    """A contestant's result is not right; the message says who and how far off."""


def fastrestore_peer(network: Network, image: np.ndarray, threads: int, precision: str, memory: str | None) -> Peer:
    """Our plan.  Raises Skipped if there is none for this network."""
    model = network.model()
    sigma = SIGMA if model.takes_sigma else None
    # As the peers: ranges of this very picture, and nothing kept wide for its sake.
    int8 = {"calibration": [(image, sigma)], "least_psnr": 0.0} if precision == "int8" else {}
    try:
        plan = engine.compile(model, precision=precision, **int8)
    except UnsupportedOperator as error:
        raise Skipped(f"fastrestore has no plan for {network.title}: {error}") from error
    session, out = plan.session(threads=threads, memory=memory), np.empty_like(image)

    def run() -> np.ndarray:
        return session.run(image, sigma=sigma, clip=False, out=out)

    working = {"working_mib": round(session.working_bytes(*image.shape[:2]) / 2**20, 1)}
    return Peer(run, session.info | working | plan.card)  # the card: what calibration found


class Truth:
    """What the network gives in float64 (in a corner, with all that the corner sees) and in float32 (everywhere).

    exact: False takes float32 for the corner as well, where another process has had float64, which takes long.
    """

    def __init__(self, network: Network, image: np.ndarray, exact: bool = True):
        model, (height, width) = network.model(), image.shape[:2]
        cell = model.multiple_of
        # Without a halo a pixel sees the whole picture.
        seen = max(height, width) if model.halo is None else -(-(CORNER + model.halo) // cell) * cell
        crop = image[:seen, :seen]
        self.kept = [CORNER if side > seen else side for side in image.shape[:2]]
        self.whole = self._run(network.make_plain(model, *image.shape[:2]), image)
        if exact:
            known = self._run(network.make_plain(model, *crop.shape[:2]).in_precision("float64"), crop)
        self.exact = (known if exact else self.whole)[: self.kept[0], : self.kept[1]]

    @staticmethod
    @torch.no_grad()
    def _run(plain: Plain, image: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(image).permute(2, 0, 1)[None].to(plain.dtype, memory_format=torch.channels_last)
        return plain(x)[0].permute(1, 2, 0).numpy()

    def check(self, name: str, result: np.ndarray, precision: str) -> dict[str, float]:
        """The errors.  Raises WrongAnswer if they are not those of rounding."""
        if result.shape != self.whole.shape:
            raise WrongAnswer(f"{name} gives {result.shape}, not {self.whole.shape}")
        corner = np.abs(result[: self.kept[0], : self.kept[1]] - self.exact)
        rms = float(np.sqrt(np.square(corner).mean()) / self.exact.std())
        greatest = {"exact": float(corner.max()), "float32": float(np.abs(result - self.whole).max())}
        # NaN is below no limit.
        if not (rms < RMS[precision] and all(value < GREATEST[precision] for value in greatest.values())):
            raise WrongAnswer(f"{name} is off by {rms:.2g} of the result's deviation, at most by {greatest}")
        return {
            "rms_of_deviation": float(f"{rms:.3g}"),
            "greatest": float(f"{greatest['exact']:.3g}"),
            "greatest_from_float32_anywhere": float(f"{greatest['float32']:.3g}"),
        }


@dataclass
class Line:
    """Who takes part, each made, called and checked."""

    check: Callable[[str, Any], dict[str, float]]  # name and latest result -> errors; raises WrongAnswer
    peers: dict[str, Peer] = field(default_factory=dict)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)  # version, settings, first call, error
    left_out: dict[str, str] = field(default_factory=dict)  # who cannot take part, and why

    def make(self, name: str, make: Callable[[], Peer], package: str | None) -> None:
        """package: whose version is recorded."""
        start = time.perf_counter()
        self.peers[name] = make()
        prepared = time.perf_counter() - start
        settings = self.peers[name].settings
        known = version(package) if package else None
        self.about[name] = {"version": known, "settings": settings, "prepare_s": round(prepared, 3)}

    def prove(self, name: str) -> None:
        """Calls it, checks the answer, and calls it again if that is quick, as TorchScript recompiles twice."""
        start = time.perf_counter()
        result = self.peers[name].run()
        called = time.perf_counter() - start
        self.about[name] |= {"first_call_s": round(called, 3), "error": self.check(name, result)}
        for _ in range(2 if called < 4 else 0):
            self.peers[name].run()

    def admit(self, name: str, make: Callable[[], Peer], package: str | None) -> None:
        """make and prove, or leave out with the reason: whatever a peer may raise."""
        try:
            self.make(name, make, package)
            self.prove(name)
        except Exception as error:
            reason = " ".join(str(error).split())
            said = isinstance(error, Skipped | WrongAnswer)
            self.leave_out(name, reason if said else f"failed with {type(error).__name__}: {reason:.200}")

    def leave_out(self, name: str, reason: str) -> None:
        self.peers.pop(name, None)
        self.about.pop(name, None)
        self.left_out[name] = reason

    def rounds(self) -> int:
        """More for what is quick; the slowest case costs minutes a round."""
        longest = max(about["first_call_s"] for about in self.about.values())
        return next((rounds for limit, rounds in ((0.2, 21), (1.0, 11), (4.0, 7), (15.0, 5)) if longest < limit), 3)

    def compare(self, gflop: float, threads: int, rounds: int | None = None) -> dict[str, Any]:
        """Interleaved rounds, and the answers of the last one checked: rows, ratios, noise, conditions."""
        last: dict[str, Any] = {}
        cases = {name: lambda n=name: last.update({n: self.peers[n].run()}) for name in self.peers}
        watch = Watch()
        lead = SECOND_CORE_WAKES if threads > 1 else 0.0
        seconds = interleave(cases, rounds or self.rounds(), warm=False, lead=lead)
        result = summary(seconds, gflop, threads) | {"conditions": watch.report(seconds[PEAK])}
        result |= {"rounds": len(seconds[PEAK]), "left_out": self.left_out}
        for name in self.peers:
            try:
                result["rows"][name] |= self.about[name] | {"error_after": self.check(name, last[name])}
            except WrongAnswer as error:
                if name == OURS:
                    raise
                disqualify(result, name, f"wrong after it was timed: {error}")
        return result


def disqualify(result: dict[str, Any], name: str, reason: str) -> None:
    """Leaves a contestant out of a result that it is part of."""
    for figures in (result["rows"], result["ratios"], result["noise"]):
        del figures[name]
    result["left_out"][name] = reason


def line_up(
    name: str,
    size: str,
    threads: int,
    precision: str,
    peers: list[str],
    memory: str | None = None,
    isa: str = "",
    exact: bool = True,
) -> Line:
    """Ours on a network, then those of `peers` that can take part.  exact: as Truth's.

    A peer that fails or answers wrongly is left out with the reason; if ours does, the error is raised.
    """
    network, (height, width) = NETWORKS[name], sides(size)
    image = picture(height, width)
    line = Line(lambda who, result: truth.check(who, result, precision))
    # First: whether there is a plan at all, before anything that takes long.
    line.make(OURS, lambda: fastrestore_peer(network, image, threads, precision, memory), "fastrestore")
    truth = Truth(network, image, exact)
    line.prove(OURS)
    plain = network.make_plain(network.model(), height, width)
    for peer in peers:
        if reason := missing(peer, precision, isa):
            line.left_out[peer] = reason
        else:
            backend = PEERS[peer]
            line.admit(peer, lambda make=backend.make: make(plain, image, threads, precision), backend.packages[0])
    return line
