"""Graph networks, batches: several molecules behind one gradient, each found with its class, as many as tasks allow.

Claim (ours): the gradient of the last layer is a sum of one pooled vector for each graph, times what the loss says of
it; the colours' coefficients are parallel for colours of one graph, and clusters of them are the graphs. Molecules of
`graph_single`, 12 outputs as Tox21 has them, a list of all rows of the 62 molecules, drawn labels; the number of graphs
is not told. Published: GRAIN (ICLR 2025) inverts one graph (S). Hardware: one CPU core. Time: half an hour.

    python -m experiments.claims.graph_batches
    python -m experiments.claims.graph_batches --only batch_size=4

Each trial appends one line to results/lines/graph_batches.jsonl.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.harness import claims
from experiments.harness import graph_problems as problems
from experiments.harness.claims import Claim, Finding, Line, Setting

NAME, TASKS, DRAWS = "graph_batches", 12, 3
# Kind of network, graphs of a batch, and what is aimed at.
ROWS = (("gin", 4, "ours, aimed at 95 %"), ("gin", 7, "ours, aimed at 90 %"), ("gcn", 4, "ours: the rest refused"))


def settings(is_quick: bool) -> list[Setting]:
    """The molecules once in drawn batches for every row and draw of weights; quick: one batch."""
    every = [
        {"kind": kind, "batch_size": size, "seed": seed, "batch": batch}
        for kind, size, _ in ROWS
        for seed in range(DRAWS)
        for batch in range(28 // size)
    ]
    return every[:1] if is_quick else every


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One batch of a draw without replacement."""
    del data
    private = problems.held_out()
    if private is None:
        return None
    size, start = setting["batch_size"], setting["batch_size"] * setting["batch"]
    order = np.random.default_rng(setting["seed"]).permutation(private.size)
    batch = problems.told(private, problems.ROWS).chosen(order[start : start + size])
    architecture, params = problems.network(batch, setting["kind"], 300, setting["seed"], tasks=TASKS)
    return problems.counted(problems.attacked(architecture, params, batch, setting["seed"]), batch)


def findings(lines: list[Line]) -> list[Finding]:
    """One row for each kind and size."""
    found = [(row, claims.of(lines, kind=row[0], batch_size=row[1])) for row in ROWS]
    return [
        Finding(
            f"{size} molecules, {TASKS} outputs, {kind.upper()} 300, a list of rows",
            f"{expected}; GRAIN: one graph (S)",
            problems.graphs_told(mine) + problems.residual_told(mine) + problems.refusals_told(mine),
            mine,
        )
        for (kind, size, expected), mine in found
        if mine
    ]


CLAIM = Claim(NAME, settings, trial, findings)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
