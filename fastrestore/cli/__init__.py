"""The fastrestore command.  Each subcommand is one file here, a thin client of the public names.

A subcommand's file imports nothing heavy at its top: --help must answer in well under a second.
Exit codes: 0 every input has its complete result; 1 some inputs failed, the others are done; 2 usage; 3 model or
set-up; 4 memory or disk; 130 and 143 interrupted.
"""

import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from fastrestore.cli import batch, bench, compile, convert, degrade, eval, info, models, restore, train, video
from fastrestore.cli.report import UsageError, describe, exit_code

app = typer.Typer(
    help="Image restoration at speed: removes noise, moiré and blur from pictures.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(restore.denoise)
app.command()(restore.demoire)
app.command()(restore.deblur)
app.command()(batch.batch)
app.command()(video.video)
app.command()(models.models)
app.command()(info.info)
app.command()(eval.eval)
app.command()(train.train)
app.command()(degrade.degrade)
app.command()(convert.convert)
app.command()(compile.compile)
app.add_typer(bench.app, name="bench")

_options = {"debug": False}


@app.callback()
def _main(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False) -> None:
    _options["debug"] = debug


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits with its code.  Errors are one to three lines on stderr."""
    _options["debug"] = False
    signal.signal(signal.SIGTERM, _on_terminate)
    if sys.stdout is None:  # closed by the caller: what is printed goes nowhere
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # a file name may hold anything
    try:
        code = app(arguments, prog_name="fastrestore", standalone_mode=False) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # nobody reads our output any more; keep Python from saying so again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if _options["debug"]:
            raise
        code = exit_code(error)
        if isinstance(error, UsageError):
            error.show()
        elif not isinstance(error, typer.Exit):
            print(f"fastrestore: {describe(error)}", file=sys.stderr)
    sys.exit(code)


def _on_terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(143)  # unwinds, so that temporary files are removed
