"""Which rows of a dictionary span a space that shows fewer directions than there are rows: rank-aware pursuit.

An adapter of rank r shows r directions of a span of u > r tokens. Generic combinations of u dictionary rows are
combinations of no other set as long as ``u < (d + k) / 2`` for k directions of length d (Davies and Eldar 2012), and
RA-ORMP finds them (ibid.): take the row with the largest share of what it adds to those already taken inside the
space, take it out of space and dictionary alike, repeat. Once no more than k rows are missing, the space that is
left is their span: each of them then lies in it to rounding. From there on nothing is a guess, and an early wrong guess
shows as a row without a coefficient.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax.attacks.text.views import FITS, FORWARD_ROUNDING, in_bucket
from spear_jax.factorization import white_edge
from spear_jax.language.linear import product

# Rows with a share above this are measured in float64, so many of them at most.
NEARLY_INSIDE, MOST_MEASURED = 0.98, 512
# A row with a smaller part of itself (squared) outside the rows that were taken adds nothing that float32 shows.
LEAST_LEFT = 1e-4
# A direction stands out of the noise by this factor, and a coefficient out of its own.
STANDS_OUT, IS_THERE = 3.0, 10.0


class Pursued(NamedTuple):
    """Rows that explain a space.

    Attributes:
        rows: (u,) numbers of the dictionary's rows, in the order in which they were taken.
        certain: of these, how many lay in what was left of the space when they were taken, to rounding.
        is_exact: whether all directions are explained, the last ones by certain rows, and no row can be left out.
    """

    rows: np.ndarray
    certain: int
    is_exact: bool


def pursue(dictionary: jax.Array, gradient: np.ndarray, noise: float, most: int) -> Pursued:
    """The rows of a dictionary of which a gradient's rows are combinations.

    Args:
        dictionary: (V, d) floating, on the device.
        gradient: (k, d) orthogonal rows, of the size that the gradient has along them.
        noise: standard deviation of an entry of ``gradient``.
        most: rows to take at most.
    """
    taken, left, certain = _Taken(dictionary), gradient.astype(np.float64), 0
    floor = np.hypot(
        STANDS_OUT * white_edge(noise, gradient.shape),
        FORWARD_ROUNDING * float(jnp.finfo(dictionary.dtype).eps) * np.linalg.norm(gradient),
    )
    while len(taken.rows) < most:
        space = _strong(left, floor)
        if not len(space):
            break
        inside = _inside(taken, space, noise)
        for row in inside or [int(np.argmax(taken.shares(space)))]:
            taken.add(row)
        certain += len(inside)
        left = left - (left @ taken.basis.T) @ taken.basis
    return _settled(taken, gradient, noise, certain if len(taken.rows) < most else 0)


def _strong(left: np.ndarray, floor: float) -> np.ndarray:
    """Orthogonal rows (k', d) of the size that is left along them, those above the noise."""
    _, sizes, directions = np.linalg.svd(left, full_matrices=False)
    return (sizes[:, None] * directions)[sizes > floor]


def _inside(taken: _Taken, space: np.ndarray, noise: float) -> list[int]:
    """Rows whose every part outside the taken ones lies in the space to rounding, as many as it has directions."""
    shares = taken.shares(space)
    near = np.argsort(shares)[: -MOST_MEASURED - 1 : -1]
    near = near[shares[near] > NEARLY_INSIDE]
    if not len(near):
        return []
    sizes = np.linalg.norm(space, axis=1)
    outer = taken.outside(near)
    within = outer @ (space / sizes[:, None]).T
    off = outer - within @ (space / sizes[:, None])
    explained = noise * np.sqrt(space.shape[1]) * np.linalg.norm(within / sizes, axis=1)
    rounding = FORWARD_ROUNDING * float(jnp.finfo(taken.dictionary.dtype).eps) * np.linalg.norm(taken.of(near), axis=1)
    misfit = np.linalg.norm(off, axis=1) / np.hypot(explained, rounding)
    order = np.argsort(misfit)[: len(space)]
    return [int(near[place]) for place in order if misfit[place] <= FITS]


def _settled(taken: _Taken, gradient: np.ndarray, noise: float, certain: int) -> Pursued:
    """The rows that were taken without those that have no coefficient in the gradient."""
    rows = np.array(taken.rows, int)
    if not len(rows):
        return Pursued(rows, 0, False)
    duals = np.linalg.pinv(taken.of(rows))
    coefficients = np.linalg.norm(gradient @ duals, axis=0)
    is_there = coefficients > IS_THERE * noise * np.linalg.norm(duals, axis=0) * np.sqrt(len(gradient))
    count, (size, width) = int(is_there.sum()), gradient.shape
    is_unique = 2 * count < width + size
    return Pursued(rows[is_there], certain, bool(is_unique and certain >= min(size, count)))


class _Taken:
    """Rows of the dictionary that were taken, and what every row has outside their span."""

    def __init__(self, dictionary: jax.Array) -> None:
        self.dictionary, self.rows = dictionary, []
        self.basis = np.zeros((0, dictionary.shape[1]))
        self._lengths = jnp.sum(jnp.square(dictionary), axis=1)
        self._outside = self._lengths

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the dictionary in float64."""
        return np.asarray(self.dictionary[jnp.asarray(rows)], np.float64)

    def outside(self, rows: np.ndarray) -> np.ndarray:
        """What these rows have outside the span of the taken ones, twice orthogonalised."""
        found = self.of(rows)
        for _ in range(2):
            found = found - (found @ self.basis.T) @ self.basis
        return found

    def add(self, row: int) -> None:
        """Take one row."""
        (fresh,) = self.outside(np.array([row]))
        self.rows.append(row)
        size = np.linalg.norm(fresh)
        if size > 0:
            self.basis = np.concatenate([self.basis, fresh[None] / size])
            direction = jnp.asarray(fresh / size, self.dictionary.dtype)
            self._outside = _without(self.dictionary, self._outside, direction)

    def shares(self, space: np.ndarray) -> np.ndarray:
        """(V,) share of what each row adds to the taken ones that lies in a space; 0 for one that adds nothing."""
        directions = space / np.linalg.norm(space, axis=1, keepdims=True)
        filled = np.pad(directions, ((0, in_bucket(len(directions)) - len(directions)), (0, 0)))
        found = _shares(self.dictionary, self._outside, self._lengths, jnp.asarray(filled, self.dictionary.dtype))
        return np.asarray(found)


@jax.jit
def _shares(dictionary: jax.Array, outside: jax.Array, lengths: jax.Array, directions: jax.Array) -> jax.Array:
    inside = jnp.sum(jnp.square(product(dictionary, directions.T)), axis=1)
    return jnp.where(outside > LEAST_LEFT * lengths, inside / outside, 0)


@jax.jit
def _without(dictionary: jax.Array, outside: jax.Array, direction: jax.Array) -> jax.Array:
    """What is left of each row's squared length when a direction is taken out."""
    return outside - jnp.square(product(dictionary, direction))
