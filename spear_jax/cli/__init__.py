"""The ``spear-jax`` command: one Typer app, one module per command.

A command parses, calls the library and writes one record. Exit codes: 0 every sample certified, 3 finished but not
everything certified, 4 something certified where audit was told to fail on that, 2 bad input or usage or a machine that
cannot do it, 1 a fault of ours.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import jax
import platformdirs
import typer

from spear_jax.cli.output import EXIT_FAULT, EXIT_STOPPED, EXIT_USAGE, fail
from spear_jax.devices import backend_problem
from spear_jax.errors import explain, is_of_user

COMMANDS = (
    "audit", "demo", "simulate", "bundle", "defend", "inspect", "reconstruct", "evaluate", "report", "merge", "purge",
    "bench",
)  # fmt: skip

# Typer keeps Click's exceptions in different places from release to release; this is Click's UsageError in any.
_UsageError = typer.BadParameter.__bases__[0]


@functools.cache
def build_app() -> typer.Typer:
    """The app with every command."""
    app = typer.Typer(
        name="spear-jax",
        help="Audit what a federated-learning update leaks: exact gradient inversion of whole batches (SPEAR) in JAX.",
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_common)
    for name in COMMANDS:
        importlib.import_module(f"spear_jax.cli.{name}").register(app)
    return app


def _common(
    cache: Annotated[
        bool,
        typer.Option("--cache/--no-cache", help="Keep compiled programs in the user's cache folder for the next run."),
    ] = True,
) -> None:
    """Options of every command."""
    is_set = jax.config.jax_compilation_cache_dir is not None  # pyright: ignore[reportAttributeAccessIssue]
    if not cache or is_set:
        return
    folder = Path(platformdirs.user_cache_dir("spear-jax", appauthor=False)) / f"jax-{jax.__version__}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a home that cannot be written to costs time, nothing else
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point: run a command and exit with its code; a user never sees a traceback.

    Set SPEAR_JAX_DEBUG=1 to have tracebacks after all.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    os.umask(0o077)  # pages and pictures too are of the owner alone, as what they show is personal data
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_jit", False)  # searches are compiled ahead, which JAX_DISABLE_JIT=1 forbids
    try:
        code = build_app()(args=arguments or ["--help"], prog_name="spear-jax", standalone_mode=False)
    except Exception as error:
        if os.environ.get("SPEAR_JAX_DEBUG"):
            raise
        fail(*_answer(error), arguments)
    if code == EXIT_STOPPED:  # Typer's answer to Ctrl-C
        fail("stopped; where a search was under way, --resume goes on from its last round.", EXIT_STOPPED, arguments)
    sys.exit(code or 0)


def _answer(error: Exception) -> tuple[str, int]:
    """The sentence and the exit code of an error."""
    if isinstance(error, _UsageError):
        command = error.ctx.command_path if error.ctx else "spear-jax"  # pyright: ignore[reportAttributeAccessIssue]
        message = error.format_message().rstrip(".")  # pyright: ignore[reportAttributeAccessIssue]
        return f"{message}; see {command} --help.", EXIT_USAGE
    if is_of_user(error):
        return explain(error), EXIT_USAGE
    problem = backend_problem()
    return (explain(error), EXIT_FAULT) if problem is None else (problem, EXIT_USAGE)
