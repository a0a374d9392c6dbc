"""Graph networks, graphs that are no molecules: random ones with few kinds of nodes, up to sixty of them.

Claim (ours): rows and neighbourhoods of any graph are found, and the class of graphs that share the gradient is counted
or said to be cut. Random graphs of 30 to 60 nodes in three categories, with 1.2 edges for each node, connected, no node
of more than six neighbours, the degree a feature; GCN and GIN 300, one output. Published: GRAIN (ICLR 2025) on
sub-graphs of Pokec and CiteSeer, worse with every ten nodes, which have hundreds of features (S); these have none to
tell nodes apart. Hardware: one CPU core. Time: half an hour.

    python -m experiments.claims.graph_other

Each trial appends one line to results/lines/graph_other.jsonl.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.harness import claims
from experiments.harness import graph_problems as problems
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.client.graph_batch import PrivateGraphs
from spear_jax.graphs.features import Block, Features
from spear_jax.graphs.graph import Graph

NAME, GRAPHS, MOST_DEGREE, CATEGORIES = "graph_other", 10, 6, 3
KINDS = ("gcn", "gin")


def settings(is_quick: bool) -> list[Setting]:
    """Every kind and graph; quick: one that takes seconds."""
    every = [{"kind": kind, "seed": seed} for kind in KINDS for seed in range(GRAPHS)]
    return every[1:2] if is_quick else every


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One graph."""
    del data
    one = random_graph(setting["seed"])
    architecture, params = problems.network(one, setting["kind"], 300, setting["seed"])
    return problems.counted(problems.attacked(architecture, params, one, setting["seed"]), one)


def random_graph(seed: int) -> PrivateGraphs:
    """A random tree and some edges more, of 30 to 60 nodes."""
    random = np.random.default_rng(seed)
    nodes = int(random.integers(30, 61))
    edges, degree = set[tuple[int, int]](), np.zeros(nodes, int)

    def join(one: int, other: int) -> None:
        edges.add((min(one, other), max(one, other)))
        degree[[one, other]] += 1

    for node in range(1, nodes):
        join(node, int(random.choice(np.flatnonzero(degree[:node] < MOST_DEGREE))))
    while len(edges) < 1.2 * nodes:
        one, other = random.choice(np.flatnonzero(degree < MOST_DEGREE), 2, replace=False).tolist()
        if (min(one, other), max(one, other)) not in edges:
            join(one, other)
    kinds = np.eye(CATEGORIES)[random.integers(CATEGORIES, size=nodes)]
    rows = np.concatenate([kinds, np.eye(MOST_DEGREE + 1)[degree]], axis=1)
    blocks = (Block("kind", tuple("abc")), Block("degree", tuple(map(str, range(MOST_DEGREE + 1)))))
    features = Features(blocks=blocks, degree="degree", max_degree=MOST_DEGREE, is_connected=True)
    return PrivateGraphs((Graph(rows, np.array(sorted(edges))),), features, (f"random {seed}",))


def findings(lines: list[Line]) -> list[Finding]:
    """One row for each kind."""
    found = [(kind, claims.of(lines, kind=kind)) for kind in KINDS]
    return [
        Finding(f"random graphs of 30 to 60 nodes, {kind.upper()} 300", "ours: class size stated", _told(mine), mine)
        for kind, mine in found
        if mine
    ]


def _told(lines: list[Line]) -> str:
    rows = sum(line["rows_found"] == line["rows_true"] for line in lines)
    cut = sum(line["is_cut"] for line in lines)
    sizes = [line["class_size"][0] for line in lines if line["class_size"][0]]
    listed = f"; classes of {min(sizes)} to {max(sizes)}, {cut} cut" if sizes else ""
    return f"rows {rows} of {len(lines)}; {problems.graphs_told(lines)}{listed}{problems.refusals_told(lines)}"


CLAIM = Claim(NAME, settings, trial, findings)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
