"""The second proposer: all directions found together, in polynomial time, with the help of the known weights.

Rounds of tied EM (`tied_em`), release from orthogonality (`release`) and exact polish (`pool`); what is accepted is
known for good and projected out of the next round. With k of r directions known the missing dual vectors lie exactly
in the null space of the known ones, so the last ones are sought in r - k dimensions from many starts at once, and the
very last one is free: its dual vector is known, and with it the neurons that are off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from spear_jax import numerics, pool
from spear_jax.certify import Evidence
from spear_jax.compile_clock import compile_seconds
from spear_jax.config import ReconstructConfig, Schedule
from spear_jax.devices import deal_out, select_devices
from spear_jax.polish import polish
from spear_jax.release import release, release_alone
from spear_jax.search import Outcome, Progress, SearchState, initial_state, is_done, is_late
from spear_jax.select import Judge, select
from spear_jax.status import Status
from spear_jax.tied_em import RHO_GRID, Tie, log_likelihood, tied_em, unit_rms
from spear_jax.types import Factorization

# (confidence, width) of the releases after the EM, and of those in the subspace stage, which cost little next to its
# EM and find what fewer leave: 44 of 48 directions at m = 180 with five of them, all with these.
RELEASES = ((3.0, 0.3), (4.0, 0.1), (4.0, 0.02))
SUBSPACE_RELEASES = (
    (2.0, 0.5), (3.0, 0.3), (3.0, 0.3), (4.0, 0.2), (4.0, 0.2), (4.0, 0.1),
    (4.0, 0.1), (4.0, 0.05), (4.0, 0.05), (4.0, 0.02), (4.0, 0.02), (4.0, 0.02),
)  # fmt: skip
DUAL_FLOOR = 0.05
# Zeros beyond the r - 1 of a generic null vector that make a direction; entries below this share of the largest count
# in the test before the polish.
SPARE_ZEROS = 5
LOOSE_ZERO, LOOSE_SHARE = 1e-2, 0.25
# Candidates of the subspace stage closer than this are the same; at most so many are released.
SAME_CANDIDATE, MAX_CANDIDATES = 0.97, 256
# With at most this share of the directions missing, the subspace round is the better one from the start.
FEW_MISSING = 0.25
# A start yields a candidate per missing direction: with many missing fewer starts give as many candidates.
START_CANDIDATES = 1024
# Starts that one device runs side by side; their number is a multiple.
START_BATCH = 4
# Half-width of the band around zero pre-activation that the hard mask of the last column leaves out, in rms.
LAST_MARGINS = (0.03, 0.015, 0.06, 0.12, 0.005)
COLUMN_BUCKET = 16
# Ridge of the refit in the subspace, relative to the mean eigenvalue.
REFIT_RIDGE = 1e-3


class Basis(NamedTuple):
    """The problem on live rows in float64: what every stage of a round starts from.

    Attributes:
        left: (m, r) live rows of the left factor.
        response: (m, r) H on live rows, Frobenius norm ``sqrt(m)``.
        tie: both in float32, with the whitened regressors.
    """

    left: Float[np.ndarray, "m r"]
    response: Float[np.ndarray, "m r"]
    tie: Tie


def make_basis(evidence: Evidence) -> Basis:
    """Scale and whiten what the EM sees (solver.md, Sec. 2, inputs)."""
    factorization = evidence.factorization
    live = np.asarray(factorization.live_mask)
    left, response = np.asarray(factorization.left)[live], evidence.response[live]
    rows = len(left)
    spectrum = np.asarray(factorization.singular_values[: factorization.rank])
    share = spectrum**2 / np.sum(spectrum**2)
    scaled = response * np.sqrt(rows) / np.linalg.norm(response)
    return Basis(left, scaled, _tie(left, scaled, response / spectrum, share / (share + 4 / rows)))


def dictionary_search(
    factorization: Factorization,
    evidence: Evidence,
    judge: Judge,
    key: jax.Array,
    config: ReconstructConfig,
    *,
    state: SearchState | None = None,
    on_round: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Rounds until the choice certifies whole, or the rounds or the time run out.

    Args:
        factorization: of the weight gradient.
        evidence: of the observation; its response is the tie.
        judge: certificate of r directions, one a row.
        key: round i uses ``fold_in(key, i)``.
        config: of the reconstruction, its ``dictionary`` part above all.
        state: where to go on, None for the start.
        on_round: called after each round.
    """
    rank, options = factorization.rank, config.dictionary
    state = initial_state(rank, config)._replace(method="dictionary") if state is None else state
    devices = select_devices(config.num_devices)
    started, compiled = time.perf_counter(), compile_seconds()
    basis = make_basis(evidence)
    chosen, certificate = select(state.pool, judge)
    status = None
    while status is None:
        if is_done(certificate):
            status = Status.EXACT
        elif state.next_round >= options.max_rounds:
            status = Status.ROUND_BUDGET
        elif is_late(started, config):
            status = Status.TIME_BUDGET
        else:
            known = state.pool.directions[chosen]
            if certificate is not None:
                # A full set that does not certify holds mixtures: only what certifies counts as known.
                known = known[certificate.exact]
            round_key = jax.random.fold_in(key, state.next_round)
            proposed = _round(factorization, basis, known, round_key, state.next_round, config)
            merged = accept(factorization, state.pool, proposed, screen=len(known) < rank - 1)
            grown = not np.array_equal(merged.directions, state.pool.directions)
            state = state._replace(pool=merged, next_round=state.next_round + 1)
            if grown:
                chosen, certificate = select(state.pool, judge)
            if on_round is not None:
                elapsed = time.perf_counter() - started
                on_round(Progress(state, len(chosen), rank, float("nan"), elapsed, 0))
    return Outcome(
        state=state,
        directions=state.pool.directions[chosen],
        certificate=certificate,
        status=status,
        compile_seconds=compile_seconds() - compiled,
        search_seconds=time.perf_counter() - started - (compile_seconds() - compiled),
        devices=(len(devices), devices[0].device_kind),
    )


