"""Neighbourhoods that stand for mixtures of others, since the activation is linear on all of them.

Where no unit has its kink between some neighbourhoods, states of mixtures are mixtures of states: nodes with one and
three neighbours, one of each, may have the gradient of two with two. Of these the gradient shows the mixture alone, so
that what is there does not fit and what fits need not be there.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import nnls

from spear_jax import linalg
from spear_jax.attacks.graphs.levels import NONE, Level, Tables, entered_by, entered_of, in_chunks
from spear_jax.attacks.graphs.missing import AGREE
from spear_jax.attacks.graphs.neighbourhoods import Search
from spear_jax.graphs.architecture import Architecture
from spear_jax.graphs.layers import activated

# Units that candidates are compared by first, candidates at a time, and those that are weighed at most.
FIRST_UNITS, COMPARED, MOST_WEIGHED = 16, 16384, 1_000


def may_be_mixed(search: Search, level: Level) -> bool:
    """Whether some neighbourhoods that fit are mixtures of some that do not, within one linear piece of all units.

    Args:
        search: all of whose neighbourhoods were tested outright.
        level: those that fit.
    """
    inside = entered_of(search.model, search.tables, level.own, level.slots)
    around = _on_one_piece(search, inside)
    if len(around) > MOST_WEIGHED:
        return True
    pieces = _slopes(search.model.architecture, jnp.asarray(inside))
    others = _slopes(search.model.architecture, jnp.asarray(around))
    agree = AGREE[inside.dtype.name]
    return any(
        _meet(
            inside[np.abs(pieces - piece).max(axis=1) <= agree],
            around[np.abs(others - piece).max(axis=1) <= agree],
            agree,
        )
        for piece in np.unique(pieces, axis=0)
    )


def _on_one_piece(search: Search, inside: np.ndarray) -> np.ndarray:
    """(k, width) what the first weights give for neighbourhoods that do not fit but share a linear piece with one that
    does."""
    architecture, found = search.model.architecture, [np.zeros((0, inside.shape[1]), inside.dtype)]
    pieces, total = jnp.asarray(_slopes(architecture, jnp.asarray(inside))), 0
    whole = search.tables
    first = Tables(whole.own[:, :FIRST_UNITS], whole.slots[:, :FIRST_UNITS], whole.features)
    for _, centres, candidates in search.outright():
        for slots in candidates:
            slots = np.pad(slots, ((0, 0), (0, search.max_degree - slots.shape[1])), constant_values=NONE)
            own, near = np.repeat(centres, len(slots)), np.tile(slots, (len(centres), 1))
            for tables in (first, whole):
                kept = _agreeing(architecture, tables, pieces, (own, near))
                own, near = own[kept], near[kept]
            strange = [
                (centre, tuple(kind for kind in kinds if kind != NONE)) not in search.found
                for centre, kinds in zip(own.tolist(), near.tolist(), strict=True)
            ]
            found.append(entered_of(search.model, search.tables, own[strange], near[strange]))
            total += len(found[-1])
            if total > MOST_WEIGHED:
                return np.concatenate(found)
    return np.concatenate(found)


def _agreeing(
    architecture: Architecture, tables: Tables, pieces: jax.Array, candidates: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """(c,) bool, candidates whose units have the slopes of one of some pieces (p, units)."""
    found = np.zeros(len(candidates[0]), bool)
    for chunk, arrays in in_chunks(*candidates, COMPARED):
        found[chunk] = np.asarray(_compared(architecture, tables, pieces, arrays))[: chunk.stop - chunk.start]
    return found


@partial(jax.jit, static_argnums=0)
def _compared(
    architecture: Architecture, tables: Tables, pieces: jax.Array, candidates: tuple[jax.Array, jax.Array]
) -> jax.Array:
    slopes = _slope(architecture, entered_by(architecture, tables, *candidates))
    farthest = jax.lax.map(
        lambda piece: jnp.max(jnp.abs(slopes - jnp.broadcast_to(piece, slopes.shape)), axis=1),
        pieces[:, : slopes.shape[1]],
    )
    return jnp.min(farthest, axis=0) <= AGREE[pieces.dtype.name]


def _slope(architecture: Architecture, entered: jax.Array) -> jax.Array:
    """The activation's slope at each entry."""
    return jax.grad(lambda inputs: jnp.sum(activated(architecture, inputs)))(entered)


def _slopes(architecture: Architecture, entered: jax.Array) -> np.ndarray:
    return np.asarray(_slope(architecture, entered))


def _meet(inside: np.ndarray, around: np.ndarray, agree: float) -> bool:
    """Whether a mean of some vectors is a non-negative combination of others."""
    if not len(around):
        return False
    scale = float(np.linalg.norm(around, axis=1).mean()) or 1.0
    system = np.concatenate([around, -inside]).astype(np.float64).T / scale
    sums = np.concatenate([np.ones(len(around)), np.zeros(len(inside))])
    system, target = np.concatenate([system, sums[None]]), np.append(np.zeros(len(system)), 1.0)
    upper = np.asarray(linalg.qr(np.concatenate([system, target[:, None]], axis=1), mode="r"))
    _, left = nnls(upper[:, :-1], upper[:, -1], maxiter=50 * system.shape[1])
    return bool(left <= agree)
