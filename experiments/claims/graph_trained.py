"""Graph networks that have been trained: what is left of the attack when the weights are no longer random.

Claim (ours): a GIN, and a GCN with a smooth activation, say as much after training as before it; behind the ReLU of a
GCN units come to agree on all nodes, the second layer then shows fewer directions than there are neighbourhoods, and
that is said instead of anything false. Width 300, trained by Adam (learning rate 2e-3) on the 32 bundled molecules,
whether they hold nitrogen, to accuracy 1 and no fewer than 40 steps; then one gradient of each of the thirty molecules
of `graph_single`. Published: none; GRAIN's networks are random (S). Hardware: one CPU core. Time: half an hour.

    python -m experiments.claims.graph_trained

Each trial appends one line to results/lines/graph_trained.jsonl.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.harness import claims
from experiments.harness import graph_problems as problems
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.client.graph_batch import PrivateGraphs, demo_molecules
from spear_jax.errors import SpearError
from spear_jax.graphs.architecture import Architecture
from spear_jax.graphs.layers import Params, as_batch, logits, loss_gradients

NAME, WIDTH, DRAWS, MOLECULES = "graph_trained", 300, 3, 30
RATE, LEAST, MOST = 2e-3, 40, 400
ROWS = (
    ("gin", "relu", "ours, aimed at 90 %"),
    ("gcn", "silu", "ours, aimed at 90 %"),
    ("gcn", "relu", "ours: nothing false, rows or the capacity said"),
)
NITROGEN = 1  # the label of the block "type"


def settings(is_quick: bool) -> list[Setting]:
    """Every network, draw and molecule; quick: one molecule."""
    every = [
        {"kind": kind, "activation": activation, "seed": seed, "molecule": molecule}
        for kind, activation, _ in ROWS
        for seed in range(DRAWS)
        for molecule in range(MOLECULES)
    ]
    return every[:1] if is_quick else every


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One molecule behind a trained network."""
    del data
    private = problems.held_out()
    if private is None:
        return None
    one = problems.molecule(private, setting["molecule"])
    one = one._replace(labels=has_nitrogen(one))
    architecture, params, steps, accuracy = trained(setting["kind"], setting["activation"], setting["seed"])
    try:
        found = problems.counted(problems.attacked(architecture, params, one, setting["seed"]), one)
    except SpearError as error:
        if "zero everywhere" not in str(error):
            raise
        found = problems.nothing(one)
    return found | {"steps": steps, "accuracy": accuracy}


def has_nitrogen(private: PrivateGraphs) -> np.ndarray:
    """(B, 1) labels."""
    return np.array([[float(graph.rows[:, NITROGEN].any())] for graph in private.graphs])


@functools.lru_cache(maxsize=1)
def trained(kind: str, activation: str, seed: int) -> tuple[Architecture, dict[str, np.ndarray], int, float]:
    """The network, its steps of Adam, and its accuracy on the molecules that it was trained on."""
    private = demo_molecules()
    architecture, params = problems.network(private, kind, WIDTH, seed, activation=activation)
    labels, batch = jnp.asarray(has_nitrogen(private)), as_batch(private.graphs, np.dtype(np.float64))
    held: Params = {name: jnp.asarray(tensor) for name, tensor in params.items()}
    optimiser = optax.adam(RATE)
    state, steps, accuracy = optimiser.init(held), 0, 0.0
    right = jax.jit(lambda held: jnp.mean((logits(architecture, held, batch) > 0) == (labels > 0.5)))
    while steps < MOST and not (accuracy == 1 and steps >= LEAST):
        moved, state = optimiser.update(loss_gradients(architecture, held, batch, labels), state)
        held, steps = optax.apply_updates(held, moved), steps + 1
        accuracy = float(right(held))
    return architecture, {name: np.asarray(tensor) for name, tensor in held.items()}, steps, accuracy


def findings(lines: list[Line]) -> list[Finding]:
    """One row for each network."""
    found = [(row, claims.of(lines, kind=row[0], activation=row[1])) for row in ROWS]
    return [
        Finding(f"one molecule, trained {kind.upper()} {WIDTH}, {activation}", expected, _told(mine), mine)
        for (kind, activation, expected), mine in found
        if mine
    ]


def _told(lines: list[Line]) -> str:
    rows = sum(line["rows_found"] == line["rows_true"] for line in lines)
    steps = [line["steps"] for line in lines]
    return (
        f"after {min(steps)} to {max(steps)} steps, accuracy {min(line['accuracy'] for line in lines):.2f} or more: "
        f"{problems.graphs_told(lines)}; all rows among those that fit {rows} of {len(lines)}"
        f"{problems.refusals_told(lines)}"
    )


CLAIM = Claim(NAME, settings, trial, findings)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
