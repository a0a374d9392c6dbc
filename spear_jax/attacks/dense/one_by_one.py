"""Sample by sample to the end: what is found gives its inputs, these leave a smaller problem, and so on.

A batch too large for its layer yields its first directions only. Each gives one exact sample through the layer above
(`next_layer`), and the model confirms samples of a full set one by one (`network`); without these samples (`remainder`)
the rest has the same rows and fewer columns, which is easier.
"""

from __future__ import annotations

import jax
import numpy as np

from spear_jax.attacks.dense.certificates import certified_alone
from spear_jax.attacks.dense.certificates.alone import either, in_order
from spear_jax.attacks.dense.certificates.select import select
from spear_jax.attacks.dense.dictionary.search import find_together
from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.directions.polish import polish
from spear_jax.attacks.dense.outcome import Outcome, Run, Samples, is_done
from spear_jax.attacks.dense.problem import Problem
from spear_jax.attacks.dense.remainder import deflate
from spear_jax.status import Status
from spear_jax.types import MAX_ERROR

# Rounds of the reduced search before the samples it found are taken out too: few, and where these find none, more.
ROUNDS_PER_PASS = (2, 8)
# Separates the keys of the passes from those of the rounds before.
PASS_KEY = 2**20


def one_by_one(problem: Problem, run: Run, outcome: Outcome) -> Outcome:
    """Go on from an outcome that is not whole, for as long as it grows.

    Args:
        problem: of the layer, with layers above.
        run: of the search; its callback is not told of passes.
        outcome: of the search so far.

    Returns:
        the outcome with what was added, and what the layers above tell of each direction.
    """
    if is_done(outcome.agreement):
        return outcome
    alone, number, patience = certified_alone(problem, outcome), 0, 0
    while patience < len(ROUNDS_PER_PASS) and _may_grow(outcome, alone, run):
        pass_run = Run(jax.random.fold_in(run.key, PASS_KEY + number), run.config).few_rounds(ROUNDS_PER_PASS[patience])
        grown = _pass(problem, outcome, alone, pass_run.after(outcome.spent))
        if is_done(grown.agreement):
            return grown
        after, number = certified_alone(problem, grown), number + 1
        if after.confirmed.sum() <= alone.confirmed.sum() and len(grown.directions) <= len(outcome.directions):
            spent = {"compile_seconds": grown.compile_seconds, "search_seconds": grown.search_seconds}
            outcome, patience = outcome._replace(**spent), patience + 1
        else:
            outcome, alone, patience = grown, after, 0
    return outcome._replace(alone=alone)


def _may_grow(outcome: Outcome, alone: Samples, run: Run) -> bool:
    limit = run.config.max_seconds
    is_late = limit is not None and outcome.spent > limit
    return not outcome._replace(alone=alone).is_whole and not is_late and bool(alone.confirmed.any())


def _pass(problem: Problem, outcome: Outcome, alone: Samples, run: Run) -> Outcome:
    """The certified samples taken out, a search in what is left, and its directions in the pool."""
    known = alone.confirmed
    # An error beyond what is called exact bounds nothing.
    error = np.where(alone.error[known] <= MAX_ERROR, alone.error[known], 0.0)
    rest = deflate(problem, alone.directions[known], alone.dual[known], error)
    if rest.problem.live_mask.sum() < rest.problem.rank + pool.SPARE_ZEROS:
        return outcome  # what was taken out drowns the rest
    inner = find_together(rest.problem, run)
    found = polish(problem.factorization, np.concatenate([inner.directions @ rest.lift.T, alone.directions[known]]))
    zeros = pool.zero_count(problem.factorization, found)
    merged = pool.merge(outcome.state.pool, found, zeros, np.ones(len(found), np.int64))
    # What was certified by itself needs no other choice, and where weak samples are missing each trial takes seconds.
    chosen, agreement = select(problem, merged, may_swap=outcome.alone is None)
    return outcome._replace(
        state=outcome.state._replace(pool=merged),
        directions=merged.directions[chosen],
        agreement=agreement,
        status=Status.EXACT if is_done(agreement) else outcome.status,
        compile_seconds=outcome.compile_seconds + inner.compile_seconds,
        search_seconds=outcome.search_seconds + inner.search_seconds,
    )


def with_known(problem: Problem, outcome: Outcome, before: Outcome) -> Outcome:
    """An outcome with the samples that were certified alone before it, their directions among its own."""
    zeros = pool.zero_count(problem.factorization, before.directions)
    merged = pool.merge(outcome.state.pool, before.directions, zeros, np.ones(len(zeros), np.int64))
    chosen, agreement = select(problem, merged, may_swap=False)
    grown = outcome._replace(
        state=outcome.state._replace(pool=merged),
        directions=merged.directions[chosen],
        agreement=agreement,
        alone=before.alone,
        status=Status.EXACT if is_done(agreement) else outcome.status,
    )
    alone = certified_alone(problem, grown)
    if outcome.alone is not None:
        alone = either(alone, in_order(outcome.alone, grown.directions))
    return grown._replace(alone=alone)
