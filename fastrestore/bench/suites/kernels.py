"""One operator at a time against torch's best form, its plain form, the peers, and kernels that someone brings."""

from collections.abc import Callable
from typing import Any

import torch

from fastrestore.bench import own
from fastrestore.bench.ceilings import SAVED_BY_WINOGRAD, arithmetic, bandwidth, check_possible, gpu_arithmetic
from fastrestore.bench.contest import Line, WrongAnswer, disqualify
from fastrestore.bench.machine import last_level_cache, machine
from fastrestore.bench.operators import CASES, Arguments, Contestant, Convolution, Problem
from fastrestore.bench.peers import PEERS, Peer, chosen, missing
from fastrestore.bench.process import Skipped
from fastrestore.bench.timing import FEW_ROUNDS, OURS, noises, verdict

AXES = {"case": list(CASES), "threads": [1, 2], "isa": ["", "avx2"], "cache": ["hot", "cold"]}
SHORT = [
    {"case": case, "peers": "none" if case.startswith("pixels") else "openvino", "cache": cache}
    for case, cache in (
        ("conv2d-3x3-64-64-512", "hot"),
        ("conv2d-3x3-96-96-256", "hot"),
        ("conv2d-3x3-3-64-512", "hot"),
        ("conv2d-1x1-64-64-512", "hot"),
        ("pixels-shuffle-3ch", "cold"),
        ("pixels-from-u8", "cold"),
        ("pixels-to-u8", "cold"),
    )
]
QUICK = {"case": ["conv2d-3x3-64-64-128", "pixels-from-u8"], "threads": [1], "isa": [""], "cache": ["hot"]}
ROUNDS = 15
MOST_INPUTS = 1 << 30  # bytes that cold inputs take together, however large the cache says it is
INSTEAD = "torch eager, channels last"  # which the operators have in their own form, and torch's best beside it


def name(case: str, threads: int = 1, isa: str = "", cache: str = "hot", **_: Any) -> str:
    words = [case, *([isa] if isa else []), *([cache] if cache == "cold" else [])]
    return "-".join([*words, f"{threads}t"])


class Rotation:
    """Calls in turn: the same work on one input after another.  last: the input of the latest call."""

    def __init__(self, runs: list[Callable[[], Any]]):
        self.runs, self.last = runs, -1

    def __call__(self) -> Any:
        self.last = (self.last + 1) % len(self.runs)
        return self.runs[self.last]()


class Bout:
    """The contestants of one operator, each with a function for every input, all on one device."""

    def __init__(self, problem: Problem, inputs: list[Arguments], device: str):
        self.problem, self.inputs, self.device = problem, inputs, device
        self.makers: dict[str, Contestant] = {}
        self.line = Line(check=self._check)

    def _check(self, who: str, result: Any) -> dict[str, float]:
        given = self.inputs[self.line.peers[who].run.last]
        return self.problem.check(who, torch.as_tensor(result).cpu(), given)

    def admit(self, who: str, make: Contestant, package: str | None) -> None:
        self.makers[who] = make

        def rotating() -> Peer:
            made = [make(given) for given in self.inputs]
            return Peer(Rotation([peer.run for peer in made]), made[0].settings)

        self.line.admit(who, rotating, package)

    def admit_known(self, peers: list[str], threads: int, isa: str) -> None:
        """Ours, torch's, and those of the networks' peers that can take part."""
        for who, make in self.problem.contestants().items():
            self.admit(who, self._placed(make), "fastrestore" if who.startswith(OURS) else "torch")
        takes_peers = isinstance(self.problem, Convolution) and self.device == "cpu"
        for peer in [peer for peer in peers if takes_peers and peer != INSTEAD]:
            reason = missing(peer, "float32", isa)
            if len(self.inputs) > 1:
                reason = "keeps its input in its own memory, which cannot be rotated"
            if reason:
                self.line.left_out[peer] = reason
            else:
                self.admit(peer, self.problem.peer(PEERS[peer], threads), PEERS[peer].packages[0])

    def admit_brought(self, kernel: own.Kernel, threads: int) -> None:
        self.admit(kernel.name, lambda given: kernel.make(self.problem, given, threads), None)
        if kernel.name in self.line.peers and kernel.untimed:
            self.line.leave_out(kernel.name, kernel.untimed)

    def _placed(self, make: Contestant) -> Contestant:
        """The same on the bout's device, waiting for it."""
        if self.device == "cpu":
            return make

        def made(given: Arguments) -> Peer:
            peer = make({name: v.cuda() if isinstance(v, torch.Tensor) else v for name, v in given.items()})

            def waiting() -> torch.Tensor:
                result = peer.run()
                torch.cuda.synchronize()
                return result

            return Peer(waiting, peer.settings)

        return made

    def check_unseen(self, names: list[str], given: Arguments) -> dict[str, str]:
        """Who of these is wrong on an input that none was timed on, and how: results may have been remembered."""
        wrong = {}
        for who in names:
            try:
                self.problem.check(who, torch.as_tensor(self.makers[who](given).run()).cpu(), given)
            except WrongAnswer as error:
                wrong[who] = f"wrong on an input that it was not timed on: {error}"
        return wrong


