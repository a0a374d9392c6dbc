"""What commands share on the way out: JSON, sentences, progress and exit codes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from spear_jax.audit.one import Progress as SearchProgress

EXIT_COMPLETE, EXIT_FAULT, EXIT_USAGE, EXIT_INCOMPLETE, EXIT_LEAK, EXIT_STOPPED = 0, 1, 2, 3, 4, 130
PLAIN_INTERVAL = 10.0  # seconds between progress lines where the output is no terminal


def emit(record: dict[str, Any], as_json: bool, sentences: Callable[[], None]) -> None:
    """Print the record as one JSON object on stdout, or what a person reads."""
    if as_json:
        typer.echo(json.dumps(record))
    else:
        sentences()


def keep_stdout_clean() -> None:
    """Send to stderr what C++ libraries print on stdout (Gloo, when processes join), for the rest of the process."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(own, "w", encoding="utf-8")


def fail(message: str, code: int, arguments: list[str]) -> NoReturn:
    """One sentence on stderr, as JSON on stdout too where the command was asked for JSON, then exit."""
    typer.echo(f"error: {message}", err=True)
    if "--json" in arguments:
        typer.echo(json.dumps({"error": message}))
    sys.exit(code)


def table(rows: list[tuple[str, ...]], *, header: tuple[str, ...] | None = None) -> None:
    """Aligned columns on stdout."""
    lines = ([header] if header else []) + rows
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def say_first(candidates: list[str]) -> None:
    """Name the layers that may be the first, where that stays open."""
    if len(candidates) > 1:
        typer.echo(
            f"Neither shapes nor the order of the file tell which dense layer is the first: {', '.join(candidates)} "
            f"may be; {candidates[0]} is taken, choose with --layer."
        )


class SearchReporter:
    """Progress of a search on stderr: a bar on a terminal, one plain line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._last = time.monotonic()
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> SearchReporter:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @contextlib.contextmanager
    def paused(self, *, goes_on: bool = True) -> Iterator[None]:
        """Without the bar, for what is printed meanwhile; it begins anew where another search follows."""
        self._stop()
        yield
        if goes_on:
            self._start()

    def _start(self) -> None:
        self._last = time.monotonic()
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("compiling", total=None)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, progress: SearchProgress) -> None:
        """Report one round."""
        if self._bar is not None:
            line = self._line(progress)
            self._bar.update(self._task, description=line, total=progress.rank, completed=progress.found)
        elif time.monotonic() - self._last >= PLAIN_INTERVAL:
            self._last = time.monotonic()
            typer.echo(self._line(progress), err=True)

    @staticmethod
    def _line(progress: SearchProgress) -> str:
        if progress.state.roots is not None:
            return f"{progress.state.candidates} starts, {progress.found} of {progress.rank} samples"
        if not progress.state.candidates:  # a method that draws none
            return f"round {progress.state.next_round}, {progress.found} of {progress.rank} directions"
        rate = progress.candidates / max(progress.seconds, 1e-9)
        needed = f"about {progress.expected_remaining:.3g} still needed"
        if progress.found == progress.rank:
            needed = "to be certified"
        elif math.isinf(progress.expected_remaining):
            needed = "the rest out of reach"
        return (
            f"{progress.state.candidates:.3g} candidates, {rate:.3g} per second, "
            f"{progress.found} of {progress.rank} directions, {needed}"
        )
