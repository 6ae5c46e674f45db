"""The program itself, and how it says what went wrong."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from pyrosparse import __version__
from pyrosparse.util.errors import UsageError


class Group(TyperGroup):
    """Commands under one word."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None:
            # Typer has pydantic convert a default of None, whose import takes longer than a help.
            option.default = False
        return option


class _Commands(Group):
    """Says in one line what the user can put right; anything else keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("stopped; the same command goes on from the last epoch", stderr=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise
        except (ValueError, OSError, ImportError, UsageError) as error:
            _refuse(error)
        except Exception as error:
            infer = sys.modules.get("pyrosparse.infer")  # not imported where nothing was trained
            if infer is None or not isinstance(error, infer.NonFiniteLossError):
                raise
            _refuse(error, "; try a lower --learning-rate")


def _refuse(error: Exception, advice: str = "") -> NoReturn:
    # Pyro puts the shapes of the trace behind an error in a model.
    said, _, _ = str(error).partition("Trace Shapes:")
    line = " ".join(f"{said}{advice}".split())
    say(f"[bold red]error:[/] {escape(line)}", stderr=True)
    raise typer.Exit(2) from error


app = typer.Typer(
    cls=_Commands,
    help="Sparse Bayesian neural networks: train, compress, evaluate, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"pyrosparse {__version__}")
        raise typer.Exit()
    # Before torch is imported: threads that spin while they wait lose where a core is taken.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


_UNBOUNDED = 10_000


def say(content: Any, *, stderr: bool = False) -> None:
    """Print a text or a table; rich's markup in a text counts."""
    # A console of the moment: the streams change under a test runner.
    stream = sys.stderr if stderr else sys.stdout
    console = Console(file=stream, highlight=False, width=width(stream) or _UNBOUNDED)
    console.print(content, soft_wrap=isinstance(content, str))


def width(stream: TextIO) -> int | None:
    """Characters of a line of a terminal, or as COLUMNS says; None of a file or a pipe, whose lines
    are as long as they need to be."""
    bounded = stream.isatty() or "COLUMNS" in os.environ
    return Console(file=stream).width if bounded else None


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Within, the package's log goes to the standard error."""
    log, handler = logging.getLogger("pyrosparse"), logging.StreamHandler(sys.stderr)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
