"""Graphs of a batch told apart: colours that occur in one graph only have coefficients parallel to its gradient.

The last layer's gradient is ``sum_g d_g p_g^T``, so that a colour's coefficients, one for each output, are
``sum_g (n_gc / n_g) d_g``: a point of the cone of the graphs' gradients by their logits. A colour of one graph alone
lies on a ray of it, so that the outermost rays are the graphs, as long as there are at least as many outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from spear_jax.attacks.graphs.counts import balance_rows
from spear_jax.attacks.graphs.levels import Level
from spear_jax.attacks.graphs.pooled import Pooled
from spear_jax.row_space import FITS
from spear_jax.stages import stage

# Directions are one where they differ by less than this; coefficients are none that are a smaller part of the largest.
PARALLEL, LEAST_PART = 1e-5, 1e-7
# Beyond this the coefficients of colours are not told apart by the last layer and the balance of edges.
MOST_DEPENDENT = 1e9


class Told(NamedTuple):
    """Graphs of a batch, told apart.

    Attributes:
        shares: (graphs, m) shares of each graph's nodes, or their numbers, by colour.
        noise: error of a share, about.
        rays: number of outermost rays, which is that of the graphs if it is no more than ``rank``.
        rank: of the layer's gradient, at most the number of graphs and of outputs.
    """

    shares: np.ndarray
    noise: float
    rays: int
    rank: int


@stage("graphs: batch")
def tell_apart(level: Level, states: np.ndarray, pooled: Pooled, is_mean: bool) -> Told | None:
    """Shares of colours by graph; None where colours do not explain the layer's gradient, or not in one way.

    Args:
        level: colours of the highest level.
        states: (m, width) what each gives the pool.
        pooled: the layer behind the pool.
        is_mean: whether the pool is a mean.
    """
    balance = balance_rows(level)
    columns = states.T.astype(np.float64)
    scale = float(np.linalg.norm(columns, axis=0).mean())
    system = np.concatenate([columns, scale * balance] + ([np.full((1, len(level)), scale)] if is_mean else []))
    target = np.concatenate(
        [pooled.weight.T, np.zeros((len(balance), len(pooled.bias)))] + ([scale * pooled.bias[None]] if is_mean else [])
    )
    if len(system) < len(level):
        return None
    left, sizes, right = np.linalg.svd(system, full_matrices=False)
    if sizes[-1] * MOST_DEPENDENT < sizes[0]:
        return None
    inverse = (right.T / sizes) @ left.T
    coefficients = inverse @ target
    error = pooled.noise * float(np.linalg.norm(pooled.bias)) + pooled.relative * float(np.linalg.norm(target))
    if np.linalg.norm(system @ coefficients - target) > FITS * np.sqrt(target.shape[1]) * error:
        return None
    errors = error * np.linalg.norm(inverse, axis=1)
    return _by_rays(coefficients, errors, pooled, is_mean)


def _by_rays(coefficients: np.ndarray, errors: np.ndarray, pooled: Pooled, is_mean: bool) -> Told:
    """Shares of points of a cone by its outermost rays."""
    lengths = np.linalg.norm(coefficients, axis=1)
    there = np.flatnonzero(lengths > np.maximum(FITS * errors, LEAST_PART * lengths.max()))
    directions = coefficients[there] / lengths[there, None]
    doubt = np.maximum(PARALLEL, FITS * errors[there] / lengths[there])
    rays = _outermost(_different(directions, doubt), float(np.median(doubt)))
    shares = np.zeros((len(rays), len(coefficients)))
    if len(rays) <= pooled.found.rank:
        for place in there:
            shares[:, place], _ = nnls(rays.T, coefficients[place])
        # Behind a sum a ray's length is that of its graph's gradient by the logits, and the bias sums these.
        totals = shares.sum(axis=1) if is_mean else nnls(rays.T, pooled.bias)[0]
        shares /= np.maximum(totals, np.finfo(float).tiny)[:, None]
    return Told(shares, float(np.max(errors[there] / lengths.max())), len(rays), pooled.found.rank)


def _different(directions: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    """(k, outputs) one of each set of parallel directions, the best known one."""
    kept: list[np.ndarray] = []
    for place in np.argsort(doubt):
        if all(np.linalg.norm(directions[place] - other) > 10 * doubt[place] for other in kept):
            kept.append(directions[place])
    return np.array(kept)


def _outermost(directions: np.ndarray, doubt: float) -> np.ndarray:
    """The directions that are no mixture of the others."""
    kept = list(range(len(directions)))
    for place in range(len(directions)):
        others = [other for other in kept if other != place]
        if others and nnls(directions[others].T, directions[place])[1] <= 10 * doubt:
            kept = others
    return directions[kept]
