"""Candidates for what stood in a batch, seen in many views at once, and what each adds to those that were taken.

Views whose gradients have fewer rows than there are inputs show some combinations of these, each view others, but all
of the same inputs: simultaneous pursuit with one dictionary per view (Baron et al. 2009, JSM-2; one view: Davies and
Eldar 2012). Inputs of one view are alike, so all is seen in coordinates in which inputs of random contexts are white:
a token in a wrong context is then far from itself in the right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax import linalg
from spear_jax.attacks.text.views import View
from spear_jax.factorization import white_edge
from spear_jax.language.linear import product
from spear_jax.pursuit import LEAST_LEFT, STANDS_OUT
from spear_jax.row_space import FORWARD_ROUNDING, filled

# Of the mean variance of inputs, added to all directions before they are made white.
SMOOTHED = 1e-3
# Candidates and taken ones that there is room for at first.
ROOM, ROOM_TAKEN = 1024, 64


class Pool:
    """Candidates in all views, and the gradients, without what was taken.

    Attributes:
        views: of inputs of one length d.
        directions: (views,) how many above the noise what was taken does not explain.
        num_taken: candidates that were taken.
    """

    def __init__(self, views: Sequence[View], samples: np.ndarray) -> None:
        """Without candidates.

        Args:
            views: of inputs of one length d.
            samples: (n, views, d) inputs of random contexts.
        """
        self.views = tuple(views)
        dtype = views[0].space.basis.dtype
        self._scale = jnp.stack([view.space.scale for view in views])
        self._white = jnp.asarray(_whitening(samples * np.asarray(self._scale)), dtype)
        rows = filled(max(view.rank for view in views))
        gradients = np.stack([np.pad(view.gradient, ((0, rows - view.rank), (0, 0))) for view in views])
        self._left = np.asarray(_through(jnp.asarray(gradients, dtype), self._white), np.float64)
        self._raw, self._floors = gradients, np.array([_floor(view) for view in views])
        self._raw_basis = np.zeros((len(views), 0, views[0].width))
        self._basis = jnp.zeros((len(views), ROOM_TAKEN, views[0].width), dtype)
        self._rows = jnp.zeros((len(views), ROOM, views[0].width), dtype)
        self._is_open = np.zeros(0, bool)
        self.num_taken = 0
        self._look()

    def _look(self) -> None:
        """What is left of the gradients: how many directions, which, and the views that have any."""
        self.directions = np.sum(_sizes(self._raw) > self._floors[:, None], axis=1)
        strongest = np.zeros(self._left.shape)
        for view, (rows, count) in enumerate(zip(_rotated(self._left), self.directions, strict=True)):
            strongest[view, :count] = rows[:count] / np.linalg.norm(rows[:count], axis=1, keepdims=True)
        weights = (self.directions > 0) / max(np.sum(self.directions > 0), 1)
        self._strongest = jnp.asarray(strongest, self._rows.dtype), jnp.asarray(weights, self._rows.dtype)

    def put(self, inputs: jax.Array, count: int, most: int) -> np.ndarray:
        """Add the best of some candidates.

        Args:
            inputs: (c, views, d) what the views would have seen; those behind the first ``count`` fill up a shape.
            count: of candidates.
            most: that are kept.

        Returns:
            Places of those that are kept among the candidates, in the order of the numbers that they get.
        """
        fresh = self._fresh(inputs)
        best = np.sort(np.argsort(-self._shares(fresh)[:count], kind="stable")[:most])
        first = len(self._is_open)
        room = first + filled(len(best))
        if room > self._rows.shape[1]:
            self._rows = jnp.pad(self._rows, ((0, 0), (0, filled(room, ROOM) - self._rows.shape[1]), (0, 0)))
        self._rows = _put(self._rows, fresh, jnp.asarray(np.resize(best, filled(len(best)))), jnp.asarray(first))
        self._is_open = np.append(self._is_open, np.ones(len(best), bool))
        return best

    def shares(self) -> np.ndarray:
        """(candidates,) share of what each adds that lies in what is left of the gradients, mean over the views.

        1 for those that were there, once no view lacks more of them than it shows directions; 0 for what was taken.
        """
        return np.where(self._is_open, self._shares(self._rows)[: len(self._is_open)], 0)

    def shares_of(self, inputs: jax.Array) -> np.ndarray:
        """(c,) the same of inputs (c, views, d) that are no candidates."""
        return self._shares(self._fresh(inputs))

    def _fresh(self, inputs: jax.Array) -> jax.Array:
        return _fresh(self._white, self._basis, inputs * self._scale[None])

    def _shares(self, rows: jax.Array) -> np.ndarray:
        """The shares of rows (views, n, d)."""
        return np.asarray(_shares(rows, *self._strongest))

    def take(self, place: int, inputs: np.ndarray) -> None:
        """Take a candidate out of the gradients and of all others.

        Args:
            place: its number.
            inputs: (views, d) float64, as they were put.
        """
        self._is_open[place] = False
        if self.num_taken == self._basis.shape[1]:
            self._basis = jnp.pad(self._basis, ((0, 0), (0, self.num_taken), (0, 0)))
        self._rows, self._basis, unit = _taken(self._rows, self._basis, jnp.asarray(place), jnp.asarray(self.num_taken))
        self._left = _off(self._left, np.asarray(unit, np.float64)[:, None])
        fresh = inputs * np.asarray(self._scale, np.float64)
        fresh = _off(_off(fresh[:, None], self._raw_basis), self._raw_basis)
        fresh = fresh / np.maximum(np.linalg.norm(fresh, axis=2, keepdims=True), np.finfo(np.float64).tiny)
        self._raw_basis = np.concatenate([self._raw_basis, fresh], axis=1)
        self._raw = _off(self._raw, fresh)
        self.num_taken += 1
        self._look()

    def needs(self, inputs: np.ndarray) -> np.ndarray:
        """(u,) how much of the gradients only each of some inputs (u, views, d) explains, in units of the noise.

        The most over the views; one with less than 1 can be left out.
        """
        found = np.zeros(len(inputs))
        for place, view in enumerate(self.views):
            duals = linalg.pinv(inputs[:, place] * np.asarray(view.space.scale, np.float64)).T
            own = duals / np.linalg.norm(duals, axis=1, keepdims=True)
            found = np.maximum(found, np.linalg.norm(view.gradient @ own.T, axis=0) / self._floors[place])
        return found


def _floor(view: View) -> float:
    """Size that a direction of a view may have of noise and rounding alone."""
    rounding = FORWARD_ROUNDING * float(jnp.finfo(view.space.basis.dtype).eps)
    edge = STANDS_OUT * white_edge(view.noise, view.gradient.shape)
    return float(np.hypot(edge, rounding * np.linalg.norm(view.gradient)))


def _whitening(samples: np.ndarray) -> np.ndarray:
    """(views, d, d) matrices from the right of which inputs (n, views, d) become white."""
    found = []
    for view in np.moveaxis(samples.astype(np.float64), 1, 0):
        variance = view.T @ view / len(view)
        variance += SMOOTHED * np.trace(variance) / len(variance) * np.eye(len(variance))
        found.append(linalg.inv(linalg.cholesky(variance)).T)
    return np.stack(found)


def _rotated(rows: np.ndarray) -> np.ndarray:
    """Rows (views, k, d) turned until they are orthogonal, the largest first."""
    turns = linalg.eigh(rows @ np.swapaxes(rows, 1, 2))[1]
    return np.swapaxes(turns, 1, 2)[:, ::-1] @ rows


def _sizes(rows: np.ndarray) -> np.ndarray:
    """(views, k) singular values, those above 1e-8 of the largest."""
    return np.sqrt(np.maximum(linalg.eigvalsh(rows @ np.swapaxes(rows, 1, 2)), 0))


def _off(rows: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """What rows (views, k, d) have outside the span of orthonormal ones (views, m, d)."""
    return rows - (rows @ np.swapaxes(basis, 1, 2)) @ basis


@jax.jit
def _through(rows: jax.Array, white: jax.Array) -> jax.Array:
    return product(rows, white)


@jax.jit
def _fresh(white: jax.Array, basis: jax.Array, inputs: jax.Array) -> jax.Array:
    """Inputs (c, views, d) as rows (views, c, d): white, of length one, then off what was taken."""
    fresh = product(jnp.swapaxes(inputs, 0, 1), white)
    fresh = fresh / jnp.linalg.norm(fresh, axis=2, keepdims=True)
    return fresh - product(product(fresh, jnp.swapaxes(basis, 1, 2)), basis)


@partial(jax.jit, donate_argnums=0)
def _put(rows: jax.Array, fresh: jax.Array, places: jax.Array, first: jax.Array) -> jax.Array:
    """Some of the fresh rows written behind the first ones."""
    return jax.lax.dynamic_update_slice(rows, fresh[:, places], (0, first, 0))


@jax.jit
def _shares(rows: jax.Array, directions: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean over the views of the share (n,) of each row that lies along orthonormal directions."""
    inside = jnp.sum(jnp.square(product(rows, jnp.swapaxes(directions, 1, 2))), axis=2)
    lengths = jnp.sum(jnp.square(rows), axis=2)
    shares = jnp.where(lengths > LEAST_LEFT, inside / jnp.maximum(lengths, LEAST_LEFT), 0)
    return jnp.sum(weights[:, None] * shares, axis=0)


@partial(jax.jit, donate_argnums=(0, 1))
def _taken(
    rows: jax.Array, basis: jax.Array, place: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """All rows off one of them, the basis with it, and its direction (views, d)."""
    unit = jax.lax.dynamic_index_in_dim(rows, place, axis=1, keepdims=True)
    unit = unit - product(product(unit, jnp.swapaxes(basis, 1, 2)), basis)
    unit = unit / jnp.maximum(jnp.linalg.norm(unit, axis=2, keepdims=True), jnp.finfo(rows.dtype).tiny)
    rows = rows - product(product(rows, jnp.swapaxes(unit, 1, 2)), unit)
    return rows, jax.lax.dynamic_update_slice(basis, unit, (0, count, 0)), unit[:, 0]
