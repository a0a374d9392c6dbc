"""Graphs of a batch told apart: the corners of all mixtures of colours that lie in the last layer's row space.

The layer behind the pool has the gradient ``sum_g d_g p_g^T``: with as many outputs as graphs its row space holds the
pooled vector of each graph and their mixtures. Non-negative shares of colours whose states mix to a vector of this
space, edges balanced, are then mixtures of the graphs' own shares, a simplex with the graphs at its corners. A linear
programme ends at a corner, and one that asks for colours that no corner has yet shown ends at the next.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from spear_jax import linalg
from spear_jax.attacks.graphs.counts import balance_rows
from spear_jax.attacks.graphs.levels import Level
from spear_jax.attacks.graphs.pooled import Pooled
from spear_jax.stages import stage

# Shares below this are none, and singular values below this part of the largest constrain nothing.
NO_SHARE, NO_CONSTRAINT = 1e-6, 1e-11
# Corners that are looked for beyond the directions of the space: more of them are more graphs than outputs.
MOST_BEYOND = 2


@stage("graphs: batch")
def tell_apart(level: Level, states: np.ndarray, pooled: Pooled, is_mean: bool) -> list[Pooled]:
    """The pooled vector of each graph; fewer than there are graphs where no further corner was found.

    Args:
        level: colours of the highest level.
        states: (m, width) what each gives the pool.
        pooled: the layer behind the pool.
        is_mean: whether the pool is a mean.
    """
    constraints = _constraints(level, states, pooled)
    is_new, found = np.ones(len(level), bool), []
    weights = np.random.default_rng(0).uniform(0.5, 1, len(level))
    while len(found) < pooled.found.rank + MOST_BEYOND:
        ended = linprog(
            -weights * is_new,
            A_eq=np.concatenate([constraints, np.ones((1, len(level)))]),
            b_eq=np.append(np.zeros(len(constraints)), 1),
            bounds=(0, None),
            method="highs",
        )
        if ended.status != 0 or -ended.fun <= NO_SHARE:
            break
        there = np.flatnonzero(ended.x > NO_SHARE)
        is_new[there] = False
        found.append(_exact_mean(level.at(there), states[there], pooled))
    return found if is_mean else _scaled(found, pooled)


def _basis(pooled: Pooled) -> np.ndarray:
    """(rank, width) float64 orthonormal rows of the layer's row space."""
    return np.asarray(pooled.found.space.basis, np.float64)[: pooled.found.rank]


def _constraints(level: Level, states: np.ndarray, pooled: Pooled) -> np.ndarray:
    """(k, m) orthonormal rows that shares of mixtures are orthogonal to: out of the space, or out of balance."""
    columns, basis = states.T.astype(np.float64), _basis(pooled)
    outside = columns - basis.T @ (basis @ columns)
    scale = float(np.linalg.norm(columns, axis=0).mean())
    rows = np.concatenate([outside / scale, balance_rows(level)])
    _, sizes, directions = linalg.svd(rows, full_matrices=False)
    least = max(NO_CONSTRAINT, 100 * pooled.relative) * sizes[0]
    return directions[sizes > least]


def _exact_mean(level: Level, states: np.ndarray, pooled: Pooled) -> Pooled:
    """Mean of states of the colours at a corner, as exactly as the gradient has it: their one relation to the space."""
    columns, basis = states.T.astype(np.float64), _basis(pooled)
    scale = float(np.linalg.norm(columns, axis=0).mean())
    balance = np.pad(scale * balance_rows(level), ((0, 0), (0, len(basis))))
    system = np.concatenate([np.concatenate([columns, -basis.T], axis=1), balance])
    relation = linalg.svd(system)[2][-1]
    relation = relation / relation[: len(level)].sum()
    inside = relation[len(level) :]
    noise = np.asarray(pooled.found.space.noise, np.float64)[: len(basis)]
    return pooled._replace(vector=basis.T @ inside, noise=float(np.linalg.norm(inside * noise)) / np.sqrt(len(columns)))


def _scaled(means: list[Pooled], pooled: Pooled) -> list[Pooled]:
    """Sums instead of means: the gradients by the logits add up to that of the bias, which fixes numbers of nodes."""
    if not means:
        return []
    vectors = np.stack([one.vector for one in means])
    by_graph = linalg.lstsq(vectors.T, pooled.weight.T, rcond=None)[0]  # numbers of nodes times the gradients
    inverse = linalg.lstsq(by_graph.T, pooled.bias, rcond=None)[0]
    return [
        one._replace(vector=one.vector / number, noise=one.noise / abs(number))
        for one, number in zip(means, inverse, strict=True)
        if number > 0
    ]
