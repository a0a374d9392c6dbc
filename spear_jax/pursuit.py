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

from spear_jax import linalg
from spear_jax.factorization import white_edge
from spear_jax.numerics import search_matmul
from spear_jax.row_space import FITS, FORWARD_ROUNDING, filled

# Rows with a share above this are measured to rounding.
NEARLY_INSIDE = 0.98
# Rows that are looked at between two looks at the whole dictionary, and rows that are taken in that time.
CANDIDATES, TAKEN_AT_ONCE = 1024, 8
# A row with a smaller part of itself (squared) outside the rows that were taken adds nothing that float32 shows.
LEAST_LEFT = 1e-4
# Directions stand out of the noise by this factor.
STANDS_OUT = 3.0


class Pursued(NamedTuple):
    """Rows that explain a space.

    Attributes:
        rows: (u,) numbers of the dictionary's rows, in the order in which they were taken.
        is_exact: whether all directions are explained by fewer rows than could explain them by chance, none of which
            can be left out, or be another one.
    """

    rows: np.ndarray
    is_exact: bool


def pursue(dictionary: jax.Array, gradient: np.ndarray, noise: float) -> Pursued:
    """The rows of a dictionary of which a gradient's rows are combinations.

    Args:
        dictionary: (V, d) floating, on the device.
        gradient: (k, d) orthogonal rows, of the size that the gradient has along them.
        noise: standard deviation of an entry of ``gradient``.
    """
    precision = FORWARD_ROUNDING * float(jnp.finfo(dictionary.dtype).eps)
    noises = _Noises(noise, precision, STANDS_OUT * white_edge(noise, gradient.shape))
    taken, left = _Taken(dictionary), gradient.astype(np.float64)
    most = (sum(gradient.shape) - 1) // 2  # more are not the only ones that explain it
    while len(taken.rows) < most and len(space := _strong(left, noises.floor(gradient))):
        count = len(taken.rows)
        few = np.argsort(taken.shares(space))[: -CANDIDATES - 1 : -1]
        outer = taken.outside(few)
        for _ in range(TAKEN_AT_ONCE):
            places = _best(outer, space, noises)
            taken.add(few[places])
            outer = _off(outer, taken.basis)
            left = _off(left, taken.basis)
            space = _strong(left, noises.floor(gradient))
            if not len(space) or len(taken.rows) >= most:
                break
        if len(taken.rows) == count:
            break
    is_explained = not len(_strong(left, noises.floor(gradient)))
    rows = _needed(taken, gradient, noises)
    is_unique = 0 < 2 * len(rows) < sum(gradient.shape)
    return Pursued(rows, bool(is_explained and is_unique and _none_else(taken.dictionary, rows, gradient, noises)))


class _Noises(NamedTuple):
    """What is off in a gradient and in a dictionary.

    Attributes:
        entry: standard deviation of an entry of the gradient.
        relative: error of a row of the dictionary per its length.
        edge: singular value that noise of the gradient may have.
    """

    entry: float
    relative: float
    edge: float

    def floor(self, gradient: np.ndarray) -> float:
        """Size that a direction may have of noise alone."""
        return float(np.hypot(self.edge, self.relative * np.linalg.norm(gradient)))


def _strong(left: np.ndarray, floor: float) -> np.ndarray:
    """Orthogonal rows (k', d) of the size that is left along them, those above the noise."""
    _, sizes, directions = linalg.svd(left, full_matrices=False)
    return (sizes[:, None] * directions)[sizes > floor]


def _best(outer: np.ndarray, space: np.ndarray, noises: _Noises) -> np.ndarray:
    """Places of the rows to take next: all that lie in a space to rounding, else the one with the largest share in it.

    Args:
        outer: (c, d) what candidates add to the rows that were taken; zero for one that was taken itself.
        space: (k', d) what is left of the gradient.
        noises: of both.
    """
    sizes = np.linalg.norm(space, axis=1)
    directions = space / sizes[:, None]
    within = outer @ directions.T
    lengths = np.maximum(np.linalg.norm(outer, axis=1), np.sqrt(LEAST_LEFT) * np.linalg.norm(outer, axis=1).max())
    shares = np.sum(within**2, axis=1) / lengths**2
    off = np.linalg.norm(outer - within @ directions, axis=1)
    explained = noises.entry * np.sqrt(space.shape[1]) * np.linalg.norm(within / sizes, axis=1)
    misfit = np.where(shares > NEARLY_INSIDE, off / np.hypot(explained, noises.relative * lengths), np.inf)
    order = np.argsort(misfit)[: len(space)]
    inside = order[misfit[order] <= FITS]
    return inside if len(inside) else np.array([np.argmax(shares)])


