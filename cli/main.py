"""The ``adaptmtl`` command: its sub-commands, and what becomes of errors."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from adaptmtl.cli import check, fuse, predict, pull, push, tasks, train_adapters, transfer, zoo
from adaptmtl.cli.layout import CONTEXT, Command, Group
from adaptmtl.errors import AdaptMTLError

USER_ERROR = 2
INTERRUPTED = 130
EXAMPLES = """
adaptmtl train-adapters --suite embedded --rows 1000
adaptmtl transfer --target boolq --rows 1000
adaptmtl fuse --target boolq --sources auto --rows 1000 --name boolq-fused
adaptmtl check --target boolq --rows 1000
adaptmtl predict --adapter boolq-fused "is sea water salty" --pair "Sea water holds 3.5% salt."
"""

app = typer.Typer(
    cls=Group,
    context_settings=CONTEXT,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    epilog=EXAMPLES,
)
app.add_typer(tasks.app, name="tasks")
for _name, _module, _function, _short in (
    ("train-adapters", train_adapters, train_adapters.train_adapters, "Train one adapter per task."),
    ("transfer", transfer, transfer.transfer, "Estimate which sources will help a target."),
    ("fuse", fuse, fuse.fuse, "Make one adapter out of related ones."),
    ("check", check, check.check, "Compare fusing with full multi-task fine-tuning and the rest."),
    ("predict", predict, predict.predict, "Apply an adapter to texts or a file."),
    ("push", push, push.push, "Upload an adapter to the Hub."),
    ("pull", pull, pull.pull, "Download an adapter from the Hub."),
):
    app.command(_name, cls=Command, epilog=_module.EXAMPLES, short_help=_short)(_function)
app.add_typer(zoo.app, name="zoo")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"adaptmtl {version('adaptmtl')}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train one small adapter per task, estimate which tasks will help a new one, fuse them, check the result."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None for those of the process.

    Returns:
        The exit status: 0; 2 for an error that the user can mend, told in one line on stderr; 130 when interrupted.
    """
    _calm_libraries()
    if os.environ.get("RANK", "0") != "0":  # one of several processes that work together: the first one talks
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    try:
        status = app(arguments, prog_name="adaptmtl", standalone_mode=False)
        sys.stdout.flush()
    except AdaptMTLError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:  # the reader has gone, as in "| head"; click then exits with 1
        if not isinstance(error if isinstance(error, OSError) else error.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        remedy = "check that path, its owner and the disk; ADAPTMTL_HOME says where everything is kept"
        return _fail(f"{error.strerror or error}{place}; {remedy}")
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of typer's own: a bug, whose traceback is wanted
            raise
        if error.format_message().startswith("Usage:"):  # no command given
            print(error.format_message(), file=sys.stderr)
            return USER_ERROR
        return _fail(_usage(error))
    if status == INTERRUPTED:
        print("\ninterrupted; run the same command again to go on", file=sys.stderr)
    return int(status or 0)


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return USER_ERROR


def _usage(error: Any) -> str:
    """Returns a wrong option, argument or command as one line, with where to read on."""
    context = getattr(error, "ctx", None)
    message = " ".join(error.format_message().split()).rstrip(".?")
    message = re.sub(r"\. Did you mean|\.? \(Possible options:", "; did you mean", message).rstrip(")")
    return f"{message[0].lower()}{message[1:]}; see: {context.command_path if context else 'adaptmtl'} --help"


def _calm_libraries() -> None:
    """Keeps the libraries' own talk and bars off stderr; read by them when they are imported."""
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    sys.exit(main())
