"""What the commands say of text: stages on stderr, certified sentences, traces apart from them, the certificate."""

from __future__ import annotations

import contextlib
import shutil
import textwrap
from pathlib import Path
from typing import Any

import typer
from rich.cells import cell_len, set_cell_size

from spear_jax.audit.text_record import escaped, spoken
from spear_jax.cli.output import table
from spear_jax.report.text_sections import ROLES
from spear_jax.report.text_values import certificate_sentence

# Traces, and lines of tokens, beyond these are in the record.
MOST_TRACES, MOST_LINES = 10, 12
INDENT = "  "


class StageReporter:
    """The stages of a reconstruction on stderr, one line each."""

    def __init__(self, *, is_silent: bool = False) -> None:
        self._is_silent = is_silent

    def __call__(self, sentence: str) -> None:
        """Say what begins."""
        if not self._is_silent:
            typer.echo(f"{sentence} ...", err=True)

    def paused(self, *, goes_on: bool = True) -> contextlib.AbstractContextManager[None]:
        """For what is printed in between: nothing has to be cleared."""
        return contextlib.nullcontext()


def tell(content: dict[str, Any], out: Path) -> None:
    """The outcome of one update of a language model."""
    certified = [one for one in content["sequences"] if one["exact"]]
    open_ = [one for one in content["sequences"] if not one["exact"]] + content["traces"]
    typer.echo(_headline(content))
    for one in certified:
        typer.echo(INDENT + shortened(spoken(one) + _suffix(one)))
    if open_:
        typer.echo("Traces, not certified; what they hold may have been in the batch or not:")
        for one in open_[:MOST_TRACES]:
            typer.echo(f"{INDENT}? {shortened(spoken(one), room=len(INDENT) + 2)}")
        if len(open_) > MOST_TRACES:
            typer.echo(f"{INDENT}and {len(open_) - MOST_TRACES} more in result.json")
    _tell_tokens(content["tokens"], is_listed=not certified or content["tokens"].get("rounds", 1) > 1)
    if content["status"] != "EXACT":
        typer.echo(content["message"])
    typer.echo(certificate_sentence(content))
    seconds = ", ".join(f"{name} {value:.2f}" for name, value in content["seconds"].items())
    typer.echo(f"Seconds: {seconds}. Written to {out}; spear-jax report {out} makes a page of it.")


def tell_exposure(content: dict[str, Any]) -> None:
    """What an update of a language model shows before any search."""
    seen = content["observed"]
    half = f", rounded to {seen['half']} before that" if seen["half"] else ""
    typer.echo(f"{content['update']}: {seen['kind']} in {seen['dtype']}{half}, sha256 {content['sha256'][:16]}")
    modules = ", ".join(f"{name} ({count})" for name, count in content["modules"].items())
    typer.echo(f"Came back with a gradient, each in so many blocks: {modules or 'nothing'}.")
    if content["views"]:
        names = ("layer", "rank", "width", "rows")
        rows = [(*(str(view[name]) for name in names), ROLES[view["role"]]) for view in content["views"]]
        table(rows, header=("block", "directions", "width", "rows", "input"))
    if content["most_tokens"] is not None:
        told = content["most_beginnings"]
        beginnings = "no beginnings of sequences" if told is None else f"{told} beginnings of sequences"
        typer.echo(f"At most about {content['most_tokens']} distinct tokens and {beginnings} can be told apart.")
    for sentence in content["refusals"][1:]:  # the first one is in the verdict
        typer.echo(sentence)
    typer.echo(f"Expected: {content['verdict']}")


def shortened(text: str, *, room: int = len(INDENT)) -> str:
    """One line of text that fits the terminal beside an indent."""
    width = max(shutil.get_terminal_size().columns - room, 20)
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _headline(content: dict[str, Any]) -> str:
    found, certified = content["num_sequences"], content["certified"]
    if not found:
        return "No sequence could be certified."
    return f"{certified} of {found} sequences reconstructed and certified."


def _suffix(one: dict[str, Any]) -> str:
    """Label and number of copies, where there are any."""
    label = "" if one["label"] is None else f"  [class {one['label']}]"
    return label + (f"  [{one['copies']} times]" if (one["copies"] or 1) > 1 else "")


def _tell_tokens(tokens: dict[str, Any], *, is_listed: bool) -> None:
    """How many distinct tokens there are; which, where no sequence holds them."""
    if not tokens["ids"]:
        return
    rounds = tokens.get("rounds", 1)
    of = f" of {rounds} rounds together" if rounds > 1 else ""
    typer.echo(f"{len(tokens['ids'])} distinct tokens{of}, {'certified' if tokens['certified'] else 'not certified'}.")
    if not is_listed:
        return
    # A no-break space keeps a token on one line.
    texts = [repr(escaped(word)).replace(" ", "\N{NO-BREAK SPACE}") for word in tokens["texts"] or ()]
    words = " ".join(texts or map(str, tokens["ids"]))
    columns = max(shutil.get_terminal_size().columns - len(INDENT), 20)
    for line in textwrap.wrap(words, columns, max_lines=MOST_LINES, placeholder=" ..."):
        typer.echo(INDENT + line.replace("\N{NO-BREAK SPACE}", " "))
