"""How fast candidates are drawn and judged, against the obvious ways to find null vectors, in one process.

Compilation is timed apart, results are waited for, and every figure is a median over repeats on the same candidates.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from spear_jax import sampling
from spear_jax.numerics import SEARCH_ZERO, search_matmul

BASELINE_CHUNK = 512


class Rate(NamedTuple):
    """Throughput of one way to judge candidates.

    Attributes:
        name: of the way.
        candidates_per_second: from the median time.
        compile_seconds: of its program.
        seconds: median of the repeats.
        repeats: their number.
    """

    name: str
    candidates_per_second: float
    compile_seconds: float
    seconds: float
    repeats: int


def svd_null_vector(rows: Float[jax.Array, "k r"]) -> Float[jax.Array, " r"]:
    """Last right singular vector."""
    return jnp.linalg.svd(rows, full_matrices=True)[2][-1]


def lu_null_vector(rows: Float[jax.Array, "k r"]) -> Float[jax.Array, " r"]:
    """Solve for the last entry set to one, by batched LU without regard to its conditioning."""
    head = jnp.linalg.solve(rows[:, :-1], -rows[:, -1:])[:, 0]
    vector = jnp.concatenate([head, jnp.ones_like(rows, shape=(1,))])
    return vector / jnp.linalg.norm(vector)


BASELINES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "svd": svd_null_vector,
    "lu": lu_null_vector,
    "qr": sampling.null_vector_qr,
}


def bench_sampling(
    out_features: int, rank: int, *, chunk_size: int = 2048, num_chunks: int = 8, repeats: int = 5, seed: int = 0
) -> list[Rate]:
    """Rates of the flat kernel and of the baselines, each drawing rows and counting all zeros.

    Args:
        out_features: m, rows of a random orthonormal ``left``.
        rank: r, its columns.
        chunk_size: candidates at once in the flat kernel; the baselines take `BASELINE_CHUNK`.
        num_chunks: chunks in one timed run of the flat kernel.
        repeats: timed runs, after one that is not.
        seed: of ``left`` and of the candidates.
    """
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((out_features, rank)))[0]
    left = jnp.asarray(left / np.linalg.norm(left, axis=1, keepdims=True), jnp.float32)
    key, tolerance = jax.random.key(seed), jnp.float32(SEARCH_ZERO / np.sqrt(rank))

    def flat(left: jax.Array, first: jax.Array) -> Any:
        return sampling.search_range(
            left, key, first, jnp.int32(0), jnp.int32(chunk_size * num_chunks), tolerance, jnp.int32(rank + 8),
            num_chunks=num_chunks, chunk_size=chunk_size, capacity=64,
        )  # fmt: skip

    rates = [_time("flat", flat, left, chunk_size * num_chunks, repeats)]
    for name, null_vector in BASELINES.items():
        rates.append(_time(name, _baseline(null_vector, key, tolerance), left, BASELINE_CHUNK, repeats))
    return rates


def _baseline(
    null_vector: Callable[[jax.Array], jax.Array], key: jax.Array, tolerance: jax.Array
) -> Callable[..., Any]:
    """Draw, solve by a batched library call, count all zeros."""

    def one(left: jax.Array, index: jax.Array) -> jax.Array:
        rows = sampling.candidate_rows(key, index, left.shape[0], left.shape[1] - 1)
        return null_vector(left[rows])

    def run(left: jax.Array, first: jax.Array) -> jax.Array:
        index = first + jnp.arange(BASELINE_CHUNK, dtype=jnp.uint32)
        directions = jax.vmap(one, in_axes=(None, 0), out_axes=1)(left, index)
        return jnp.sum(jnp.abs(search_matmul(left, directions)) < tolerance, axis=0, dtype=jnp.int32)

    return run


def _time(name: str, function: Callable[..., Any], left: jax.Array, candidates: int, repeats: int) -> Rate:
    started = time.perf_counter()
    program = jax.jit(function).lower(left, jnp.uint32(0)).compile()
    compile_seconds = time.perf_counter() - started
    jax.block_until_ready(program(left, jnp.uint32(0)))
    seconds = []
    for repeat in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(program(left, jnp.uint32((repeat + 1) * candidates)))
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    return Rate(name, candidates / median, compile_seconds, median, repeats)
