"""Samples that are known, and the smaller problem that they leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from spear_jax import linalg
from spear_jax.attacks.dense.roots.equations import Equations
from spear_jax.attacks.dense.roots.stack import Stack

# Sizes of the compiled programs: each is this share of the next larger one, and a multiple of the unit.
SHRINK, UNIT = 0.5, 16
# Points nearer to one another than this share of their norm are one.
SAME = 1e-3
# Neurons for each unknown that the search looks at where the layer has more: enough, and cheaper.
NEURONS = 4


class Found(NamedTuple):
    """Samples that are known, and the vectors that take them out.

    Attributes:
        points: (k, r) p.
        duals: (k, r) q with ``p_i . q_j = delta_ij``, along ``L^T d / spectrum``.
        next_duals: (k, s) the same of each view, side by side; of the next layer's gradient where none is a view.
        outside: (k,) share of the gradients that lies outside the column spaces.
        expected: (k,) what noise puts there.
    """

    points: Float[np.ndarray, "k r"]
    duals: Float[np.ndarray, "k r"]
    next_duals: Float[np.ndarray, "k s"]
    outside: Float[np.ndarray, " k"]
    expected: Float[np.ndarray, " k"]


class Rest(NamedTuple):
    """The smaller problem that known samples leave: ``p = origin + u @ basis^T``.

    Attributes:
        equations: in u, padded with zeros to a bucket; NumPy arrays in float64.
        origin: (r,).
        basis: (r, q).
    """

    equations: Equations
    origin: Float[np.ndarray, " r"]
    basis: Float[np.ndarray, "r q"]


def none_found(stack: Stack) -> Found:
    """Nothing is known yet."""
    points, seen = np.zeros((0, stack.rank)), np.zeros((0, stack.seen_ranks))
    return Found(points, points, seen, np.zeros(0), np.zeros(0))


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
    return linalg.qr(rows.T, mode="complete")[0][:, len(rows) :]


def rest_of(stack: Stack, found: Found, rng: np.random.Generator | None = None) -> Rest:
    """What is left without known samples.

    Missing points are orthogonal to the known duals, what the layers above saw of them to theirs; all follow from the
    original gradients, so nothing drifts however many are taken out (docs/span.md, Sec. 2).

    Args:
        stack: of the layers.
        found: the known samples.
        rng: to choose neurons with, where the layer has more than the search needs; None for all.
    """
    origin, basis = _plane(stack, found)
    bucket = _bucket(stack.rank - stack.has_total, basis.shape[1])
    seen = _missing_rows(stack, found)
    spare = [len(upper.spectrum) - stack.rank for upper in stack.viewing] or [0]
    heights = [bucket + stack.has_total + more for more in spare]
    whole: Any = stack.whole
    response, bias = whole.response.T, whole.bias
    enough = NEURONS * heights[0] + UNIT
    if rng is not None and stack.views == 1 and stack.between is None and enough < len(bias):
        neurons = np.sort(rng.permutation(len(bias))[:enough])
        seen = [linalg.qr(seen[0][:, np.append(neurons, len(bias))].T)[0].T]
        response, bias = response[neurons], bias[neurons]
    padded = [_padded(part, height) for part, height in zip(seen, heights, strict=True)]
    changed: dict[str, Any] = dict(
        response=_padded((response @ basis).T, bucket + len(whole.back)),
        bias=bias + response @ origin,
        across=_padded(basis.T @ whole.across, bucket + len(whole.back)),
        start=whole.start + origin @ whole.across,
        weights=whole.weights[: max(stack.views - 1, 0)],
        biases=whole.biases[: max(stack.views - 1, 0)],
        seen=tuple(part[:, :-1] for part in padded),
        ones=tuple(part[:, -1] for part in padded),
        widths=whole.widths[: max(stack.views, 1)],
    )
    return Rest(whole._replace(**changed), origin, basis)


def _plane(stack: Stack, found: Found) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, "r q"]]:
    """Where the missing points are: what the known duals and the bias gradient leave."""
    free = null_space(found.duals[: len(found.points) * stack.takes_out])
    if not stack.has_total:
        return np.zeros(stack.rank), free
    along = free.T @ stack.total
    return free @ along / (along @ along), free @ null_space(along[None])


def _missing_rows(stack: Stack, found: Found) -> list[np.ndarray]:
    """Per view, orthonormal rows that span what it saw of the missing samples, or else the gradients of these."""
    if stack.mixes:
        free = null_space(found.points) * stack.problem.spectrum[:, None]
        rows = linalg.qr(stack.problem.left @ free)[0].T
        return [np.append(rows, np.zeros((len(rows), 1)), axis=1)]
    sizes = np.cumsum([len(upper.spectrum) for upper in stack.viewing])[:-1]
    known = np.split(found.next_duals[: len(found.points) * stack.takes_out], sizes, axis=1)
    return [null_space(part).T @ upper.seen for part, upper in zip(known, stack.viewing, strict=True)]


def _padded(rows: Float[np.ndarray, "k w"], height: int) -> Float[np.ndarray, "h w"]:
    """Rows with rows of zeros below."""
    padded = np.zeros((height, rows.shape[1]))
    padded[: len(rows)] = rows
    return padded


def _bucket(most: int, dimensions: int) -> int:
    """Size of the smallest program that holds so many dimensions."""
    size = max(UNIT, -(-most // UNIT) * UNIT)
    while (smaller := max(UNIT, -(-int(SHRINK * size) // UNIT) * UNIT)) < size and smaller >= dimensions:
        size = smaller
    return size
