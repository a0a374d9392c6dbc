"""Graph networks, certificate: answers that are wrong in one place, certified only where no gradient can tell.

Claim (ours): graphs are held against what came back by their own gradient, computed again, and a gradient is a function
of the counts of colours of level L (Weisfeiler and Leman). A molecule with one edge moved, two edges crossed over, one
row changed or one node dropped is certified where these counts agree, and nowhere else; as a control that they can
agree, all crossings that keep the counts are looked for. No method of the literature certifies graphs. GCN 300 with two
and three convolutions, the thirty molecules of `graph_single`, answers drawn at random. Hardware: one CPU core. Time:
ten minutes.

    python -m experiments.claims.graph_certificate

Each trial appends one line to results/lines/graph_certificate.jsonl.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.harness import claims, common
from experiments.harness import graph_problems as problems
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.attacks.graphs.certificate import reproduce
from spear_jax.errors import SpearError
from spear_jax.graphs.graph import Graph, colour_counts, is_isomorphic

NAME, MOLECULES, EACH = "graph_certificate", 30, 5
LAYERS = (2, 3)
ALIKE = "edges crossed so that counts agree"
CERTIFIED = {True: "certified where counts agree", False: "certified where counts differ"}


def settings(is_quick: bool) -> list[Setting]:
    """Every depth and molecule; quick: one."""
    every = [{"layers": layers, "seed": 0, "molecule": molecule} for layers in LAYERS for molecule in range(MOLECULES)]
    return every[:1] if is_quick else every


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """All wrong answers for one molecule."""
    del data
    private = problems.held_out()
    if private is None:
        return None
    one, seed = problems.molecule(private, setting["molecule"]), setting["seed"]
    architecture, params = problems.network(one, "gcn", 300, seed, layers=setting["layers"])
    observation = problems.observed(architecture, params, one, seed)
    held = {name: jnp.asarray(tensor) for name, tensor in params.items()}
    (true,), random = one.graphs, np.random.default_rng((seed, setting["molecule"]))
    drawn = {kind: [change(true, random) for _ in range(EACH)] for kind, change in CHANGES.items()}
    drawn[ALIKE] = crossed_alike(true, architecture.layers)
    judged, residuals = Counter[str](), {True: [0.0], False: [np.inf]}
    for kind, answers in drawn.items():
        for answer in answers:
            if answer is None or is_isomorphic(answer, true):
                continue
            found = reproduce(observation, held, [answer])
            is_same = colour_counts([answer], architecture.layers) == colour_counts([true], architecture.layers)
            residuals[is_same].append(found.residual)
            judged[kind] += 1
            judged[CERTIFIED[is_same]] += found.is_exact
    right = reproduce(observation, held, [true])
    return {
        "judged": dict(judged),
        "agree": len(residuals[True]) - 1,
        "differ": len(residuals[False]) - 1,
        "least_apart": common.finite(min(residuals[False])),
        "most_alike": max([right.residual, *residuals[True]]),
        "limit": right.limit,
        "right": right.is_exact,
    }


def moved_edge(graph: Graph, random: np.random.Generator) -> Graph | None:
    """One edge between two other nodes."""
    edges = np.delete(graph.edges, random.integers(len(graph.edges)), axis=0)
    return _with(graph, np.concatenate([edges, [random.choice(graph.num_nodes, 2, replace=False)]]))


def crossed_edges(graph: Graph, random: np.random.Generator) -> Graph | None:
    """Two edges a-b and c-d as a-d and c-b, so that every node keeps its number of neighbours."""
    one, other = random.choice(len(graph.edges), 2, replace=False)
    (a, b), (c, d) = graph.edges[one], graph.edges[other]
    return _with(graph, np.concatenate([np.delete(graph.edges, [one, other], axis=0), [[a, d], [c, b]]]))


def changed_row(graph: Graph, random: np.random.Generator) -> Graph | None:
    """One node with the row of another one."""
    rows, (node, other) = graph.rows.copy(), random.choice(graph.num_nodes, 2, replace=False)
    rows[node] = rows[other]
    return dataclasses.replace(graph, rows=rows)


def dropped_node(graph: Graph, random: np.random.Generator) -> Graph | None:
    """One node less, and its edges."""
    node = random.integers(graph.num_nodes)
    edges = graph.edges[~np.any(graph.edges == node, axis=1)]
    return Graph(np.delete(graph.rows, node, axis=0), edges - (edges > node))


CHANGES: dict[str, Callable[[Graph, np.random.Generator], Graph | None]] = {
    "edge moved": moved_edge, "edges crossed": crossed_edges, "row changed": changed_row, "node dropped": dropped_node,
}  # fmt: skip


def crossed_alike(graph: Graph, level: int) -> list[Graph]:
    """Some crossings after which every colour is there as often as before, and the graph is another."""
    counts, found = colour_counts([graph], level), []
    for (a, b), (c, d) in itertools.combinations(graph.edges.tolist(), 2):
        others = [edge for edge in graph.edges.tolist() if edge not in ([a, b], [c, d])]
        for crossed in ([[a, d], [c, b]], [[a, c], [b, d]]):
            answer = _with(graph, np.array([*others, *crossed]))
            if answer is not None and colour_counts([answer], level) == counts and not is_isomorphic(answer, graph):
                found.append(answer)
            if len(found) == EACH:
                return found
    return found


def _with(graph: Graph, edges: np.ndarray) -> Graph | None:
    try:
        return dataclasses.replace(graph, edges=edges)
    except SpearError:  # an edge twice, or a loop
        return None


def findings(lines: list[Line]) -> list[Finding]:
    """One row for each depth."""
    found = [(layers, claims.of(lines, layers=layers)) for layers in LAYERS]
    return [
        Finding(f"wrong graphs, GCN 300 of {layers} convolutions", "ours: 0 certified", _told(mine), mine)
        for layers, mine in found
        if mine
    ]


def _told(lines: list[Line]) -> str:
    judged = sum((Counter(line["judged"]) for line in lines), Counter())
    kinds = ", ".join(f"{judged[kind]} {kind}" for kind in CHANGES)
    apart = [line["least_apart"] for line in lines if line["least_apart"] is not None]
    return (
        f"{judged[CERTIFIED[False]]} of {sum(line['differ'] for line in lines)} certified whose counts "
        f"of colours differ ({kinds}), {judged[CERTIFIED[True]]} of "
        f"{sum(line['agree'] for line in lines)} whose counts agree; the molecules themselves "
        f"{sum(line['right'] for line in lines)} of {len(lines)}; residuals {min(apart):.2g} or more, and "
        f"{max(line['most_alike'] for line in lines):.2g} at most"
    )


CLAIM = Claim(NAME, settings, trial, findings)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
