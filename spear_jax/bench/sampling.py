"""How fast candidates are drawn and judged, against the obvious ways to find null vectors, in one process.

Compilation is timed apart, results are waited for, and every figure is a median over repeats. The problem is planted,
so that the finds of a walk can be counted; shares are given of this very device's rate of float32 matrix products.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from spear_jax.attacks.dense.directions.null_vectors import null_vectors_float64
from spear_jax.attacks.dense.sampling import cost, flat, samplers
from spear_jax.attacks.dense.sampling.walk import CHECK_ROWS, TESTED_ROWS
from spear_jax.config import ReconstructConfig
from spear_jax.numerics import SEARCH_ZERO, search_matmul

BASELINE_CHUNK, FLAT_ROUND = 512, 2**17
WALK_CHAINS, WALK_THRESHOLD = 2**12, 2
GEMM_SIZE, COPY_ENTRIES = 2048, 2**25
# An entry of ``left @ q`` below this is zero for a null vector in float64.
EXACT_ZERO = 1e-9


class Rate(NamedTuple):
    """Throughput of one way to judge candidates.

    Attributes:
        name: of the way.
        candidates_per_second: from the median time.
        effective_per_second: independent candidates that these are worth, per second.
        operations: float32 operations for one candidate, on paper; comparisons of 16 bits count half.
        compile_seconds: of its program.
        seconds: median of the repeats.
        repeats: their number.
        finds: pairs of a chain and a true direction that a walk found in all repeats, what its effective rate is
            counted from; few mean an uncertain rate. None for ways whose candidates are independent.
    """

    name: str
    candidates_per_second: float
    effective_per_second: float
    operations: float
    compile_seconds: float
    seconds: float
    repeats: int
    finds: int | None = None


class Peak(NamedTuple):
    """What the device does at best.

    Attributes:
        flops: operations per second of a float32 matrix product.
        bytes_per_second: read and written by a copy that fits no cache.
    """

    flops: float
    bytes_per_second: float


class Problem(NamedTuple):
    """What is drawn from.

    Attributes:
        left: (m, r) float64 rows of unit norm.
        directions: (r, r) the true directions, one a column.
        per_candidate: expected finds of one independent candidate.
    """

    left: Float[np.ndarray, "m r"]
    directions: Float[np.ndarray, "r r"]
    per_candidate: float


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
    "qr": flat.null_vector_qr,
}


def bench_sampling(
    out_features: int, rank: int, *, chunk_size: int | None = None, repeats: int = 5, seed: int = 0
) -> list[Rate]:
    """Rates of the pivot walk, of the flat kernel and of the baselines, which draw rows and count all zeros.

    Args:
        out_features: m, rows of a planted problem.
        rank: r, its columns; the walk is left out where m < r + `CHECK_ROWS` or r < 3.
        chunk_size: candidates at once in the flat kernel, None for its own choice; the baselines take
            `BASELINE_CHUNK`.
        repeats: timed runs, after one that is not.
        seed: of the problem and of the candidates.
    """
    problem = plant(out_features, rank, seed)
    left = jnp.asarray(problem.left, jnp.float32)
    key, tolerance = jax.random.key(seed), SEARCH_ZERO / np.sqrt(rank)
    rates = [_time_walk(problem, key, repeats)] if rank > 2 and out_features >= rank + CHECK_ROWS else []
    operations = 2 / 3 * rank**3 + 2 * out_features * rank
    rates.append(_time_flat(problem, key, tolerance, chunk_size, operations, repeats))
    for name, null_vector in BASELINES.items():
        program = _baseline(null_vector, key, jnp.float32(tolerance))
        rates.append(_time(name, program, left, BASELINE_CHUNK, operations, repeats))
    return rates


def plant(out_features: int, rank: int, seed: int) -> Problem:
    """Columns of Gaussian entries, each zero with probability one half, and an orthonormal basis of their span."""
    rng = np.random.default_rng(seed)
    grad_z = rng.standard_normal((out_features, rank)) * (rng.random((out_features, rank)) < 0.5)
    left = np.linalg.svd(grad_z, full_matrices=False)[0]
    directions = left.T @ grad_z
    zeros = np.sum(grad_z == 0, axis=0)
    norm = np.linalg.norm(left, axis=1, keepdims=True)
    per_candidate = float(cost.hit_probability(zeros, out_features, rank).sum())
    return Problem(left / np.where(norm > 0, norm, 1), directions / np.linalg.norm(directions, axis=0), per_candidate)


def measure_peak(repeats: int = 5) -> Peak:
    """Rate of a large matrix product and of a large copy, from the median time."""
    square = jnp.ones((GEMM_SIZE, GEMM_SIZE), jnp.float32)
    long = jnp.ones((COPY_ENTRIES,), jnp.float32)
    product = _median_seconds(jax.jit(search_matmul), (square, square), repeats)
    copying = _median_seconds(jax.jit(lambda array: array + 1), (long,), repeats)
    return Peak(2 * GEMM_SIZE**3 / product, 2 * 4 * COPY_ENTRIES / copying)


def walk_operations(rank: int) -> float:
    """Operations of one step of a walk for each pair that it tries: update, quotients, comparisons."""
    update = 2 * CHECK_ROWS * rank
    quotients = 3 * TESTED_ROWS * (rank + rank // 2)
    comparisons = 3 * TESTED_ROWS * rank * (rank // 2) / 2
    return (update + quotients + comparisons) / (rank * (rank - 1) / 2)


def _time_walk(problem: Problem, key: jax.Array, repeats: int) -> Rate:
    """Whole rounds, what the host does with their hits included; finds are hits of different rounds or directions."""
    rank = problem.left.shape[1]
    size = WALK_CHAINS * samplers.candidates_per_chain(rank)
    sampler = samplers.walk_sampler(problem.left, key, WALK_THRESHOLD, size, ReconstructConfig(hits_capacity=2**14))
    sampler.draw(0, size, 0)()
    seconds, finds = [], 0
    for number in range(1, repeats + 1):
        started = time.perf_counter()
        drawn = sampler.draw(number, size, 0)()
        seconds.append(time.perf_counter() - started)
        finds += _distinct(problem, drawn.rows, drawn.chains)
    median = statistics.median(seconds)
    effective = finds / repeats / problem.per_candidate if problem.per_candidate else 0.0
    return Rate(
        "walk", size / median, effective / median, walk_operations(rank), sampler.compile_seconds, median, repeats,
        finds,
    )  # fmt: skip


def _time_flat(
    problem: Problem, key: jax.Array, tolerance: float, chunk_size: int | None, operations: float, repeats: int
) -> Rate:
    """Whole rounds of the flat kernel."""
    config = ReconstructConfig(chunk_size=chunk_size, hits_capacity=64)
    sampler = samplers.flat_sampler(problem.left, key, tolerance, FLAT_ROUND, config)
    threshold, numbers = problem.left.shape[1] + 8, itertools.count()
    seconds = _median_seconds(lambda: sampler.draw(next(numbers), FLAT_ROUND, threshold)().count, (), repeats)
    rate = FLAT_ROUND / seconds
    return Rate("flat", rate, rate, operations, sampler.compile_seconds, seconds, repeats)


def _distinct(problem: Problem, rows: Int[np.ndarray, "hits k"], chains: Int[np.ndarray, " hits"]) -> int:
    """Pairs of a chain and a true direction that it found."""
    vectors = null_vectors_float64(problem.left[rows])
    likeness = np.abs(vectors @ problem.directions)
    is_true = likeness.max(axis=1, initial=0) > 1 - EXACT_ZERO
    return len(set(zip(chains[is_true], likeness[is_true].argmax(axis=1), strict=True)))


def _baseline(
    null_vector: Callable[[jax.Array], jax.Array], key: jax.Array, tolerance: jax.Array
) -> Callable[..., Any]:
    """Draw, solve by a batched library call, count all zeros."""

    def one(left: jax.Array, index: jax.Array) -> jax.Array:
        rows = flat.candidate_rows(key, index, left.shape[0], left.shape[1] - 1)
        return null_vector(left[rows])

    def run(left: jax.Array, first: jax.Array) -> jax.Array:
        index = first + jnp.arange(BASELINE_CHUNK, dtype=jnp.uint32)
        directions = jax.vmap(one, in_axes=(None, 0), out_axes=1)(left, index)
        return jnp.sum(jnp.abs(search_matmul(left, directions)) < tolerance, axis=0, dtype=jnp.int32)

    return run


def _time(
    name: str, function: Callable[..., Any], left: jax.Array, candidates: int, operations: float, repeats: int
) -> Rate:
    started = time.perf_counter()
    program = jax.jit(function).lower(left, jnp.uint32(0)).compile()
    compile_seconds = time.perf_counter() - started
    seconds = _median_seconds(program, (left, jnp.uint32(candidates)), repeats)
    rate = candidates / seconds
    return Rate(name, rate, rate, operations, compile_seconds, seconds, repeats)


def _median_seconds(program: Callable[..., Any], arguments: tuple[Any, ...], repeats: int) -> float:
    """Seconds of a call, the median after one that does not count."""
    jax.block_until_ready(program(*arguments))
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
