"""Rounds of random starts, each in what the samples found so far leave free (docs/span.md, Sec. 3).

A start that converges gives a sample; a sample gives its own gradients, and is taken out exactly (`roots`). So where a
round finds anything the next one is a smaller problem, and in nearly all runs everything is found.
Start j of round i derives its key from (i, j) alone: what comes out does not depend on devices.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from spear_jax.attacks.dense.certificates.root import judge_roots
from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.outcome import Outcome, Progress, Run, SearchState, initial_state
from spear_jax.attacks.dense.problem import Problem
from spear_jax.attacks.dense.roots import exact
from spear_jax.attacks.dense.roots.equations import in_dtype
from spear_jax.attacks.dense.roots.found import Found, Rest, distinct, joined, none_found, rest_of
from spear_jax.attacks.dense.roots.newton import Start, explore
from spear_jax.attacks.dense.roots.stack import Stack
from spear_jax.devices import compile_seconds, deal_out, select_devices
from spear_jax.stages import stage
from spear_jax.status import Status

# Starts of one compiled program. A round has a multiple of them, and up to so many times more after rounds in vain.
LANES, MOST_DOUBLINGS = 32, 2
# Samples of a round that are so few that the next one measures residuals the other way.
FEW = 1
# What a float32 descent leaves of the squared residual at a root, relative to the activations; and how many times what
# the noise explains a residual may be before it is sharpened, and after.
NEAR, LOOSE, SHARP = 1e-6, 1e4, 100.0
# Separates the keys of neurons from those of starts.
NEURONS_KEY = 2**31 - 1


def find_roots(problem: Problem, stack: Stack, run: Run, state: SearchState | None = None) -> Outcome:
    """Rounds until all samples are found, or none has been for too long, or the time runs out.

    Args:
        problem: of the layer.
        stack: the equations.
        run: round i uses ``fold_in(key, i)``; of the config its ``span`` part above all.
        state: where to go on, None for the start.
    """
    started, compiled = time.perf_counter(), compile_seconds()
    if state is None or state.roots is None:
        state = initial_state(problem.rank, run.config)._replace(
            method="span",
            roots=none_found(stack),
            activation=str(stack.activation),
            apart=int(problem.has_bias_grad and not stack.has_total),
        )
    found = state.roots
    assert found is not None
    while not _is_over(stack, found, state, run) and not run.is_late(started):
        new = one_round(stack, found, state, run)
        found = found if new is None else joined(found, new)
        number = state.next_round + 1
        state = state._replace(
            roots=found,
            next_round=number,
            candidates=state.candidates + _starts(state, run),
            grown_at=state.grown_at if new is None else number,
            turns=state.turns + (new is None or len(new.points) <= FEW),
        )
        if run.on_round is not None:
            elapsed = time.perf_counter() - started
            run.on_round(Progress(state, len(found.points), stack.rank, float("nan"), elapsed, state.candidates))
    compiled = compile_seconds() - compiled
    return _outcome(problem, stack, found, state, run)._replace(
        compile_seconds=compiled, search_seconds=time.perf_counter() - started - compiled
    )


def _is_over(stack: Stack, found: Found, state: SearchState, run: Run) -> bool:
    options = run.config.span
    is_dry = state.next_round - state.grown_at >= options.dry_rounds
    return len(found.points) >= stack.rank or is_dry or state.next_round >= options.max_rounds


def _starts(state: SearchState, run: Run) -> int:
    """Starts of the next round: more after both residuals found nothing."""
    doublings = min((state.next_round - state.grown_at) // 2, MOST_DOUBLINGS)
    return LANES * max(1, run.config.span.starts // LANES) * 2**doublings


@stage("roots")
def one_round(stack: Stack, found: Found, state: SearchState, run: Run) -> Found | None:
    """Samples that one round adds, None for none.

    Args:
        stack: the equations.
        found: what is known.
        state: whose round it is.
        run: of the search.
    """
    key = jax.random.fold_in(run.key, state.next_round)
    seed = np.asarray(jax.random.key_data(jax.random.fold_in(key, NEURONS_KEY)))
    rest = rest_of(stack, found, np.random.default_rng(seed))
    points, costs = rest.origin[None], np.zeros(1)  # the last one is free
    if rest.basis.shape[1] > 0:
        points, costs = _descended(stack, rest, key, state, run)
    near = costs <= np.maximum(NEAR, LOOSE * exact.noise_cost(stack, points))
    points = distinct(points[near][np.argsort(costs[near], kind="stable")], found.points)
    if len(points) == 0:
        return None
    points = exact.polish(stack, points)
    scores = exact.scores(stack, points)
    order = np.argsort(scores, kind="stable")
    points = distinct(points[order][scores[order] < SHARP], found.points)[: stack.rank - len(found.points)]
    if len(points) == 0:
        return None
    new = exact.with_duals(stack, points)
    known = np.isfinite(new.duals).all(axis=1) & np.isfinite(new.next_duals).all(axis=1)
    return Found(*(part[known] for part in new)) if known.any() else None


def _descended(
    stack: Stack, rest: Rest, key: jax.Array, state: SearchState, run: Run
) -> tuple[Float[np.ndarray, "l r"], Float[np.ndarray, " l"]]:
    """Where the starts of a round end, and their costs."""
    free, length = rest.basis.shape[1], np.linalg.norm(rest.origin if stack.has_total else stack.typical)
    spread = np.mean(np.sum(rest.equations.response**2, axis=0))
    typical = np.sqrt(np.mean(rest.equations.bias**2) + length**2 * (free + 1) / free * spread)
    start = Start(
        key,
        radius=jnp.float32(length * np.sqrt(free + 1)),
        unit=jnp.float32(typical if stack.activation.is_kinked and stack.between is None else 0),
        dimensions=jnp.int32(free),
        is_relative=jnp.asarray(state.turns % 2 == 0 or not stack.has_scale),
    )
    index, count = run.config.shard
    numbers = index + count * np.arange(_starts(state, run), dtype=np.uint32).reshape(-1, LANES)
    shared = (in_dtype(rest.equations, jnp.float32), start)
    devices = select_devices(run.config.num_devices)
    ended = np.concatenate(deal_out(explore, shared, [jnp.asarray(batch) for batch in numbers], devices))
    ended = ended[np.isfinite(ended).all(axis=1)].astype(np.float64)
    return rest.origin + ended[:, :free] @ rest.basis.T, ended[:, -1]


def _outcome(problem: Problem, stack: Stack, found: Found, state: SearchState, run: Run) -> Outcome:
    """The roots as an outcome: directions of their gradients, and what the certificate says of each."""
    devices = select_devices(run.config.num_devices)
    alone, scale_error = judge_roots(problem, stack, found, run.config.num_examples)
    zeros = pool.zero_count(problem.factorization, alone.directions)
    filled = pool.merge(state.pool, alone.directions, zeros, np.ones(len(zeros), np.int64))
    is_all = len(found.points) == stack.rank
    return Outcome(
        state=state._replace(pool=filled),
        directions=alone.directions,
        agreement=None,
        status=Status.PARTIAL if is_all else Status.ROUND_BUDGET,
        alone=alone,
        scale_error=scale_error,
        devices=(len(devices), devices[0].device_kind),
    )
