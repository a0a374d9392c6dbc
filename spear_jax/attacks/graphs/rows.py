"""Level 0: the possible rows of nodes that lie in the row space of the first convolution's gradient.

Block by block (GRAIN, Drencheva et al. 2025, Sec. 4): what a row has in the columns of some blocks lies in the span of
these columns of the gradient. One-hot blocks are affinely dependent, so that mixtures a + b - c of rows that are there
fit exactly: no threshold tells them apart, only a list of possible rows or the next, non-linear layer does.
"""

from __future__ import annotations

from functools import reduce
from math import prod

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax import linalg
from spear_jax.attacks.graphs.views import View
from spear_jax.factorization import white_edge
from spear_jax.graphs.features import Features
from spear_jax.graphs.observation import GraphObservation
from spear_jax.numerics import EPS64
from spear_jax.row_space import FITS, RowSpace, Space, filled, misfit_of_any
from spear_jax.stages import stage

# Rows that are tested at a time, and beginnings of rows that are kept.
CHUNK, MOST_ROWS = 1024, 50_000


@stage("graphs: rows")
def find_rows(observation: GraphObservation, view: View) -> np.ndarray | None:
    """(k, columns) possible rows that fit; None where more beginnings of rows fit than can be looked through.

    Args:
        observation: what came back.
        view: of the states that enter the first convolution.
    """
    features, gradient = observation.features, observation.gradients[f"{view.name}.weight"]
    if features.possible is not None:
        return _fitting(_seen(features.possible, gradient), view.found.space)
    found = np.zeros((1, 0))
    for parts in _seen_parts(features, gradient):
        found = _joined(found, parts)
        found = _fitting(found, _beginning(view.found, gradient, found.shape[1]))
        if len(found) > MOST_ROWS:
            return None
    return found


def seen_rows(observation: GraphObservation, name: str) -> np.ndarray:
    """(k, columns) all possible rows that have nothing where the gradient of a layer is zero; none if too many."""
    features, gradient = observation.features, observation.gradients[f"{name}.weight"]
    if features.possible is not None:
        return _seen(features.possible, gradient)
    parts = _seen_parts(features, gradient)
    if prod(map(len, parts)) > MOST_ROWS:
        return np.zeros((0, features.columns))
    return reduce(_joined, parts, np.zeros((1, 0)))


def _seen_parts(features: Features, gradient: np.ndarray) -> list[np.ndarray]:
    """What a row may have in each block's columns, (p, labels), without labels that the gradient does not show."""
    found, stop = [], 0
    for block in features.blocks:
        start, stop = stop, stop + len(block.labels)
        found.append(_seen(block.choices, gradient[:, start:stop]))
    return found


def _joined(rows: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """All beginnings of rows with all that may follow."""
    return np.concatenate([np.repeat(rows, len(parts), axis=0), np.tile(parts, (len(rows), 1))], axis=1)


def _seen(rows: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The rows without those that have something in a column that is zero in all of the gradient."""
    return rows[~np.any((rows != 0) & ~np.any(gradient, axis=0), axis=1)]


def _beginning(found: RowSpace, gradient: np.ndarray, stop: int) -> Space:
    """The row space of the first columns of a gradient; directions of doubt are taken in, which lets more rows pass."""
    if stop == gradient.shape[1]:
        return found.space
    _, sizes, basis = linalg.svd(found.directions[:, :stop], full_matrices=False)
    own = float(np.finfo(gradient.dtype).eps * np.sqrt(np.mean(np.square(gradient))))
    noise = max(found.noise, own)
    above = sizes > max(white_edge(noise, (found.rank, stop)), EPS64 * np.sqrt(stop) * sizes[0])
    filling = filled(found.rank) - int(above.sum())
    pad = lambda part: np.pad(part, ((0, filling),) + ((0, 0),) * (part.ndim - 1))
    dtype = found.space.basis.dtype
    return Space(
        jnp.ones(stop, dtype),
        jnp.asarray(pad(basis[above]), dtype),
        jnp.asarray(pad(noise * np.sqrt(stop) / sizes[above]), dtype),
    )


def _fitting(rows: np.ndarray, space: Space) -> np.ndarray:
    """Those of some rows (k, c) that lie in a row space."""
    fits = np.zeros(len(rows), bool)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        padded = jnp.asarray(np.pad(part, ((0, CHUNK - len(part)), (0, 0))), space.basis.dtype)
        fits[start : start + CHUNK] = (np.asarray(_misfits(space, padded)) <= FITS)[: len(part)]
    return rows[fits]


@jax.jit
def _misfits(space: Space, rows: jax.Array) -> jax.Array:
    return misfit_of_any(space, rows)