def _off(rows: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """What rows have outside the span of orthonormal ones, twice orthogonalised."""
    for _ in range(2):
        rows = rows - (rows @ basis.T) @ basis
    return rows


def _needed(taken: _Taken, gradient: np.ndarray, noises: _Noises) -> np.ndarray:
    """The rows that were taken without those that can be left out, the least needed first."""
    rows = np.array(taken.rows, int)
    while len(rows):
        parts = _parts(taken.of(rows), gradient)[1]
        if parts.min() > noises.floor(gradient):
            break
        rows = np.delete(rows, np.argmin(parts))
    return rows


def _parts(atoms: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each atom the unit vector (u, d) that no other one reaches, and the size (u,) of the gradient along it."""
    duals = linalg.pinv(atoms).T
    own = duals / np.linalg.norm(duals, axis=1, keepdims=True)
    return own, np.linalg.norm(gradient @ own.T, axis=0)


def _none_else(dictionary: jax.Array, rows: np.ndarray, gradient: np.ndarray, noises: _Noises) -> bool:
    """Whether no other row of the dictionary could stand for one of the rows, to what noise leaves open.

    What is left of the gradient without all rows but one is one direction, known to its noise over its size. Another
    row fits it as well where so little of it lies outside all rows, for what lies along that direction.
    """
    atoms = np.asarray(dictionary[jnp.asarray(rows)], np.float64)
    own, parts = _parts(atoms, gradient)
    basis = linalg.qr(atoms.T)[0].T
    outside, along = (
        np.array(part)
        for part in _beside(dictionary, jnp.asarray(basis, dictionary.dtype), jnp.asarray(own, dictionary.dtype))
    )
    outside[rows] = np.inf
    outside[np.asarray(jnp.all(dictionary == 0, axis=1))] = np.inf  # nothing stands for a row that is zero
    uncertain = noises.floor(gradient) / parts
    return bool(np.all(outside[:, None] > FITS * uncertain * np.abs(along)))


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
        """What these rows have outside the span of the taken ones."""
        return _off(self.of(rows), self.basis)

    def add(self, rows: np.ndarray) -> None:
        """Take some rows; one that adds nothing to the others is left out."""
        for row in rows:
            (fresh,) = self.outside(np.array([row]))
            size = np.linalg.norm(fresh)
            if row in self.rows or size**2 <= LEAST_LEFT * np.sum(self.of(np.array([row])) ** 2):
                continue
            self.rows.append(int(row))
            self.basis = np.concatenate([self.basis, fresh[None] / size])
            direction = jnp.asarray(fresh / size, self.dictionary.dtype)
            self._outside = _without(self.dictionary, self._outside, direction)

    def shares(self, space: np.ndarray) -> np.ndarray:
        """(V,) share of what each row adds to the taken ones that lies in a space; 0 for one that adds nothing."""
        directions = space / np.linalg.norm(space, axis=1, keepdims=True)
        padded = np.pad(directions, ((0, filled(len(directions)) - len(directions)), (0, 0)))
        found = _shares(self.dictionary, self._outside, self._lengths, jnp.asarray(padded, self.dictionary.dtype))
        found = np.array(found)
        found[self.rows] = 0
        return found


@jax.jit
def _shares(dictionary: jax.Array, outside: jax.Array, lengths: jax.Array, directions: jax.Array) -> jax.Array:
    inside = jnp.sum(jnp.square(search_matmul(dictionary, directions.T)), axis=1)
    return jnp.where(outside > LEAST_LEFT * lengths, inside / outside, 0)


@jax.jit
def _without(dictionary: jax.Array, outside: jax.Array, direction: jax.Array) -> jax.Array:
    """What is left of each row's squared length when a direction is taken out."""
    return outside - jnp.square(search_matmul(dictionary, direction))


@jax.jit
def _beside(dictionary: jax.Array, basis: jax.Array, own: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Length (V,) of each row outside a span, and its part (V, u) along some directions."""
    outside = dictionary - search_matmul(search_matmul(dictionary, basis.T), basis)
    return jnp.sqrt(jnp.sum(jnp.square(outside), axis=1)), search_matmul(dictionary, own.T)
