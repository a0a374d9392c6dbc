"""``spear-jax inspect``: what a bundle holds, and which of its layers can be inverted at what cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spear_jax.audit import graph_record
from spear_jax.audit.exposure import exposure
from spear_jax.audit.graph_exposure import graph_exposure
from spear_jax.audit.text_exposure import text_exposure
from spear_jax.audit.text_one import Returned, read_returned, read_sent
from spear_jax.audit.text_record import FAMILY
from spear_jax.cli import graphs, options
from spear_jax.cli.family import GRAPHS, refuse_others, require_family
from spear_jax.cli.output import emit, say_first, table
from spear_jax.cli.text import tell_exposure
from spear_jax.update.bundle_file import load_update
from spear_jax.update.graph_features import read_features
from spear_jax.update.graph_update import read_graph_update

# What goes with --model, and with --features.
TEXT = ("update_file", "model", "adapter", "kind", "lr", "as_json")
OF_GRAPHS = ("update_file", "features", "kind", "lr", "as_json")
HEADER = ("layer", "m x n", "rank", "live rows", "noise floor", "gap", "expected candidates", "verdict")


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("inspect")(inspect)


def inspect(
    context: options.Context,
    update_file: Annotated[
        Path,
        typer.Argument(
            help="Update bundle, .safetensors or .npz; with --model tensors alone or PEFT's folder too.",
            metavar="UPDATE",
            show_default=False,
        ),
    ],
    model: options.Model = None,
    adapter: options.Adapter = None,
    features: options.Features = None,
    kind: options.ReturnedKind = None,
    lr: options.ReturnedRate = None,
    layer: options.Layer = None,
    layout: options.Layout = None,
    as_json: options.Json = False,
) -> None:
    """Say what an update shows and what it would cost.

    For every layer: its rank (the batch size a server sees), the noise, the expected search, and what is in the way.
    With --model, of text, and with --features, of graphs: directions of each view, what they tell apart, and what to
    expect.
    """
    if model is not None:
        refuse_others(context, TEXT, "--model")
        update = read_returned(update_file, read_sent(model, adapter), Returned(kind, lr))
        seen = text_exposure(update)._asdict()
        content = {"family": FAMILY, "update": str(update_file), "sha256": update.sha256, **seen}
        emit(content, as_json, lambda: tell_exposure(content))
        return
    if features is not None:
        refuse_others(context, OF_GRAPHS, "--features", GRAPHS)
        update = read_graph_update(update_file, read_features(features), kind=kind, lr=lr)
        seen = graph_exposure(update)._asdict()
        content = {"family": graph_record.FAMILY, "update": str(update_file), "sha256": update.sha256, **seen}
        emit(content, as_json, lambda: graphs.tell_exposure(content))
        return
    require_family(context, ("adapter", "kind", "lr"))
    update = load_update(update_file, layout=layout)
    layers = update.layers if layer is None else (update.layer(layer),)
    content: dict[str, Any] = {
        "update": str(update_file),
        "sha256": update.sha256,
        "kind": update.kind,
        "metadata": dict(update.metadata),
        "first_candidates": [one.name for one in update.first_candidates],
        "layers": [exposure(update, one) for one in layers],
        "skipped": [{"name": name, "reason": reason} for name, reason in update.skipped],
    }
    emit(content, as_json, lambda: _tell(content))


def _tell(content: dict[str, Any]) -> None:
    typer.echo(f"{content['update']}: {content['kind']}, sha256 {content['sha256'][:16]}")
    for name, value in sorted(content["metadata"].items()):
        typer.echo(f"  {name}: {value}")
    rows = []
    for facts in content["layers"]:
        numbers = [facts.get(name) for name in ("rank", "live_rows", "noise_floor", "gap", "expected_candidates")]
        shape = "{} x {}".format(*facts["shape"])
        rows.append((facts["name"], shape, *map(_cell, numbers), facts["verdict"]))
    table(rows, header=HEADER)
    say_first(content["first_candidates"])
    for facts in content["layers"]:
        if facts["invertible"]:
            typer.echo(
                f"{facts['name']}: {facts['regime']} inputs ({facts['mean_share']:.0%} of the gradient's energy lies "
                f"along the mean input); {facts['dead_rows']} of {facts['shape'][0]} neurons fired for no sample, "
                f"{facts['single_rows']} for one alone. auto takes {facts['reason']}."
            )
    for entry in content["skipped"]:
        typer.echo(f"not read: {entry['name']}: {entry['reason']}")


def _cell(value: int | float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.2g}"
