"""Two observed layers in the coordinates of their gradients: the span equations, and what is left of them.

With ``G = left diag(spectrum) right`` an input of the layer is ``x = right^T p``; with the next layer's kernel and bias
gradient side by side, ``[G2 | g2] = next_left diag(next_spectrum) seen``, what that layer saw of the sample,
``[act(z); 1]``, lies in the span of the rows of ``seen`` (docs/span.md, Sec. 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from spear_jax.activations import Activation
from spear_jax.attacks.dense.problem import Problem
from spear_jax.attacks.dense.roots.newton import Equations
from spear_jax.factorization import factorize
from spear_jax.numerics import MIN_GAP
from spear_jax.observation import LayerObservation

# Rounding of a client's forward pass, in units of its dtype, and of this side's float64 arithmetic.
FORWARD_ROUNDING, OWN_ROUNDING = 2.5, 1e-13
# Sizes of the compiled programs: each is this share of the next larger one, and a multiple of the unit.
SHRINK, UNIT = 0.5, 16
# Points nearer to one another than this share of their norm are one.
SAME = 1e-3
# Neurons for each unknown that the search looks at where the layer has more: enough, and cheaper.
NEURONS = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """A layer and the next one, float64 on the host; inputs are ``x = (p / spectrum) @ problem.factorization.right``.

    Attributes:
        left: (m, r) orthonormal basis of the column space of G.
        spectrum: (r,) its singular values.
        total: (r,) ``t`` with ``t . p = 1`` for every sample; None without a bias gradient.
        response: (m, r) ``weight @ right^T``, rows of ``right`` of unit length.
        bias: (m,) of the layer.
        weight_norms: (m,) of the layer's rows.
        seen: (r2, m + 1) orthonormal basis of the row space of ``[G2 | g2]``.
        next_left: (j, r2) of its column space.
        next_spectrum: (r2,) its singular values.
        next_weight: (j, m) kernel of the next layer.
        noise, next_noise: root mean squares of an entry's noise.
        rounding: error of the activations relative to their size.
        activation: between the layers.
    """

    left: Float[np.ndarray, "m r"]
    spectrum: Float[np.ndarray, " r"]
    total: Float[np.ndarray, " r"]
    response: Float[np.ndarray, "m r"]
    bias: Float[np.ndarray, " m"]
    weight_norms: Float[np.ndarray, " m"]
    seen: Float[np.ndarray, "r2 w"]
    next_left: Float[np.ndarray, "j r2"]
    next_spectrum: Float[np.ndarray, " r2"]
    next_weight: Float[np.ndarray, "j m"]
    noise: float
    next_noise: float
    rounding: float
    activation: Activation

    @property
    def rank(self) -> int:
        """r, samples that the gradient shows."""
        return len(self.spectrum)

    @property
    def surplus(self) -> int:
        """Equations of the row space beyond the unknowns."""
        return len(self.bias) + 2 - len(self.next_spectrum) - self.rank

    @cached_property
    def sides(self) -> dict[str, np.ndarray]:
        """All that a float64 program needs of the two layers, by name; ``back`` turns ``c`` into ``W2^T d2``."""
        names = ("response", "bias", "seen", "slope", "total", "left", "spectrum", "next_spectrum", "weight_norms")
        sizes = np.asarray([self.noise, self.next_noise, self.rounding])
        back = self.next_weight.T @ self.next_left
        return {name: getattr(self, name) for name in names} | {
            "back": back, "sizes": sizes, "kind": np.asarray(self.activation.kind, np.int32),
        }  # fmt: skip

    @cached_property
    def whole(self) -> Rest:
        """The equations of all neurons, with no sample taken out."""
        return rest_of(self, none_found(self))

    @property
    def slope(self) -> Float[np.ndarray, " m"]:
        """(m,) slope of the activation for negative pre-activations."""
        return np.full(len(self.bias), self.activation.slope)


class Found(NamedTuple):
    """Samples that are known, and the vectors that take them out.

    Attributes:
        points: (k, r) p.
        duals: (k, r) q with ``p_i . q_j = delta_ij``, along ``L^T d / spectrum``.
        next_duals: (k, r2) the same of the next layer.
        outside: (k,) share of each ``d`` that lies outside the column space.
    """

    points: Float[np.ndarray, "k r"]
    duals: Float[np.ndarray, "k r"]
    next_duals: Float[np.ndarray, "k r2"]
    outside: Float[np.ndarray, " k"]


class Rest(NamedTuple):
    """The smaller problem that known samples leave: ``p = origin + basis @ u``.

    Attributes:
        equations: in u, padded with zeros to a bucket; NumPy arrays in float64.
        origin: (r,).
        basis: (r, q).
    """

    equations: Equations
    origin: Float[np.ndarray, " r"]
    basis: Float[np.ndarray, "r q"]


def pose_pair(problem: Problem, following: LayerObservation, activation: Activation) -> Pair | None:
    """The equations of a layer and the next one; None where they leave nothing to solve.

    Args:
        problem: of the layer.
        following: the next layer, as observed.
        activation: between the two.
    """
    gradient = np.column_stack([np.asarray(following.weight_grad), np.asarray(following.bias_grad)])
    found = factorize(gradient, rounding=following.rounding)
    if (found.is_full or found.gap < MIN_GAP) and problem.rank < min(gradient.shape):
        # Where noise hides the gap the samples are those that this layer shows, as it has the longer rows.
        found = factorize(gradient, rank=problem.rank, rounding=following.rounding)
    rank, spectrum = found.rank, np.asarray(found.singular_values)
    if rank < problem.rank or rank >= min(gradient.shape):
        return None
    pair = Pair(
        left=problem.left,
        spectrum=problem.spectrum,
        total=problem.left.T @ problem.bias_grad / problem.spectrum,
        response=problem.response / problem.spectrum,
        bias=problem.bias,
        weight_norms=problem.weight_norms,
        seen=np.asarray(found.right) / spectrum[:rank, None],
        next_left=np.asarray(found.left),
        next_spectrum=spectrum[:rank],
        next_weight=np.asarray(following.weight, np.float64),
        noise=problem.factorization.noise_std,
        next_noise=found.noise_std,
        rounding=max(FORWARD_ROUNDING * problem.client_eps, OWN_ROUNDING),
        activation=activation,
    )
    return pair if pair.surplus > 0 else None


def none_found(pair: Pair) -> Found:
    """Nothing is known yet."""
    rank, after = pair.rank, len(pair.next_spectrum)
    return Found(np.zeros((0, rank)), np.zeros((0, rank)), np.zeros((0, after)), np.zeros(0))


def joined(first: Found, second: Found) -> Found:
    """Both, one after the other."""
    return Found(*(np.concatenate(parts) for parts in zip(first, second, strict=True)))


def united(several: Sequence[Found]) -> Found:
    """All that several searches found, each sample once."""
    every = several[0]
    for other in several[1:]:
        is_new = [place for place, point in enumerate(other.points) if not _is_among(point, every.points)]
        every = joined(every, Found(*(part[is_new] for part in other)))
    return every


def distinct(points: Float[np.ndarray, "k r"], known: Float[np.ndarray, "j r"]) -> Float[np.ndarray, "l r"]:
    """The points that are not among the known ones, the first of each that come twice."""
    kept = known
    for point in points:
        if not _is_among(point, kept):
            kept = np.concatenate([kept, point[None]])
    return kept[len(known) :]


def _is_among(point: Float[np.ndarray, " r"], points: Float[np.ndarray, "k r"]) -> bool:
    return bool(np.any(np.linalg.norm(points - point, axis=1) <= SAME * np.linalg.norm(point)))


def null_space(rows: Float[np.ndarray, "k r"]) -> Float[np.ndarray, "r r-k"]:
    """Orthonormal basis of what is orthogonal to all rows."""
    if len(rows) == 0:
        return np.eye(rows.shape[1])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.linalg.qr(rows.T, mode="complete")[0][:, len(rows) :]


def rest_of(pair: Pair, found: Found, rng: np.random.Generator | None = None) -> Rest:
    """What is left without known samples.

    Missing points are orthogonal to the known duals, what the next layer saw of them to its known ones; both follow
    from the original gradients, so nothing drifts however many are taken out (docs/span.md, Sec. 2).

    Args:
        pair: of the two layers.
        found: the known samples.
        rng: to choose neurons with, where the layer has more than the search needs; None for all.
    """
    free = null_space(found.duals)
    along = free.T @ pair.total
    origin = free @ along / (along @ along)
    basis = free @ null_space(along[None])
    bucket = _bucket(pair.rank - 1, basis.shape[1])
    rows = bucket + 1 + len(pair.next_spectrum) - pair.rank
    seen = null_space(found.next_duals).T @ pair.seen
    neurons = np.arange(len(pair.bias))
    if rng is not None and NEURONS * rows + UNIT < len(neurons):
        neurons = np.sort(rng.permutation(len(neurons))[: NEURONS * rows + UNIT])
        seen = np.linalg.qr(seen[:, np.append(neurons, len(pair.bias))].T)[0].T
    response = np.zeros((bucket, len(neurons)))
    response[: basis.shape[1]] = (pair.response[neurons] @ basis).T
    padded = np.zeros((rows, len(neurons) + 1))
    padded[: len(seen)] = seen
    bias = pair.bias[neurons] + pair.response[neurons] @ origin
    leaves: Any = (response, bias, padded[:, :-1], padded[:, -1], pair.slope[neurons], np.int32(pair.activation.kind))
    return Rest(Equations(*leaves), origin, basis)


def _bucket(most: int, dimensions: int) -> int:
    """Size of the smallest program that holds so many dimensions."""
    size = max(UNIT, -(-most // UNIT) * UNIT)
    while (smaller := max(UNIT, -(-int(SHRINK * size) // UNIT) * UNIT)) < size and smaller >= dimensions:
        size = smaller
    return size


def in_dtype(equations: Equations, dtype: type) -> Equations:
    """The equations as device arrays of this dtype."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.int32 if leaf.dtype == np.int32 else dtype), equations)
