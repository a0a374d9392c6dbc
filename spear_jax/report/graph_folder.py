"""Report of the folder of a reconstruction of graphs, beside the originals where a truth is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spear_jax.audit.graph_record import graph_to_json, read_graph_record
from spear_jax.client.graph_truth import GraphTruth
from spear_jax.graphs.graph import is_isomorphic
from spear_jax.report.graph_page import render_graph_page
from spear_jax.report.graph_scores import found_classes, score_record
from spear_jax.report.template import write_page
from spear_jax.update.graph_features import features_from_json


def make_graph_report(folder: Path, truth: Path | None = None, out: Path | None = None) -> Path:
    """Write ``index.html`` of a reconstruction.

    Args:
        folder: that ``spear-jax reconstruct`` wrote.
        truth: of the simulation, None where there is none.
        out: folder for the page; the same by default.

    Returns:
        Path of the page.
    """
    content = read_graph_record(folder)
    originals = None if truth is None else _originals(content, truth)
    return write_page(folder if out is None else out, render_graph_page(content, originals))


def _originals(content: dict[str, Any], truth: Path) -> dict[str, Any]:
    """The true graphs and whether each is in a class, the members that they are, and the scores in a sentence."""
    evaluation, private = score_record(content, truth), GraphTruth.load(truth).private
    features = features_from_json(content["features"])
    members: list[list[int]] = [[] for _ in content["graphs"]]
    classes = found_classes(content)
    for place, true in zip(evaluation.assignment.tolist(), private.graphs, strict=True):
        if place >= 0:
            fits = [is_isomorphic(member, true) for member in classes[place].members]
            members[place] += [number for number, is_same in enumerate(fits) if is_same]
    graphs = [
        graph_to_json(features, graph) | {"name": name or f"graph {number}", "in_class": bool(is_found)}
        for number, (graph, name, is_found) in enumerate(
            zip(private.graphs, private.names, evaluation.in_class, strict=True), start=1
        )
    ]
    return {"summary": evaluation.summary, "members": members, "graphs": graphs}
