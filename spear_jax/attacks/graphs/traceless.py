"""Nodes that leave nothing in a gradient: none of their units is active, so that any number of them may be there."""

from __future__ import annotations

import itertools
from math import prod

import numpy as np

from spear_jax.attacks.graphs.levels import Model
from spear_jax.graphs.features import Features
from spear_jax.graphs.graph import Graph
from spear_jax.graphs.layers import as_batch, pooled_vectors

# Possible rows that are tried one by one, and at a time.
MOST_ROWS, CHUNK = 8_192, 256


def may_be_traceless(model: Model, features: Features, states: np.ndarray) -> bool:
    """Whether a part of a graph, not joined to the rest, may be there that the pool gets nothing of.

    Args:
        model: the network.
        features: of which the possible rows are tried as single nodes, where they are not too many.
        states: (m, width) what nodes give the pool, of all colours that fit.
    """
    if features.is_connected:
        return False
    return bool(np.any(~np.any(states, axis=1))) or _has_dead_single(model, features)


def _has_dead_single(model: Model, features: Features) -> bool:
    rows = _possible(features)
    degrees = features.degrees(rows)
    rows = rows if degrees is None else rows[degrees == 0]
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        graphs = [Graph(row[None], np.zeros((0, 2), int)) for row in part]
        batch = as_batch(graphs, model.params["readout.0.weight"].dtype, 1, CHUNK)
        pooled = np.asarray(pooled_vectors(model.architecture, model.params, batch))[: len(part)]
        if np.any(~np.any(pooled, axis=1)):
            return True
    return False


def _possible(features: Features) -> np.ndarray:
    """(r, columns) all rows that a node may have; none where they are too many."""
    if features.possible is not None:
        return features.possible
    parts = [block.choices for block in features.blocks]
    if prod(len(part) for part in parts) > MOST_ROWS:
        return np.zeros((0, features.columns))
    return np.array([np.concatenate(row) for row in itertools.product(*parts)])
