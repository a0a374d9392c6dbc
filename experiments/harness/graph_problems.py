"""Problems of graph networks and how their results are counted: molecules, networks, updates. Not an experiment itself.

The molecules are ``molecules.smi``, thirty known substances of 10 to 40 atoms, read by RDKit
(``spear-jax[molecules]``), and the 32 that are bundled, from which what is public of rows is learnt too. No rule of the
attack was made on the thirty but one: isoniazid, whose aggregation is singular, was missed in all draws at first, and
is why the direction of rows that a gradient lacks is looked for.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.harness import common
from experiments.harness.claims import Line
from spear_jax.attacks.graphs.pipeline import reconstruct
from spear_jax.attacks.graphs.result import GraphClass, GraphResult
from spear_jax.client.graph_batch import PrivateGraphs, demo_molecules, read_graphs
from spear_jax.client.graph_gradient import graph_gradient
from spear_jax.client.graph_models import random_graph_model
from spear_jax.client.graph_scores import FoundClass, node_set, score_graphs
from spear_jax.graphs.architecture import Architecture
from spear_jax.graphs.features import Features
from spear_jax.graphs.observation import GraphObservation
from spear_jax.status import Status

SMILES = Path(__file__).with_name("molecules.smi")
BLOCKS, ROWS, NO_DEGREE = "blocks", "a list of rows", "blocks without the degree"
LARGE = 26  # atoms, from where on GRAIN runs out of time


@functools.cache
def held_out() -> PrivateGraphs | None:
    """The thirty molecules; None, said aloud, without RDKit."""
    if importlib.util.find_spec("rdkit") is None:
        print("skipped: the package rdkit is not installed; pip install 'spear-jax[molecules]'")
        return None
    return read_graphs(SMILES)


def told(private: PrivateGraphs, features: str) -> PrivateGraphs:
    """The graphs with what the server is told of their rows: blocks, a list of all rows known, or no degree."""
    if features == NO_DEGREE:
        return without_degree(private)
    if features == BLOCKS:
        return private
    known = [graph.rows for graph in (*private.graphs, *demo_molecules().graphs)]
    listed = dataclasses.replace(private.features, possible=np.unique(np.concatenate(known), axis=0))
    return private._replace(features=listed)


def without_degree(private: PrivateGraphs) -> PrivateGraphs:
    """The graphs without the columns that say how many neighbours a node has, four at most as atoms have."""
    features = private.features
    blocks = tuple(block for block in features.blocks if block.name != features.degree)
    kept = np.concatenate([np.r_[features.columns_of(block.name)] for block in blocks])
    graphs = tuple(dataclasses.replace(graph, rows=graph.rows[:, kept]) for graph in private.graphs)
    largest = int(max(graph.degrees.max() for graph in graphs))
    return private._replace(graphs=graphs, features=Features(blocks=blocks, max_degree=largest))


def network(
    private: PrivateGraphs, kind: str, width: int, seed: int, *, dtype: str = "float64", **options: Any
) -> tuple[Architecture, dict[str, np.ndarray]]:
    """Two convolutions of one width unless ``layers`` says more, and weights as training starts from them."""
    widths = (width,) * options.pop("layers", 2)
    architecture = Architecture(kind=kind, columns=private.features.columns, widths=widths, **options)
    key = jax.random.key(seed)
    return architecture, random_graph_model(architecture, key, dtype=dtype, has_conv_bias=False)


def observed(
    architecture: Architecture, params: dict[str, np.ndarray], private: PrivateGraphs, seed: int
) -> GraphObservation:
    """What the server sees of these graphs, with labels drawn where they have none."""
    gradients = graph_gradient(architecture, params, private, seed=seed)
    return GraphObservation(architecture=architecture, features=private.features, params=params, gradients=gradients)


def attacked(
    architecture: Architecture, params: dict[str, np.ndarray], private: PrivateGraphs, seed: int
) -> GraphResult:
    """The whole attack on what the server sees, told nothing else."""
    return reconstruct(observed(architecture, params, private, seed))


def counted(result: GraphResult, private: PrivateGraphs) -> dict[str, Any]:
    """How one result fares against the truth: lists with an entry for each true graph, and what is wrong."""
    found = [found_class(one) for one in result.classes]
    scores = score_graphs(found, private.graphs, private.features)
    held = [place >= 0 and found[place].is_certified for place in scores.assignment]
    rows = {row.tobytes() for row in result.rows + 0.0}
    certified_rows = {row.tobytes() for row in result.rows[result.rows_exact] + 0.0}
    true_rows = {row for graph in private.graphs for row in node_set(graph)}
    residual = result.reproduction
    return {
        "names": list(private.names),
        "nodes": [graph.num_nodes for graph in private.graphs],
        "node_set": scores.node_set.tolist(),
        "first": scores.isomorphic.tolist(),
        "certified": (scores.in_class & np.array(held)).tolist(),
        "class_size": scores.class_size.tolist(),
        "is_cut": any(one.is_cut for one in result.classes),
        "rows_found": len(true_rows & rows),
        "rows_true": len(true_rows),
        "rows_fit": len(rows),
        "false": scores.false_certificates + len(certified_rows - true_rows),
        "status": result.status.name,
        "residual": None if residual is None else common.finite(residual.residual),
        "ranks": {view.name: view.rank for view in result.views},
        "run_seconds": round(sum(result.seconds.values()), 3),
    }


def nothing(private: PrivateGraphs) -> dict[str, Any]:
    """The same where there is no gradient: the loss of a trained network may be 0 to its last bit."""
    rows = np.zeros((0, private.features.columns))
    empty = GraphResult(
        rows=rows, rows_exact=np.zeros(0, bool), status=Status.NO_NODES, reason="", views=(), seconds={}
    )
    return counted(empty, private) | {"status": "NO_GRADIENT", "run_seconds": 0.0}


def found_class(one: GraphClass) -> FoundClass:
    """A class as scores take it."""
    is_open = one.is_cut or one.may_be_larger
    return FoundClass(one.members, is_certified=one.is_certified, exact=one.exact, is_open=is_open)


def graphs_told(lines: Sequence[Line]) -> str:
    """What lines with lists for each graph measured."""
    total = sum(len(line["nodes"]) for line in lines)
    count = lambda name: sum(sum(line[name]) for line in lines)
    return (
        f"of {total} graphs {count('node_set')} node sets, {count('certified')} in a certified class, {count('first')} "
        f"listed first, {sum(line['false'] for line in lines)} false; {seconds_told(lines)}"
    )


def large_told(lines: Sequence[Line]) -> str:
    """The same of single graphs that are large."""
    large = [line for line in lines if min(line["nodes"]) >= LARGE]
    return f"; of {len(large)} with {LARGE} atoms or more {sum(line['certified'][0] for line in large)} in a class"


def refusals_told(lines: Sequence[Line]) -> str:
    """How those ended in which not all graphs are certified."""
    ended = [line["status"] for line in lines if not all(line["certified"])]
    named = ", ".join(f"{ended.count(status)} {status}" for status in sorted(set(ended)))
    return f"; the rest ended as {named}" if ended else ""


def residual_told(lines: Sequence[Line]) -> str:
    """The largest residual among whole results."""
    residuals = [line["residual"] for line in lines if line["residual"] is not None and all(line["certified"])]
    return f"; residual at most {max(residuals):.2g}" if residuals else ""


def seconds_told(lines: Sequence[Line]) -> str:
    """Seconds of the attack, with compilation where a shape is new."""
    seconds = [line["run_seconds"] for line in lines]
    return f"{np.median(seconds):.1f} s (at most {max(seconds):.1f})"


def molecule(private: PrivateGraphs, place: int) -> PrivateGraphs:
    """One of them."""
    return private.chosen(np.array([place]))