def run(
    case: str,
    threads: int = 1,
    isa: str = "",
    cache: str = "hot",
    peers: str = "all",
    rounds: int | None = None,
    kernel: str = "",
    operator: str = "",
) -> dict[str, Any]:
    """cache: "cold" rotates inputs that are together twice the last-level cache, a GiB at the most.
    kernel, operator: of what someone brings, as own.load takes them; a kernel for the GPU is judged there.

    Raises Skipped if what is brought does not compute this case's operator.
    """
    problem = CASES[case]
    brought = [one for one in own.load(kernel, operator) if one.operator == problem.operator] if kernel else []
    if kernel and not brought:
        raise Skipped(f"{kernel} has no {problem.operator}")
    gpu = torch.cuda.is_available() and any(one.device == "cuda" for one in brought)
    with torch.inference_mode():
        given = problem.arguments(0)
        moved = sum(value.nbytes for value in given.values() if isinstance(value, torch.Tensor))
        moved += problem.result(given).nbytes
        wanted = -(-min(2 * last_level_cache(), MOST_INPUTS) // moved) if cache == "cold" else 1
        inputs = [given, *(problem.arguments(seed) for seed in range(1, wanted))]
        bout = Bout(problem, inputs, "cuda" if gpu else "cpu")
        moving = bandwidth(moved, threads, bout.device)
        bout.admit_known(chosen(peers), threads, isa)
        if OURS not in bout.line.peers and not gpu:
            raise WrongAnswer(f"{OURS}: {bout.line.left_out[OURS]}")
        for one in brought:
            bout.admit_brought(one, threads)
        compared = bout.line.compare(problem.gflop, threads, rounds or ROUNDS)
        judged = [one.name for one in brought if one.name in compared["rows"]]
        for who, reason in bout.check_unseen(judged, problem.arguments(wanted)).items():
            disqualify(compared, who, reason)
    peaks = compared["conditions"]["fma_peak_gflops_all"]
    rates = gpu_arithmetic() if gpu else max(arithmetic("float32"), *peaks) * threads
    after = bandwidth(moved, threads, bout.device)
    moving = {kind: max(rate, after[kind]) for kind, rate in moving.items()}
    for who, row in compared["rows"].items():
        row["gbytes"] = round(moved / row["ms"] / 1e6, 2)
        check_possible(who, row.get("gflops", 0.0), rates * (SAVED_BY_WINOGRAD if problem.can_save else 1))
        check_possible(who, row["gbytes"], max(moving.values()))
    what = {"suite": "kernels", "case": case, "operator": problem.operator, "isa": isa, "cache": cache}
    what |= {"device": bout.device, "inputs": wanted, "gflop": problem.gflop, "bytes": moved}
    what |= {"brought": [one.name for one in brought]}
    ceilings = {"arithmetic_gflops": round(rates, 1)} | {f"{kind}_gbytes": round(v, 1) for kind, v in moving.items()}
    return {"machine": machine(), **what, **compared, "ceilings": ceilings}


def again(options: dict[str, Any], result: dict[str, Any]) -> dict[str, Any] | None:
    """The options of the same case in a second process: with all, in half of the rounds."""
    return dict(options) | {"rounds": max(FEW_ROUNDS, result["rounds"] // 2)} if len(result["rows"]) > 1 else None


def text(result: dict[str, Any]) -> str:
    """Each with its rate, how many times longer it takes than the first, and who was left out."""
    about = [result["case"], result["isa"] and f"held to {result['isa']}", f"{result['threads']} thread(s)"]
    about += [f"{result['inputs']} inputs in turn" if result["cache"] == "cold" else "one input, in cache if it fits"]
    ceilings, (first, *_) = result["ceilings"], result["rows"]
    lines = [", ".join(filter(None, about))]
    for who, row in result["rows"].items():
        line = f"  {who:28} {row['ms']:9.3f} ms  {row['gbytes']:6.1f} GB/s"
        if "gflops" in row:
            share = 100 * row["gflops"] / ceilings["arithmetic_gflops"]
            line += f"  {row['gflops']:7.1f} GFLOP/s {share:5.1f} % of peak"
        lines.append(line + ("" if who == first else f"   {verdict(result['ratios'][who], result['noise'][who])}"))
    lines.append(f"{noises(result)}; copying as many bytes: {ceilings['copy_gbytes']} GB/s")
    return "\n".join(lines + [f"  careful: {warning}" for warning in result["conditions"]["warnings"]])
