"""Directions by the zeros that ReLU leaves: which proposer starts, what takes over, when samples are taken out."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from spear_jax import numerics
from spear_jax.attacks.dense.dictionary.search import find_together
from spear_jax.attacks.dense.one_by_one import one_by_one, with_known
from spear_jax.attacks.dense.outcome import Outcome, Run, SearchState
from spear_jax.attacks.dense.peeling import peel_samples
from spear_jax.attacks.dense.problem import Problem
from spear_jax.attacks.dense.regime import is_skewed
from spear_jax.attacks.dense.sampling.plan import WALK_NOISE, SamplingPlan, plan_search
from spear_jax.attacks.dense.sampling.search import sample
from spear_jax.config import ReconstructConfig
from spear_jax.status import Status

# Expected candidates up to which ``auto`` samples: seconds on two CPU cores, less than the dictionary method compiles.
AUTO_SAMPLING = 1e6
# The same where noise hides the zeros from a float32 search, which then finds mixtures more often than directions.
AUTO_NOISY_SAMPLING = 1e3
# Where inputs are not centred zeros are nested, and sampling finds all directions early or never: so many times the
# expected candidates are drawn, and only where these are few.
SKEWED_PATIENCE = 4
# Rounds before what they found is taken out, where the layers above certify samples one by one, and the rank from which
# that is worth compiling for what is left: below it all rounds take less time.
EARLY_ROUNDS, EARLY_RANK = 2, 64
# Share of the directions from which what peeling found is taken out before anything is searched: what is left is then
# the smaller problem. Below it, the whole is searched as if nothing were known.
MOST_PEELED = 0.5


# The proposers of this module, as a user asks for one.
BY_ZEROS = ("dictionary", "sampling")


class ZerosPlan(NamedTuple):
    """How directions are looked for, decided once, before the search starts.

    Attributes:
        method: the proposer to start with, ``"sampling"`` or ``"dictionary"``.
        reason: why that one, in a sentence.
        sampling: rows, sampler, round size and expected cost of sampling, whether it is what starts or not.
    """

    method: str
    reason: str
    sampling: SamplingPlan


def plan_by_zeros(problem: Problem, config: ReconstructConfig) -> ZerosPlan:
    """The proposer to start with and why: ``auto`` samples what sampling finds at once.

    Args:
        problem: of the layer; where its neurons fire together, sparse mixtures mislead the sampler.
        config: of the reconstruction.
    """
    sampling = plan_search(problem.factorization, config)
    expected = sampling.expected
    cost = (
        f"{problem.rank} directions in {len(problem.left)} rows need about {expected:.3g} independent "
        f"candidates ({sampling.sampler} sampler, {expected / sampling.efficiency:.3g} of its own)"
    )
    if config.method in BY_ZEROS:
        return ZerosPlan(config.method, f"{config.method}, as asked; by sampling {cost}", sampling)
    at_once = _is_at_once(problem, sampling)
    if problem.rank > 1 and is_skewed(problem, config.dictionary.regime):
        share = f"{problem.mean_share:.0%} of the gradient's energy lies along the mean input"
        rest = ", and sampling for what it leaves" if at_once else ""
        return ZerosPlan("dictionary", f"dictionary, on the neurons that fire for few samples{rest}: {share}", sampling)
    if problem.rank == 1 or at_once:
        return ZerosPlan("sampling", f"sampling: {cost}", sampling)
    return ZerosPlan("dictionary", f"dictionary, and sampling for what it leaves: by sampling alone {cost}", sampling)


def search_by_zeros(problem: Problem, plan: ZerosPlan, run: Run, state: SearchState | None = None) -> Outcome:
    """The directions of the batch, and what was certified alone on the way.

    Where the model above is known, samples are peeled off first, which takes seconds; what that leaves of a batch is
    searched without them. Where layers above certify samples one by one, these are taken out after all rounds; in a
    long search after few rounds too, since what is left is then easier.

    Args:
        problem: of the layer.
        plan: how to propose.
        run: key, budgets and callback.
        state: where to go on, None for the start.
    """
    if problem.above is None:
        return propose(problem, plan, run, state)
    if not problem.is_mended or run.config.method in BY_ZEROS or state is not None:
        return _one_by_one(problem, plan, run, state)
    peeled = peel_samples(problem, run)
    if peeled.is_whole:
        return peeled
    if len(peeled.directions) >= MOST_PEELED * problem.rank:
        return one_by_one(problem, run, peeled)
    outcome = _one_by_one(problem, plan, run.after(peeled.spent), state).after(peeled)
    return outcome if outcome.is_whole or len(peeled.directions) == 0 else with_known(problem, outcome, peeled)


def _one_by_one(problem: Problem, plan: ZerosPlan, run: Run, state: SearchState | None) -> Outcome:
    """The proposer's rounds, with what the layers above certify taken out."""
    if _is_long(problem, plan, state):
        rounds = min(EARLY_ROUNDS, run.config.dictionary.max_rounds)
        early = one_by_one(problem, run, find_together(problem, run.few_rounds(rounds), state))
        if early.is_whole:
            return early
        outcome = propose(problem, plan, run.after(early.spent), early.state).after(early)
    else:
        outcome = propose(problem, plan, run, state)
    return one_by_one(problem, run, outcome)


