"""fastrestore bench: kernels, networks, latency, memory and more beside the strongest peers, each answer proved."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

SUITES = {  # bench.suites.SUITES, without what they import
    "kernels": "One operator at a time: convolutions in GFLOP/s, shuffles and conversions in GB/s.",
    "models": "Whole networks.",
    "latency": "Median and 99th percentile of one frame, from Python and from C.",
    "memory": "What a run takes beyond its picture, the result and what was loaded.",
    "pictures": "From file to file: decoded, restored, encoded.",
    "startup": "From the start of a process to its first frame.",
    "quality": "PSNR on a public test set beside time, memory and file size, with classical denoisers.",
}
app = typer.Typer(
    help="Judges kernels and networks beside the strongest peers.  Without a suite: a short run of all of them.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Peers = Annotated[
    str | None,
    typer.Option(help="Some of torch,jit,compile,onnxruntime,openvino,ncnn,opencv by comma; or all, or none."),
]
Quick = Annotated[bool, typer.Option("--quick", help="Tiny pictures, two rounds: does all work?")]
Full = Annotated[bool, typer.Option("--full", help="Every combination that the suites know: hours.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Measured rounds; by default as many as the time allows.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all results there.")]
Record = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Keep each result there as a file of its own.")]
Plot = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Make report.html and its pictures there.")]


@app.callback()
def _all(
    context: typer.Context,
    peers: Peers = None,
    quick: Quick = False,
    full: Full = False,
    rounds: Rounds = None,
    json_file: Json = None,
    record: Record = None,
    plot: Plot = None,
) -> None:
    if context.invoked_subcommand is None:
        _run(list(SUITES), {}, quick, full, {"peers": peers, "rounds": rounds}, json_file, record, plot)
    elif any((peers, quick, full, rounds, json_file, record, plot)):
        raise typer.BadParameter(f"options go behind the suite: fastrestore bench {context.invoked_subcommand} ...")


def _suite(suite: str) -> Callable[..., None]:
    """The command of one suite."""

    def command(
        only: Annotated[
            list[str] | None,
            typer.Option(metavar="AXIS=VALUES", help="Only these cases, as network=ffdnet,drunet; --help-cases lists."),
        ] = None,
        network: Annotated[str, typer.Option(help="The same as --only network=...")] = "",
        size: Annotated[str, typer.Option(metavar="WIDTHxHEIGHT", help="Any, several by comma.")] = "",
        precision: Annotated[str, typer.Option(help="float32, bfloat16 or int8, several by comma.")] = "",
        threads: Annotated[str, typer.Option(help="Numbers of threads by comma.")] = "",
        isa: Annotated[str, typer.Option(help="Hold all to this instruction set, e.g. avx2.")] = "",
        seconds: Annotated[float | None, typer.Option(help="For latency: the most that a contestant gets.")] = None,
        help_cases: Annotated[bool, typer.Option("--help-cases", help="Show the axes and stop.")] = False,
        peers: Peers = None,
        quick: Quick = False,
        full: Full = False,
        rounds: Rounds = None,
        json_file: Json = None,
        record: Record = None,
        plot: Plot = None,
    ) -> None:
        if help_cases:
            from fastrestore.bench.suites import SUITES as modules

            for axis, values in modules[suite].AXES.items():
                typer.echo(f"{axis:10} {', '.join(str(value) or '(the best)' for value in values)}")
            return
        wanted = {"network": network, "size": size, "precision": precision, "threads": threads, "isa": isa}
        wanted = {axis: values for axis, values in wanted.items() if values}
        for item in only or []:
            axis, equals, values = item.partition("=")
            if not equals:
                raise typer.BadParameter(f"--only must be like network=ffdnet, got {item!r}")
            wanted[axis] = values
        more = {"peers": peers, "rounds": rounds, "seconds": seconds}
        _run([suite], wanted, quick, full, more, json_file, record, plot)

    return command


for _name, _help in SUITES.items():
    app.command(_name, help=_help)(_suite(_name))


@app.command()
def own(
    kernel: Annotated[str, typer.Argument(metavar="FILE.py|FILE.so:SYMBOL", help="What to judge; it is run.")],
    operator: Annotated[str, typer.Option(help="What a C function computes, e.g. conv2d.")] = "",
    case: Annotated[str, typer.Option(help="Cases by comma; by default one of each operator that is brought.")] = "",
    threads: Annotated[int, typer.Option(min=1)] = 1,
    cache: Annotated[str, typer.Option(help="hot, or cold: inputs beyond the last-level cache in turn.")] = "hot",
    peers: Peers = "torch",
    rounds: Rounds = None,
    json_file: Json = None,
    record: Record = None,
    plot: Plot = None,
) -> None:
    """Judges kernels of your own beside ours and the peers.

    A wrong one is named and not placed, and the exit code is 1.  docs/benchmark.md is the manual.
    """
    from fastrestore.bench import own as brought
    from fastrestore.bench.operators import CASES

    if cache not in ("hot", "cold"):
        raise typer.BadParameter(f"--cache must be hot or cold, got {cache!r}")
    names = {one.name: one.operator for one in brought.load(kernel, operator)}
    first = {problem.operator: name for name, problem in reversed(CASES.items())}
    chosen = case.split(",") if case else [first[wanted] for wanted in dict.fromkeys(names.values())]
    if unknown := set(chosen) - set(CASES):
        raise typer.BadParameter(f"unknown cases: {', '.join(sorted(unknown))}; known are {', '.join(CASES)}")
    more = {"threads": threads, "cache": cache, "peers": peers, "kernel": str(Path(kernel)), "operator": operator}
    options = [{"case": name, **more} | ({"rounds": rounds} if rounds else {}) for name in chosen]
    results = _measure({"kernels": options}, json_file, record, plot)
    judged = {name: reason for result in results for name, reason in result["left_out"].items() if name in names}
    if any(reason != brought.INTERPRETED for reason in judged.values()):
        raise typer.Exit(1)


@app.command()
def ceilings(json_file: Json = None) -> None:
    """Measures what this machine can do at most."""
    import json
    import os

    from fastrestore.bench import ceilings as measured
    from fastrestore.bench.machine import machine

    threads = sorted({1, len(os.sched_getaffinity(0))})
    result = {"machine": machine(), "suite": "ceilings"} | measured.measured(threads)
    typer.echo("GFLOP/s (int8: GOP/s) of one thread")
    for name, rate in result["gflops_of_one_thread"].items():
        typer.echo(f"  {name:24} {rate:9.1f}")
    for count, places in result["gbytes_by_threads"].items():
        for size, rates in places.items():
            what = "   ".join(f"{kind} {rate:6.1f} GB/s" for kind, rate in rates.items())
            typer.echo(f"  {size:>9}, {count} thread(s)   {what}")
    if json_file:
        json_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


@app.command()
def compare(
    before: Annotated[str, typer.Argument(help="A folder of results, or COMMIT:FOLDER.")],
    after: Annotated[str, typer.Argument(help="Likewise.")],
    json_file: Json = None,
    fail: Annotated[bool, typer.Option("--fail-slower", help="Exit with 1 if anything became slower.")] = False,
) -> None:
    """Says what became faster or slower between two sets of results, beyond their noise."""
    import json

    from fastrestore.bench import history

    changes = history.compare(history.load(before), history.load(after))
    typer.echo(history.text(changes))
    if json_file:
        json_file.write_text(json.dumps([change.__dict__ for change in changes], indent=1) + "\n", encoding="utf-8")
    if fail and any(change.verdict == "slower" for change in changes):
        raise typer.Exit(1)


@app.command()
def report(
    results: Annotated[str, typer.Argument(help="A folder of results, or COMMIT:FOLDER.")],
    folder: Annotated[Path, typer.Option("--output", "-o", help="Where report.html and its pictures go.")],
) -> None:
    """Makes the report of recorded results."""
    from fastrestore.bench import history
    from fastrestore.bench import report as page

    typer.echo(page.write(list(history.load(results).values()), folder))


def _run(
    suites: list[str],
    wanted: dict[str, str],
    quick: bool,
    full: bool,
    more: dict[str, Any],
    json_file: Path | None,
    record: Path | None,
    plot: Path | None,
) -> None:
    from fastrestore.bench import cases, peers

    try:
        if more["peers"]:
            peers.chosen(more["peers"])
        chosen = {suite: cases.select(suite, wanted, full, quick, **more) for suite in suites}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    _measure(chosen, json_file, record, plot)


def _measure(
    chosen: dict[str, list[dict[str, Any]]], json_file: Path | None, record: Path | None, plot: Path | None
) -> list[dict[str, Any]]:
    """Runs the cases; what was asked for is written even if some fail, and then the exit code is 1."""
    import json

    from fastrestore.bench import cases

    if plot:
        from fastrestore.bench import report as page

        page.need_matplotlib()  # before an hour's work, not after it
    results = list(cases.run_all(chosen, typer.echo, record))
    done = [result for result in results if result]
    if json_file:
        json_file.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if plot and done:
        typer.echo(page.write(done, plot))
    if len(done) < len(results):
        raise typer.Exit(1)
    return done