def accept(
    factorization: Factorization, known: pool.CandidatePool, proposed: Float[np.ndarray, "k r"], *, screen: bool
) -> pool.CandidatePool:
    """The pool with those proposals that, polished, have more zeros than a generic null vector.

    Args:
        factorization: of the weight gradient.
        known: the pool.
        proposed: (k, r) unit directions.
        screen: whether to polish only proposals that are nearly sparse already; those of a hard mask are not yet.
    """
    live = np.asarray(factorization.live_mask)
    rank = factorization.rank
    if screen and len(proposed):
        entries = np.abs(np.asarray(factorization.left)[live] @ proposed.T)
        loose = np.sum(entries < LOOSE_ZERO * entries.max(axis=0), axis=0)
        proposed = proposed[loose >= min(rank + SPARE_ZEROS - 1, LOOSE_SHARE * live.sum())]
    polished = polish(factorization, proposed[pool.first_of_each(proposed)])
    zeros = pool.zero_count(factorization, polished)
    kept = zeros >= rank - 1 + SPARE_ZEROS
    return pool.merge(known, polished[kept], zeros[kept], np.ones(int(kept.sum()), np.int64))


def _round(
    factorization: Factorization,
    basis: Basis,
    known: Float[np.ndarray, "k r"],
    key: jax.Array,
    index: int,
    config: ReconstructConfig,
) -> Float[np.ndarray, "j r"]:
    """Proposals of one round: EM in all dimensions first, in the missing ones once something is known."""
    options = config.dictionary
    missing = factorization.rank - len(known)
    if missing == 1:
        return last_direction(basis, known)
    is_small = missing <= FEW_MISSING * factorization.rank
    if (index < options.full_rounds and not is_small) or len(known) == 0:
        return full_round(basis, known, key, options.full_schedules[index % len(options.full_schedules)])
    schedule = options.subspace_schedules[index % len(options.subspace_schedules)]
    return subspace_round(basis, known, key, schedule, config)