def propose(problem: Problem, plan: ZerosPlan, run: Run, state: SearchState | None) -> Outcome:
    """Run the proposer; under ``auto`` sampling takes over the pool that the dictionary method leaves incomplete."""
    is_auto, is_sampling = run.config.method in ("auto", "span"), state is not None and state.method == "sampling"
    if plan.method == "sampling" or (is_sampling and not is_auto):
        return sample(problem, plan.sampling, run, state)
    if state is not None and is_sampling:
        return _sample_rest(problem, plan, run, state) or sample(problem, plan.sampling, run, state)
    outcome = find_together(problem, run, state)
    if not is_auto or outcome.status is not Status.ROUND_BUDGET:
        return outcome
    sampled = _sample_rest(problem, plan, run.after(outcome.spent), SearchState(pool=outcome.state.pool))
    return outcome if sampled is None else sampled.after(outcome)


def _is_long(problem: Problem, plan: ZerosPlan, state: SearchState | None) -> bool:
    """Whether the dictionary method has enough before it for its first finds to be taken out early."""
    starts = state is None or state.method == "dictionary"
    return starts and plan.method == "dictionary" and problem.rank >= EARLY_RANK


def _sample_rest(problem: Problem, plan: ZerosPlan, run: Run, state: SearchState) -> Outcome | None:
    """Sampling for what the dictionary method left in a pool, within its own budget; None where it cannot find it."""
    budget = _budget_of_rest(problem, plan, run.config)
    if not budget:
        return None
    limited = run._replace(config=dataclasses.replace(run.config, max_candidates=budget))
    sampled = sample(problem, plan.sampling, limited, state)
    is_ours = sampled.status is Status.CANDIDATE_BUDGET and budget < run.config.max_candidates
    return sampled._replace(status=Status.ROUND_BUDGET) if is_ours else sampled


def _budget_of_rest(problem: Problem, plan: ZerosPlan, config: ReconstructConfig) -> int:
    """Candidates that may be drawn for what the dictionary method leaves; 0 where sampling cannot find it."""
    own = plan.sampling.expected / plan.sampling.efficiency
    if not is_skewed(problem, config.dictionary.regime):
        return config.max_candidates if own <= config.max_candidates else 0
    return min(config.max_candidates, int(SKEWED_PATIENCE * own)) if _is_at_once(problem, plan.sampling) else 0


def _is_at_once(problem: Problem, sampling: SamplingPlan) -> bool:
    """Whether sampling is expected to take seconds."""
    is_noisy = numerics.relative_noise(problem.factorization) > WALK_NOISE
    return sampling.expected <= (AUTO_NOISY_SAMPLING if is_noisy else AUTO_SAMPLING)
