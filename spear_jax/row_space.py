"""The row space of a gradient, and how far a vector is from it in units of the gradient's own noise.

``dL/dW = D^T X`` for a linear layer that read the rows of X, so these lie in the row space of its gradient. Families
whose inputs come from a finite set test them one by one against it (DAGER, Petrov et al. 2024, Sec. 4; GRAIN, Drencheva
et al. 2025, Sec. 4).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax import linalg
from spear_jax.factorization import factorize
from spear_jax.numerics import search_matmul

# What was there misses a row space by about its noise, up to three times that; what was not, thousands of times it.
FITS = 30.0
# Relative error of an input that is computed again, in units of the dtype's eps: two programs add in another order.
FORWARD_ROUNDING = 16.0


class Space(NamedTuple):
    """A row space in the dtype of the search; zero rows fill it up to one of a few sizes, so that programs serve many.

    Attributes:
        scale: (d,) by which entries of an input are multiplied first; ones where columns are as they came.
        basis: (k, d) orthonormal rows, from the strongest to the weakest.
        noise: (k,) by how much noise moves an input off the space per what the input has in each direction.
    """

    scale: jax.Array
    basis: jax.Array
    noise: jax.Array


class RowSpace(NamedTuple):
    """A row space, and the gradient along it.

    Attributes:
        space: for tests on the device.
        directions: (rank, d) float64 orthogonal rows, of the size that the gradient has along them, columns scaled.
        noise: root mean square of the noise of an entry of ``directions``.
    """

    space: Space
    directions: np.ndarray
    noise: float

    @property
    def rank(self) -> int:
        """Number of directions above the noise."""
        return len(self.directions)


def row_space(
    gradient: np.ndarray, dtype: np.dtype, *, rounding: float = 0.0, scale: np.ndarray | None = None
) -> RowSpace:
    """The row space of a gradient as far as it stands out of the noise.

    Args:
        gradient: (m, d) floating, columns already scaled.
        dtype: floating, that of the search.
        rounding: root mean square of the rounding error of an entry beyond that of the gradient's dtype.
        scale: (d,) that the columns were multiplied by, None for ones.

    Raises:
        SpearError: the gradient is zero everywhere.
    """
    factors = factorize(gradient, rounding=rounding)
    _, spectrum, basis = linalg.svd(np.asarray(factors.right), full_matrices=False)
    width, filling = gradient.shape[1], filled(factors.rank) - factors.rank
    noise = factors.noise_std * np.sqrt(max(width - factors.rank, 1)) / spectrum
    space = Space(
        jnp.asarray(np.ones(width) if scale is None else scale, dtype),
        jnp.asarray(np.pad(basis, ((0, filling), (0, 0))), dtype),
        jnp.asarray(np.pad(noise, (0, filling)), dtype),
    )
    return RowSpace(space, spectrum[:, None] * basis, factors.noise_std)


def with_direction(found: RowSpace, direction: np.ndarray) -> RowSpace:
    """The row space with one more direction that is known by other means, as noisy as its weakest one.

    Args:
        found: a row space.
        direction: (d,) orthogonal to it.
    """
    unit = direction / np.linalg.norm(direction)
    rank, dtype = found.rank, found.space.basis.dtype
    filling = filled(rank + 1) - rank - 1
    basis = np.concatenate([np.asarray(found.space.basis)[:rank], unit[None], np.zeros((filling, len(unit)))])
    noise = np.asarray(found.space.noise)[:rank]
    noise = np.concatenate([noise, noise.max(keepdims=True), np.zeros(filling)])
    weakest = np.linalg.norm(found.directions, axis=1).min()
    return RowSpace(
        Space(found.space.scale, jnp.asarray(basis, dtype), jnp.asarray(noise, dtype)),
        np.concatenate([found.directions, weakest * unit[None]]),
        found.noise,
    )


def misfit(space: Space, inputs: jax.Array) -> jax.Array:
    """How far inputs are from a row space, in units of what its noise explains: about 1 for what was there.

    To first order a true input ``x = w^T G`` is off by ``w^T N``, of size ``|w| sqrt(d - k)`` times the noise of an
    entry, and w is what x has in the directions over their singular values. A wrong one is off by a share of itself.

    Args:
        space: the row space.
        inputs: (..., d).

    Returns:
        (...), the ratio; infinity of inputs that are zero, which lie in every space.
    """
    inputs = inputs * jnp.broadcast_to(space.scale, inputs.shape)
    inside = search_matmul(inputs, space.basis.T)
    outside = inputs - search_matmul(inside, space.basis)
    length = lambda vectors: jnp.sqrt(jnp.sum(vectors**2, axis=-1))
    explained = length(inside * jnp.broadcast_to(space.noise, inside.shape))
    rounding = FORWARD_ROUNDING * float(jnp.finfo(inputs.dtype).eps) * length(inputs)
    allowed = jnp.sqrt(explained**2 + rounding**2)
    return jnp.where(allowed > 0, length(outside) / jnp.where(allowed > 0, allowed, 1), jnp.inf)


def misfit_of_any(space: Space, inputs: jax.Array) -> jax.Array:
    """As `misfit`, but 0 of inputs that are zero: they lie in every space, so that no gradient speaks against them.

    Args:
        space: the row space.
        inputs: (..., d).
    """
    return jnp.where(jnp.any(inputs != 0, axis=-1), misfit(space, inputs), jnp.zeros((), inputs.dtype))


def filled(count: int, least: int = 8) -> int:
    """Next of a few sizes, so that programs serve many: ``least`` times powers of two, and their three quarters."""
    size = least
    while size < count:
        size *= 2
    return size * 3 // 4 if count <= size * 3 // 4 else size
