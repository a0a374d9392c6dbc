"""What the page of a reconstruction of graphs says, as text: threat model, certificate, views, defences, facts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from spear_jax.report.graph_values import certificate_sentence
from spear_jax.report.values import DASH, mapping, number, repeat_rows, returned_rows, text

Rows = list[tuple[str, str]]
VIEW_HEADER = ("Layer", "It reads", "Directions", "Width", "So")
DEFENCE_HEADER = ("Measure", "What it does to this attack", "Known from")
MEASURED, ARGUED = "measurement", "argument"
LEVELS = ("rows of nodes", "neighbourhoods", "neighbourhoods of neighbourhoods")


def threat_model(record: Mapping[str, Any]) -> str:
    """Who attacks with what, in a paragraph."""
    return (
        "The server is honest but curious: it follows the protocol and reads what comes back. It used only what every "
        "round gives it: the graph network that it sent, which features nodes may have, and one client's update. No "
        "graph, no label, no number of nodes and no batch size entered the reconstruction or its certificate."
    )


def certification(record: Mapping[str, Any]) -> list[str]:
    """How the graphs were certified, in paragraphs."""
    layers = len(mapping(record.get("model")).get("widths") or [])
    hops = {1: " and its neighbours'", 2: ", its neighbours' and theirs"}.get(layers, f" and all within {layers} edges")
    return [
        f"A network of {number(layers)} convolutions sees of each node its row of features{hops}. Pooled, its "
        "gradient says how often each such neighbourhood is there, and nothing more: graphs that share these counts "
        "have the same gradient to the last digit, whoever computes it.",
        "So a graph is certified up to its class. The server counts the neighbourhoods, lists the graphs that have "
        "these "
        "counts, computes the gradient again and holds it against what came back. Exact is said only where the class "
        "has "
        "one member. The order within a class is a guess (for molecules by common ring sizes) and no part of the "
        "certificate.",
        certificate_sentence(record),
    ]


def view_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows below `VIEW_HEADER`."""
    views = record.get("views")
    rows = []
    for view in map(mapping, views if isinstance(views, Sequence) else ()):
        rank, width, level = view.get("rank"), view.get("width"), view.get("level")
        known = isinstance(level, int) and 0 <= level < len(LEVELS)
        read = LEVELS[level] if known else f"colours of level {number(level)}"  # pyright: ignore
        rows.append((text(view.get("name")), read, number(rank), number(width), _reading(rank, width)))
    return rows


def _reading(rank: Any, width: Any) -> str:
    if not (isinstance(rank, int) and isinstance(width, int)):
        return DASH
    if rank >= width:
        return "full: it tells nothing apart"
    return f"up to {number(rank)} are told apart"


def facts(record: Mapping[str, Any]) -> dict[str, Rows]:
    """Tables of (name, value) by section: ``observed`` and ``repeat``."""
    seen, model, features = (mapping(record.get(name)) for name in ("observed", "model", "features"))
    assumed, widths = model.get("assumed") or [], model.get("widths") or []
    blocks = [
        f"{mapping(block).get('name')} ({len(mapping(block).get('labels') or [])})"
        for block in features.get("blocks") or []
    ]
    listed = len(features.get("rows") or [])
    return {
        "observed": [
            ("Network", text([model.get("kind"), "of widths", *widths, f"({text(model.get('library'))})"])),
            ("Activation, pool, readout", ", ".join(map(text, map(model.get, ("activation", "pool", "readout"))))),
            ("Taken for granted, as nobody said", text(", ".join(map(str, assumed)))),
            ("Columns of features", number(model.get("columns"))),
            ("Blocks and their labels", text(", ".join(blocks))),
            ("Possible rows that were listed", number(listed) if listed else "any of the blocks"),
            *returned_rows(record),
        ],
        "repeat": repeat_rows(record, command(record)),
    }  # fmt: skip


def command(record: Mapping[str, Any]) -> str:
    """The command line that repeats the reconstruction, the features file by its name."""
    seen = mapping(record.get("observed"))
    if not record.get("update") or not record.get("features_file"):
        return DASH
    words = ["spear-jax", "reconstruct", record["update"], "--features", record["features_file"]]
    words += ["--kind", seen["kind"]] if seen.get("kind") else []
    words += ["--lr", seen["lr"]] if seen.get("lr") else []
    return shlex.join(str(word) for word in words)


def defences() -> list[tuple[str, str, str]]:
    """Rows below `DEFENCE_HEADER`: what stops this attack, what only weakens it, and what does not."""
    return [
        (
            "BatchNorm in training mode",
            "Stops exact inversion as it is done here: each node's state depends on all nodes of the batch. Attacks "
            "that "
            "undo it were not tried.",
            ARGUED,
        ),
        (
            "More graphs in a batch than the model has outputs",
            "Hides which node belongs to which graph; neighbourhoods are still found.",
            ARGUED,
        ),
        (
            "Secure aggregation",
            "The server sees a sum over clients, which is one batch of all their graphs. It is inverted like any other "
            "where the outputs are as many as these.",
            ARGUED,
        ),
        (
            "Dropout",
            "Stops exact inversion: it masks states at random, so no neighbourhood fits exactly.",
            ARGUED,
        ),
        (
            "ReLU GCN with a mean pool, long trained",
            "Weakens it to rows of nodes: units come to agree on all nodes, and the second layer shows too few "
            "directions. "
            "In a prototype 0 of 30 molecules came back whole after 80 steps of Adam; with SiLU, or a GIN, 29 and 30.",
            MEASURED,
        ),
        (
            "No activation before the pool",
            "Hides neighbourhoods behind GCN, SAGE and GraphConv: all nodes of a graph send back the same vector. Rows "
            "of "
            "nodes are still read.",
            ARGUED,
        ),
        (
            "Narrow layers",
            "Weaken it. Of 30 molecules behind a ReLU GCN of width 128, 64 and 32 a prototype gave 28, 22 and 3 with "
            "all "
            "nodes right; behind a SiLU GCN with a list of possible rows 29, 29 and 28.",
            MEASURED,
        ),
        (
            "Noise, as in differentially private training",
            "Not measured on graphs. The certificate then fails, and the counts of neighbourhoods, which are read off "
            "as "
            "integers, are the first to go.",
            ARGUED,
        ),
        (
            "float32 instead of float64",
            "Does not stop it: 29 of 30 molecules either way in a prototype.",
            MEASURED,
        ),
        (
            "Large graphs",
            "Do not stop it by themselves: molecules of 37 and 41 atoms came back in a prototype. Nodes with many "
            "neighbours do: their neighbourhoods are too many to test.",
            MEASURED,
        ),
    ]  # fmt: skip
