"""The noise model, by which an entry counts as zero, and the choice of who computes in float64.

The observed gradient is ``G + N`` (rounding of the client's dtype, or noise added
on purpose). To first order the entry of ``left @ q`` in a row where the true column is zero is then ``N_k V S^-1 q``,
S being the singular values: of standard deviation ``sigma |S^-1 q|`` for independent entries of N, and at most
``|N| |S^-1 q|``. Nothing is a literal threshold on the data: sigma and ``|N|`` are what the factorisation leaves over.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from spear_jax import linalg
from spear_jax.types import Array, Factorization

EPS64 = float(np.finfo(np.float64).eps)

# A Gaussian exceeds 8 sigma once in 1e15 entries: a larger one is not zero.
ZERO_SIGMAS = 8.0
# Rounding of a float64 dot product of a few hundred terms, in units of eps times the row norm.
ROUNDING = 64.0
# Singular values below this multiple of the trailing ones are noise: these vary by up to (sqrt m + sqrt n) / sqrt n.
NOISE_MARGIN = 5.0
# A drop between rank and rank + 1 below this is no gap: the noise has swallowed the smallest samples.
MIN_GAP = 10.0
# The float32 search calls an entry zero below this share of a typical one (row normalised, unit direction). It is far
# above the rounding of float32 elimination and lets one generic entry in a thousand through; float64 decides later.
SEARCH_ZERO = 1e-3
# Two unit directions closer than this angle are one: true ones are farther apart, float32 noise moves them by less.
SAME_DIRECTION_ANGLE = 1e-3
# A new direction must stand out of the span of the others by this much to be called independent.
MIN_INDEPENDENT = 1e-6


def has_x64() -> bool:
    """Whether the process has 64-bit JAX arrays."""
    return bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]


def float64_namespace() -> ModuleType:
    """The stages' float64 arithmetic: ``jax.numpy`` on an accelerator under x64, else NumPy on the host.

    On the CPU both run the same LAPACK, and NumPy need not compile each new shape.
    """
    return jnp if has_x64() and jax.default_backend() != "cpu" else np


def float64_linalg() -> ModuleType:
    """The decompositions of `float64_namespace`; on the host those of `spear_jax.linalg`."""
    return jnp.linalg if float64_namespace() is jnp else linalg


def float64_backend() -> str:
    """``"jax"`` or ``"numpy"``: which of the two `float64_namespace` gives."""
    return "jax" if float64_namespace() is jnp else "numpy"


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of arrays under `jax.jit` where float64 is computed on an accelerator; as it is on the host."""
    jitted = jax.jit(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return (jitted if float64_namespace() is jnp else function)(*arguments)

    return call


def repeat(goes_on: Callable[[Any], Any], step: Callable[[Any], Any], state: Any) -> Any:
    """``state`` stepped while it goes on: one program inside a `compiled` function on an accelerator, else a loop."""
    if float64_namespace() is jnp:
        return jax.lax.while_loop(goes_on, step, state)
    while goes_on(state):
        state = step(state)
    return state


def in_bucket(count: int, bucket: int) -> np.ndarray:
    """Places 0 to ``count - 1``; again up to a power of two of ``bucket`` where programs are compiled: few shapes."""
    if count == 0 or float64_namespace() is np:
        return np.arange(count)
    return np.resize(np.arange(count), bucket * 2 ** max(0, math.ceil(math.log2(count / bucket))))


def to_float64(array: Any) -> Any:
    """The array in float64, in the namespace that `float64_namespace` gives."""
    xp = float64_namespace()
    return xp.asarray(array if xp is jnp else np.asarray(array), dtype=np.float64)


def search_matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """Matrix product at full float32 precision: TF32 would put 1e-3 where a zero is."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def noise_gain(factorization: Factorization, directions: Float[Array, "k r"]) -> Float[np.ndarray, " k"]:
    """``|S^-1 q|`` for unit directions: noise of ``left @ q`` per noise of the gradient's entries."""
    spectrum = np.asarray(factorization.singular_values[: factorization.rank])
    return np.linalg.norm(np.asarray(directions) / spectrum, axis=1)


def zero_tolerance(factorization: Factorization, directions: Float[Array, "k r"]) -> Float[np.ndarray, " k"]:
    """Largest magnitude at which an entry of ``left @ q`` counts as zero, for each direction q.

    Independent noise would stay below `ZERO_SIGMAS` of its standard deviation. Rounding of photos does not: flat
    regions round alike, which puts the noise along the leading singular vectors (up to 26 standard deviations seen).
    What it never exceeds is the noise's largest singular value. Between these two the tolerance is at the widest gap.
    """
    gain = noise_gain(factorization, directions)
    live = np.asarray(factorization.left)[np.asarray(factorization.live_mask)]
    rounding = ROUNDING * EPS64 * float(np.linalg.norm(live, axis=1).max(initial=0))
    lowest = ZERO_SIGMAS * factorization.noise_std * gain + rounding
    highest = np.maximum(factorization.noise_floor * gain + rounding, lowest)
    entries = np.sort(np.abs(live @ np.asarray(directions).T), axis=0)
    edges = np.clip(np.concatenate([lowest[None], entries, highest[None]]), lowest, highest)
    widest = np.argmax(np.diff(np.log(edges), axis=0), axis=0)
    pick = lambda place: np.take_along_axis(edges, place[None], axis=0)[0]
    return np.sqrt(pick(widest) * pick(widest + 1))


def zero_mask(factorization: Factorization, directions: Float[Array, "k r"]) -> Bool[np.ndarray, "m k"]:
    """Which entries of ``left @ directions.T`` are zero within `zero_tolerance`; dead rows are never counted."""
    entries = np.abs(np.asarray(factorization.left) @ np.asarray(directions).T)
    live = np.asarray(factorization.live_mask)[:, None]
    return (entries <= zero_tolerance(factorization, directions)) & live


def search_tolerance(factorization: Factorization) -> float:
    """Zero test of the float32 search on row-normalised ``left``: a share of a typical entry, or the noise's."""
    return float(max(SEARCH_ZERO / np.sqrt(factorization.rank), relative_noise(factorization)))


def relative_noise(factorization: Factorization) -> float:
    """Largest noise of an entry of ``left @ q`` for a unit q, the rows of ``left`` scaled to unit norm."""
    rank = factorization.rank
    row_norm = np.sqrt(rank / max(int(np.sum(np.asarray(factorization.live_mask))), 1))
    return factorization.noise_floor / float(factorization.singular_values[rank - 1]) / float(row_norm)


def canonical_sign(directions: Float[np.ndarray, "k r"]) -> Float[np.ndarray, "k r"]:
    """The directions with the sign that makes the entry of largest magnitude positive."""
    peak = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    return directions * np.where(peak < 0, -1.0, 1.0)


def in_float64(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function`` of arrays, traced and run in float64 whether the process has it or not; results on the host."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, function(*arguments))
