"""The ``spear-jax`` command: one Typer app, one module per command.

A command parses, calls the library and writes one record. Exit codes: 0 every sample certified, 3 finished but not
everything certified, 2 bad input or usage, 1 a fault of ours.
"""

from __future__ import annotations

import importlib
import os
import sys

import jax
import typer

from spear_jax.cli.output import EXIT_FAULT, EXIT_STOPPED, EXIT_USAGE, fail

COMMANDS = ("demo", "simulate", "inspect", "reconstruct", "evaluate", "report", "merge", "bench")

app = typer.Typer(
    name="spear-jax",
    help="Audit what a federated-learning update leaks: exact gradient inversion of whole batches (SPEAR) in JAX.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run a command and exit with its code; a user never sees a traceback.

    Set SPEAR_JAX_DEBUG=1 to have tracebacks after all.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    jax.config.update("jax_enable_x64", True)
    for name in COMMANDS:
        importlib.import_module(f"spear_jax.cli.{name}").register(app)
    try:
        app(args=arguments, prog_name="spear-jax")
    except KeyboardInterrupt:
        fail("stopped; where a search was under way, --resume goes on from its last round.", EXIT_STOPPED, arguments)
    except (ValueError, OSError) as error:
        _reraise_if_debugging(error)
        fail(" ".join(str(error).split()), EXIT_USAGE, arguments)
    except Exception as error:
        _reraise_if_debugging(error)
        fail(
            f"a fault of spear-jax itself ({type(error).__name__}: {error}); set SPEAR_JAX_DEBUG=1 and run it again "
            "for a traceback to report.",
            EXIT_FAULT,
            arguments,
        )


def _reraise_if_debugging(error: Exception) -> None:
    if os.environ.get("SPEAR_JAX_DEBUG"):
        raise error
