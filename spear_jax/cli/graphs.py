"""What the commands say of graphs: how many are certified, how large their classes are, and what else was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from spear_jax.audit.graph_record import verdict
from spear_jax.cli.output import table
from spear_jax.report.graph_sections import LEVELS
from spear_jax.report.graph_values import certificate_sentence, headline

INDENT = "  "
# Kinds of nodes, and rows, beyond these are in the record.
MOST_KINDS, MOST_ROWS = 8, 20


def tell(content: dict[str, Any], out: Path) -> None:
    """The outcome of one update of a graph network."""
    typer.echo(f"{headline(content)}.")
    names = [block["name"] for block in content["features"].get("blocks", [])]
    for number, one in enumerate(content["graphs"], start=1):
        typer.echo(f"{INDENT}graph {number}: {verdict(one)}; {_size(one)}{_kinds(one, names)}")
    if content["rows"] and not content["graphs"]:
        _tell_rows(content, names)
    typer.echo(content["message"])
    typer.echo(certificate_sentence(content))
    seconds = ", ".join(f"{name} {value:.2f}" for name, value in content["seconds"].items())
    typer.echo(f"Seconds: {seconds}. Written to {out}; spear-jax report {out} makes a page that draws every graph.")


def tell_exposure(content: dict[str, Any]) -> None:
    """What an update of a graph network shows before any search."""
    seen, model = content["observed"], content["model"]
    half = f", rounded to {seen['half']} before that" if seen["half"] else ""
    typer.echo(f"{content['update']}: {seen['kind']} in {seen['dtype']}{half}, sha256 {content['sha256'][:16]}")
    widths = ", ".join(map(str, model["widths"]))
    typer.echo(
        f"{model['kind']} of {len(model['widths'])} convolutions ({widths}), {model['pool']} pool, {model['tasks']} "
        f"outputs; "
        f"{model['columns']} columns of features."
    )
    if model["assumed"]:
        typer.echo(f"Taken for granted, as nobody said: {', '.join(model['assumed'])}.")
    if content["views"]:
        names = ("name", "rank", "width")
        rows = [(*(str(view[name]) for name in names), _level(view["level"])) for view in content["views"]]
        table(rows, header=("layer", "directions", "width", "it reads"))
    for sentence in (*content["refusals"], *content["limits"]):
        if sentence not in content["verdict"]:
            typer.echo(sentence)
    typer.echo(f"Expected: {content['verdict']}")


def _level(level: int) -> str:
    return LEVELS[level] if level < len(LEVELS) else f"colours of level {level}"


def _size(one: Mapping[str, Any]) -> str:
    counts = sorted({len(member["nodes"]) for member in one["members"]})
    edges = sorted({len(member["edges"]) for member in one["members"]})
    return f"{' or '.join(map(str, counts))} nodes, {' or '.join(map(str, edges))} edges"


def _kinds(one: Mapping[str, Any], names: list[str]) -> str:
    """What the nodes of the first member are by their first block, as a formula is written."""
    if not names or not one["members"]:
        return ""
    counts = Counter(str(node[0]) for node in one["members"][0]["nodes"])
    shown = [f"{label} {count}" for label, count in counts.most_common(MOST_KINDS)]
    return f" ({', '.join(shown)}{', ...' if len(counts) > MOST_KINDS else ''})"


def _tell_rows(content: Mapping[str, Any], names: list[str]) -> None:
    rows = content["rows"]
    certified = sum(one["certified"] for one in rows)
    typer.echo(
        f"{len(rows)} rows of nodes fit, {certified} of them certified" + (f" ({', '.join(names)}):" if names else ":")
    )
    for one in rows[:MOST_ROWS]:
        said = " ".join("-" if label is None else str(label) for label in one["row"])
        typer.echo(f"{INDENT}{' ' if one['certified'] else '?'} {ascii(said)[1:-1]}")
    if len(rows) > MOST_ROWS:
        typer.echo(f"{INDENT}and {len(rows) - MOST_ROWS} more in result.json")
