"""Rounds in the dimensions that are missing.

With k of r directions known the missing dual vectors lie exactly in the null space of the known directions
(docs/method.md, Sec. 5), where many starts cost little; the very last dual vector is that null space.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from spear_jax import linalg
from spear_jax.attacks.dense.dictionary.basis import Basis, make_tie, pace_of, pad_columns
from spear_jax.attacks.dense.dictionary.em import RHO_GRID, Tie, log_likelihood, tied_em, unit_rms
from spear_jax.attacks.dense.dictionary.release import Refit, release_alone
from spear_jax.attacks.dense.directions.polish import COLUMN_BUCKET
from spear_jax.config import ReconstructConfig, Schedule
from spear_jax.devices import deal_out, select_devices
from spear_jax.stages import stage

# (confidence, width) of the releases, which cost little next to the EM and find what fewer leave: 44 of 48 directions
# at m = 180 with five of them, all with these.
RELEASES = (
    (2.0, 0.5), (3.0, 0.3), (3.0, 0.3), (4.0, 0.2), (4.0, 0.2), (4.0, 0.1),
    (4.0, 0.1), (4.0, 0.05), (4.0, 0.05), (4.0, 0.02), (4.0, 0.02), (4.0, 0.02),
)  # fmt: skip
# Candidates closer than this are the same; at most so many are released.
SAME_CANDIDATE, MAX_CANDIDATES = 0.97, 256
# A start yields a candidate per missing direction: with many missing fewer starts give as many candidates.
START_CANDIDATES = 1024
# Starts that one device runs side by side; their number is a multiple.
START_BATCH = 4
# Correlations at which candidates are scored: the sure ones would favour the few that fit by chance.
SCORED_RHO = RHO_GRID[:6]
# Half-width of the band around zero pre-activation that the hard mask of the last direction leaves out, in rms.
LAST_MARGINS = (0.03, 0.015, 0.06, 0.12, 0.005)
# Ridge of the refit, relative to the mean eigenvalue.
REFIT_RIDGE = 1e-3


@stage("em in a subspace")
def subspace_round(
    basis: Basis,
    known: Float[np.ndarray, "k r"],
    key: jax.Array,
    schedule: Schedule,
    config: ReconstructConfig,
) -> Float[np.ndarray, "j r"]:
    """EM in the null space of the known directions from many starts, the likeliest candidates released one by one."""
    missing = known.shape[1] - len(known)
    null_space = linalg.svd(basis.enter(known))[2][len(known) :].T
    response = _scaled(basis.response @ null_space)
    small = make_tie(basis.left @ null_space, response, response, np.ones(missing))
    size = _bucket(missing, known.shape[1])
    tie = jax.tree.map(lambda part: jnp.pad(part, [(0, 0)] * (part.ndim - 1) + [(0, size - missing)]), small)
    inside = (np.arange(size) < missing).astype(np.float32)
    wanted = min(config.dictionary.starts, START_CANDIDATES // missing)
    count = max(wanted // START_BATCH, 1) * START_BATCH
    starts = jax.random.normal(key, (count, size, size), jnp.float32) * np.outer(inside, inside)[None]
    devices = select_devices(config.num_devices)
    shared = (tie, jnp.zeros((size, size), jnp.float32), pace_of(schedule))
    found = deal_out(_em_of_starts(schedule.is_adaptive), shared, jnp.split(starts, count // START_BATCH), devices)
    columns = np.concatenate(found).astype(np.float64)[:, :missing, :missing].transpose(1, 0, 2).reshape(missing, -1)
    columns = columns[:, np.isfinite(columns).all(axis=0)]
    columns = columns[:, _best_distinct(small, columns)]
    if columns.shape[1] == 0:
        return np.zeros((0, known.shape[1]))
    return basis.leave(_release_in_subspace(basis, null_space, columns).T)


def last_direction(basis: Basis, known: Float[np.ndarray, "k r"]) -> Float[np.ndarray, "j r"]:
    """The last direction from its dual vector, the null vector of all others: rows where it is off, by hard masks."""
    pre_activation = basis.all_response @ linalg.svd(basis.enter(known))[2][-1]
    pre_activation = pre_activation / np.sqrt(np.mean(pre_activation**2))
    proposals, left = [], np.asarray(basis.entries, np.float64)
    for margin in LAST_MARGINS:
        for sign in (1, -1):
            rows = left[sign * pre_activation < -margin]
            if len(rows) >= known.shape[1] - 1:
                proposals.append(linalg.eigh(rows.T @ rows)[1][:, 0])
    released = np.array(proposals).reshape(len(proposals), known.shape[1])
    return basis.leave(linalg.solve(basis.triangle, released.T).T)


def _best_distinct(tie: Tie, columns: Float[np.ndarray, "r s"]) -> Int[np.ndarray, " c"]:
    """Likeliest columns first, none close to a better one."""
    if columns.shape[1] == 0:
        return np.zeros(0, np.int64)
    single = jnp.asarray(columns, jnp.float32)
    entries, pre_activation = tie.entries @ single, unit_rms(tie.response @ single)
    scores = np.max(
        [np.asarray(log_likelihood(entries, pre_activation, jnp.full((1, 1), rho, jnp.float32))) for rho in SCORED_RHO],
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
    columns: Float[np.ndarray, "d k"],
) -> Float[np.ndarray, "r k"]:
    """`release_alone` of candidates in the null space, shapes padded to buckets."""
    response = _scaled(basis.all_response @ null_space)
    gram = response.T @ response
    refit = linalg.inv(gram + REFIT_RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram)))
    missing = len(gram)
    wide = _bucket(missing, len(null_space)) - missing
    padded = jnp.asarray(np.pad(response, ((0, 0), (0, wide))), jnp.float32)
    inverse = jnp.asarray(np.pad(refit, ((0, wide), (0, wide))), jnp.float32)
    directions = pad_columns(basis.triangle @ null_space @ columns)
    pre_activation = pad_columns(response @ columns)
    schedule = jnp.asarray(RELEASES, jnp.float32)
    released = _release_alone(basis.entries, Refit(padded, inverse), directions, pre_activation, schedule)
    return linalg.solve(basis.triangle, np.asarray(released, np.float64)[:, : columns.shape[1]])


def _scaled(response: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m d"]:
    """The response with Frobenius norm ``sqrt(m)``."""
    return response * np.sqrt(len(response)) / np.linalg.norm(response)


def _bucket(missing: int, rank: int) -> int:
    """A size for that many missing directions, of which there are few: compiling takes longer than a subspace's EM."""
    doubled = COLUMN_BUCKET * 2 ** math.ceil(math.log2(max(missing / COLUMN_BUCKET, 1)))
    return min(doubled, -(-rank // COLUMN_BUCKET) * COLUMN_BUCKET)


_release_alone = jax.jit(release_alone)


@lru_cache
def _em_of_starts(is_adaptive: bool) -> Any:
    """The EM from a batch of starts, side by side."""

    def run(shared: Any, starts: jax.Array) -> jax.Array:
        tie, known, pace = shared
        return jax.vmap(lambda start: tied_em(tie, start, known, pace, is_adaptive=is_adaptive))(starts)

    return jax.jit(run)
