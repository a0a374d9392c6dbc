"""The span equations as data: what the layers above see of an input, and the row spaces that it must lie in.

A point u gives pre-activations ``z = u @ response + bias``; the layers above see ``y1 = act(z)``, or what a map of the
user makes of it, ``y2 = act(W2 y1 + b2)`` and so on. Of the first few of these, ``[y, 1]`` lies in the span of the rows
of a matrix that the gradient gives (docs/span.md, Sec. 1, *row* and *deep*). Where the layer above has too few outputs
for that, the sample's own gradient ``act'(z) o (c @ back)`` must lie in the column space of the layer's, with the
mixture c unknown too (*col*): then the last dimensions of a point are c, and that vector is the only view.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from spear_jax.activations import activate, derivative
from spear_jax.numerics import search_matmul

# Steps of inverse iteration: the wanted vector's value is the noise's, the next one a share of one.
INVERSE_STEPS = 4


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class UserMap:
    """A user's map in place of the first activation, a part of the program, not of its arguments.

    Attributes:
        seen: from the pre-activations (m,) and the input (n,) of one sample to what the next dense layer sees, (m2,).
    """

    seen: Callable[[jax.Array, jax.Array], jax.Array]


class Equations(NamedTuple):
    """What is seen of a point, in float32 for the search and in float64 around a root.

    Attributes:
        response: (q, m) from u to pre-activations.
        bias: (m,) pre-activations at u = 0.
        across: (q, n) from u to inputs; (q, 0) where nothing but the layer itself reads them.
        start: (n,) the input at u = 0, or (0,).
        weights: kernels (m_k+1, m_k) of the layers above that follow one another, lowest first.
        biases: theirs.
        seen: per view (k, m_k), with `ones` orthonormal rows, or zero.
        ones: per view (k,) the column of the constant.
        constants: per view () 1, or 0 where that layer has no bias gradient.
        balance: per view () what it is multiplied by, so that all have one size.
        widths: per layer () width of its kinks in units of the first one's.
        slope: () of the activation.
        kind: () of the activation.
        back: (c, m) the layer's gradients, but for the derivative, that c mixes; (0, m) where rows are views.
        between: in place of the first activation; None for that itself.
    """

    response: Float[Array, "q m"]
    bias: Float[Array, " m"]
    across: Float[Array, "q n"]
    start: Float[Array, " n"]
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    seen: tuple[Array, ...]
    ones: tuple[Array, ...]
    constants: tuple[Array, ...]
    balance: tuple[Array, ...]
    widths: tuple[Array, ...]
    slope: Float[Array, ""]
    kind: Int[Array, ""]
    back: Float[Array, "c m"]
    between: UserMap | None = None


def in_dtype(equations: Equations, dtype: Any) -> Equations:
    """The equations as device arrays of this dtype."""
    cast = lambda leaf: jnp.asarray(leaf, jnp.int32 if leaf.dtype == jnp.int32 else dtype)
    return jax.tree.map(cast, equations)


def placed(equations: Equations, place: Float[Array, "l q"]) -> tuple[Float[Array, "l m"], Float[Array, "l n"]]:
    """Pre-activations and inputs of points."""
    z = search_matmul(place, equations.response) + equations.bias[None]
    return z, search_matmul(place, equations.across) + equations.start[None]


def first_seen(equations: Equations, z: Float[Array, "l m"], x: Float[Array, "l n"], width: Float[Array, " l"]) -> Any:
    """(l, m2) what the next dense layer sees."""
    if equations.between is not None:
        return jax.vmap(equations.between.seen)(z, x).astype(z.dtype)  # constants of the map may be wider
    return activate(z, equations.kind, equations.slope, width)


def seen_above(
    equations: Equations, z: Float[Array, "l m"], x: Float[Array, "l n"], width: Float[Array, " l"]
) -> tuple[jax.Array, ...]:
    """Per view (l, m_k), what that layer sees.

    Args:
        equations: of the layers.
        z: pre-activations of the first.
        x: its inputs.
        width: of the kinks, 0 for the activation itself.
    """
    seen = [first_seen(equations, z, x, width)]
    for weight, bias, unit in zip(equations.weights, equations.biases, equations.widths[1:], strict=False):
        if len(seen) == len(equations.seen):
            break
        z = search_matmul(seen[-1], weight.T) + bias[None]
        seen.append(activate(z, equations.kind, equations.slope, unit * width))
    return tuple(seen)


def views(equations: Equations, place: Float[Array, "l q"], width: Float[Array, " l"]) -> tuple[jax.Array, ...]:
    """Per view (l, m_k), what that layer sees of points, balanced; or the samples' own gradients."""
    mixed = len(equations.back)
    if mixed:
        z, _ = placed(equations, place)
        slopes = derivative(z, equations.kind, equations.slope, width)
        return (slopes * search_matmul(place[:, -mixed:], equations.back),)
    seen = seen_above(equations, *placed(equations, place), width)
    return tuple(part * size for part, size in zip(seen, equations.balance, strict=True))


def with_mixture(equations: Equations, place: Float[Array, "l q"], width: Float[Array, " l"]) -> Float[Array, "l q"]:
    """Points with the mixture, where there is one, whose gradient lies in the column space best, of unit length."""
    mixed = len(equations.back)
    if not mixed:
        return place
    slopes = derivative(placed(equations, place)[0], equations.kind, equations.slope, width)

    def one(slopes: jax.Array) -> jax.Array:
        columns = slopes[:, None] * equations.back.T
        return best_mixture([columns], [search_matmul(equations.seen[0], columns)])

    return place.at[:, -mixed:].set(jax.vmap(one)(slopes))


def best_mixture(columns: list[jax.Array], within: list[jax.Array]) -> Float[Array, " c"]:
    """The mixture of columns that lies in the column spaces best, by inverse iteration.

    Args:
        columns: per layer (m, c) that the gradient is a mixture of.
        within: per layer (r, c) what of them lies in its column space.
    """
    size, off = (jnp.zeros([columns[0].shape[1]] * 2, columns[0].dtype) for _ in range(2))
    for whole, inner in zip(columns, within, strict=True):
        gram = search_matmul(whole.T, whole)
        unit = jnp.trace(gram)
        size, off = size + gram / unit, off + (gram - search_matmul(inner.T, inner)) / unit
    # Of the wanted vector nothing but rounding is left, which may be exactly zero.
    eps = jnp.finfo(off.dtype).eps
    floor = 64 * eps * jnp.maximum(jnp.trace(off), eps * jnp.trace(size)) / len(off)
    factors = jax.scipy.linalg.lu_factor(off + floor * jnp.eye(len(off), dtype=off.dtype))

    def nearer(_: jax.Array, mixture: jax.Array) -> jax.Array:
        mixture = jax.scipy.linalg.lu_solve(factors, size @ mixture)
        return mixture / jnp.sqrt(mixture @ size @ mixture)

    start = jax.random.normal(jax.random.key(0), (len(off),), off.dtype)
    mixture = jax.lax.fori_loop(0, INVERSE_STEPS, nearer, start)
    return mixture / jnp.linalg.norm(columns[0] @ mixture)