def full_round(
    basis: Basis, known: Float[np.ndarray, "k r"], key: jax.Array, schedule: Schedule
) -> Float[np.ndarray, "j r"]:
    """EM from one random start in all r dimensions, orthogonal to the known directions, then the releases."""
    rank, count = known.shape[1], len(known)
    sought = (np.arange(rank) < rank - count).astype(np.float32)[None]
    start = jax.random.normal(key, (rank, rank), jnp.float32) * sought
    span = np.zeros((rank, rank))
    span[:, :count] = np.linalg.qr(known.T)[0]
    found = _run_em(
        basis.tie, start, jnp.asarray(span, jnp.float32), *_numbers(schedule), is_adaptive=schedule.is_adaptive
    )  # fmt: skip
    directions = np.asarray(found, np.float64)[:, : rank - count]
    if not np.isfinite(directions).all():
        return np.zeros((0, rank))
    for step, (confidence, width) in enumerate(RELEASES):
        everything = np.concatenate([known.T, directions], axis=1)
        pre_activation = basis.response @ dual(everything, DUAL_FLOOR if step else 0.0)[:, count:]
        directions = _run_release(basis.tie, directions, pre_activation, confidence, width)
    return directions.T


def subspace_round(
    basis: Basis,
    known: Float[np.ndarray, "k r"],
    key: jax.Array,
    schedule: Schedule,
    config: ReconstructConfig,
) -> Float[np.ndarray, "j r"]:
    """EM in the null space of the known directions from many starts, the likeliest candidates released one by one."""
    missing = known.shape[1] - len(known)
    null_space = np.linalg.svd(known)[2][len(known) :].T
    response = basis.response @ null_space
    response = response * np.sqrt(len(response)) / np.linalg.norm(response)
    small = _tie(basis.left @ null_space, response, response, np.ones(missing))
    size = _bucket(missing, known.shape[1])
    tie = jax.tree.map(lambda part: jnp.pad(part, [(0, 0)] * (part.ndim - 1) + [(0, size - missing)]), small)
    inside = (np.arange(size) < missing).astype(np.float32)
    wanted = min(config.dictionary.starts, START_CANDIDATES // missing)
    count = max(wanted // START_BATCH, 1) * START_BATCH
    starts = jax.random.normal(key, (count, size, size), jnp.float32) * np.outer(inside, inside)[None]
    devices = select_devices(config.num_devices)
    shared = (tie, jnp.zeros((size, size), jnp.float32), *_numbers(schedule))
    found = deal_out(_em_of_starts(schedule.is_adaptive), shared, jnp.split(starts, count // START_BATCH), devices)
    columns = np.concatenate(found).astype(np.float64)[:, :missing, :missing].transpose(1, 0, 2).reshape(missing, -1)
    columns = columns[:, np.isfinite(columns).all(axis=0)]
    columns = columns[:, _best_distinct(small, columns)]
    if columns.shape[1] == 0:
        return np.zeros((0, known.shape[1]))
    return _release_in_subspace(basis, null_space, response, columns).T


def last_direction(basis: Basis, known: Float[np.ndarray, "k r"]) -> Float[np.ndarray, "j r"]:
    """The last direction from its dual vector, the null vector of all others: rows where it is off, by hard masks."""
    pre_activation = basis.response @ np.linalg.svd(known)[2][-1]
    pre_activation = pre_activation / np.sqrt(np.mean(pre_activation**2))
    proposals = []
    for margin in LAST_MARGINS:
        for sign in (1, -1):
            rows = basis.left[sign * pre_activation < -margin]
            if len(rows) >= known.shape[1] - 1:
                proposals.append(np.linalg.eigh(rows.T @ rows)[1][:, 0])
    return np.array(proposals).reshape(len(proposals), known.shape[1])


def dual(directions: Float[np.ndarray, "r k"], floor: float) -> Float[np.ndarray, "r k"]:
    """Dual basis ``Q (Q^T Q)^-1`` with singular values floored: unfinished directions may nearly coincide."""
    xp: Any = numerics.float64_namespace()
    left, values, right = xp.linalg.svd(xp.asarray(directions), full_matrices=False)
    return np.asarray((left / xp.maximum(values, floor)) @ right)


def _tie(
    left: Float[np.ndarray, "m r"],
    response: Float[np.ndarray, "m r"],
    raw: Float[np.ndarray, "m r"],
    shrinkage: Float[np.ndarray, " r"],
) -> Tie:
    values, vectors = np.linalg.eigh(raw.T @ raw / len(raw))
    whitened = raw @ (vectors / np.sqrt(np.maximum(values, values[-1] * 1e-14))) @ vectors.T
    single = lambda array: jnp.asarray(array, jnp.float32)
    return Tie(single(left * np.sqrt(len(left))), single(response), single(whitened), single(shrinkage))


def _best_distinct(tie: Tie, columns: Float[np.ndarray, "r s"]) -> Int[np.ndarray, " c"]:
    """Likeliest columns first, none close to a better one."""
    if columns.shape[1] == 0:
        return np.zeros(0, np.int64)
    single = jnp.asarray(columns, jnp.float32)
    entries, pre_activation = tie.entries @ single, unit_rms(tie.response @ single)
    scores = np.max(
        [
            np.asarray(log_likelihood(entries, pre_activation, jnp.full((1, 1), rho, jnp.float32)))
            for rho in RHO_GRID[:6]
        ],
        axis=0,
    )
    order = np.argsort(-scores, kind="stable")
    unit = columns / np.linalg.norm(columns, axis=0)
    kept: list[int] = []
    for place in order:
        if not kept or np.abs(unit[:, kept].T @ unit[:, place]).max() < SAME_CANDIDATE:
            kept.append(int(place))
        if len(kept) == MAX_CANDIDATES:
            break
    return np.asarray(kept)


def _release_in_subspace(
    basis: Basis,
    null_space: Float[np.ndarray, "r d"],
    response: Float[np.ndarray, "m d"],
    columns: Float[np.ndarray, "d k"],
) -> Float[np.ndarray, "r k"]:
    """`release_alone` of candidates in the null space, shapes padded to buckets."""
    gram = response.T @ response
    refit = np.linalg.inv(gram + REFIT_RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram)))
    missing = len(gram)
    wide = _bucket(missing, len(null_space)) - missing
    padded = jnp.asarray(np.pad(response, ((0, 0), (0, wide))), jnp.float32)
    inverse = jnp.asarray(np.pad(refit, ((0, wide), (0, wide))), jnp.float32)
    directions, pre_activation = _pad_columns(null_space @ columns), _pad_columns(response @ columns)
    schedule = jnp.asarray(SUBSPACE_RELEASES, jnp.float32)
    released = _release_alone(basis.tie, padded, inverse, directions, pre_activation, schedule)
    return np.asarray(released, np.float64)[:, : columns.shape[1]]


def _run_release(
    tie: Tie,
    directions: Float[np.ndarray, "r k"],
    pre_activation: Float[np.ndarray, "m k"],
    confidence: float,
    width: float,
) -> Float[np.ndarray, "r k"]:
    """`release` of padded columns."""
    arguments = (_pad_columns(directions), _pad_columns(pre_activation), jnp.float32(confidence), jnp.float32(width))
    return np.asarray(_release(tie, *arguments), np.float64)[:, : directions.shape[1]]


def _bucket(missing: int, rank: int) -> int:
    """A size for that many missing directions, of which there are few: compiling takes longer than a subspace's EM."""
    doubled = COLUMN_BUCKET * 2 ** math.ceil(math.log2(max(missing / COLUMN_BUCKET, 1)))
    return min(doubled, -(-rank // COLUMN_BUCKET) * COLUMN_BUCKET)


def _pad_columns(array: Float[np.ndarray, "j k"]) -> jax.Array:
    """Columns repeated up to a multiple of the bucket, so that few shapes are compiled, in float32."""
    return jnp.asarray(np.pad(array, ((0, 0), (0, -array.shape[1] % COLUMN_BUCKET)), mode="edge"), jnp.float32)


def _numbers(schedule: Schedule) -> tuple[jax.Array, jax.Array]:
    """What of the schedule is no shape: it does not recompile."""
    return jnp.asarray(schedule[1:5], jnp.float32), jnp.int32(schedule.iterations)


_release = jax.jit(release)
_release_alone = jax.jit(release_alone)
_run_em = jax.jit(tied_em, static_argnames="is_adaptive")


@lru_cache
def _em_of_starts(is_adaptive: bool) -> Any:
    """The EM from a batch of starts, side by side."""

    def run(shared: Any, starts: jax.Array) -> jax.Array:
        return jax.vmap(lambda start: tied_em(shared[0], start, *shared[1:], is_adaptive=is_adaptive))(starts)

    return jax.jit(run)
