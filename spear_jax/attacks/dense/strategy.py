"""Which proposer a layer starts with, and what takes over where it ends: sampling, the dictionary method, or both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import jax

from spear_jax import numerics
from spear_jax.attacks.dense.dictionary.search import Mend, dictionary_search
from spear_jax.attacks.dense.directions.select import Judge
from spear_jax.attacks.dense.outcome import Outcome, Progress, SearchState
from spear_jax.attacks.dense.problem import Evidence
from spear_jax.attacks.dense.regime import RowModel
from spear_jax.attacks.dense.sampling.plan import WALK_NOISE, Plan, plan_search
from spear_jax.attacks.dense.sampling.search import search
from spear_jax.config import ReconstructConfig
from spear_jax.status import Status
from spear_jax.types import Factorization

# Expected candidates up to which ``auto`` samples: seconds on two CPU cores, less than the dictionary method compiles.
AUTO_SAMPLING = 1e6
# The same where noise hides the zeros from a float32 search, which then finds mixtures more often than directions.
AUTO_NOISY_SAMPLING = 1e3
# Where inputs are not centred zeros are nested, and sampling finds all directions early or never: so many times the
# expected candidates are drawn, and only where these are few.
SKEWED_PATIENCE = 4


def choose_method(factorization: Factorization, config: ReconstructConfig, model: RowModel) -> tuple[str, str]:
    """The proposer to start with and why, in a sentence: ``auto`` samples what sampling finds at once.

    Args:
        factorization: of the weight gradient.
        config: of the reconstruction.
        model: how often the neurons fire; where they fire together, sparse mixtures mislead the sampler.
    """
    plan = plan_search(factorization, config)
    expected = plan.expected
    cost = (
        f"{factorization.rank} directions in {factorization.left.shape[0]} rows need about {expected:.3g} independent "
        f"candidates ({plan.sampler} sampler, {expected / plan.efficiency:.3g} of its own)"
    )
    if config.method != "auto":
        return config.method, f"{config.method}, as asked; by sampling {cost}"
    if factorization.rank > 1 and model.regime(config.dictionary.regime) == "skewed":
        share = f"{model.mean_share:.0%} of the gradient's energy lies along the mean input"
        rest = ", and sampling for what it leaves" if _is_at_once(plan, factorization) else ""
        return "dictionary", f"dictionary, on the neurons that fire for few samples{rest}: {share}"
    if factorization.rank == 1 or _is_at_once(plan, factorization):
        return "sampling", f"sampling: {cost}"
    return "dictionary", f"dictionary, and sampling for what it leaves: by sampling alone {cost}"


def propose(
    method: str,
    factorization: Factorization,
    evidence: Evidence,
    neurons: RowModel,
    judge: Judge,
    key: jax.Array,
    mend_of: Callable[[Evidence], Mend] | None,
    on_round: Callable[[Progress], None] | None,
    config: ReconstructConfig,
    state: SearchState | None,
) -> Outcome:
    """Run the proposer; under ``auto`` sampling takes over the pool that the dictionary method leaves incomplete."""
    if method == "sampling" or (state is not None and state.method == "sampling" and config.method != "auto"):
        return search(factorization, judge, key, config, state=state, on_round=on_round)
    rest = partial(_sample_rest, factorization, neurons, judge, key, on_round)
    if state is not None and state.method == "sampling":
        return rest(config, state) or search(factorization, judge, key, config, state=state, on_round=on_round)
    mend = None if mend_of is None else mend_of(evidence)
    outcome = dictionary_search(factorization, evidence, judge, key, config, mend=mend, state=state, on_round=on_round)
    if config.method != "auto" or outcome.status is not Status.ROUND_BUDGET:
        return outcome
    sampled = rest(config.after(outcome.spent), SearchState(pool=outcome.state.pool))
    return outcome if sampled is None else sampled.after(outcome)


def _sample_rest(
    factorization: Factorization,
    neurons: RowModel,
    judge: Judge,
    key: jax.Array,
    on_round: Callable[[Progress], None] | None,
    config: ReconstructConfig,
    state: SearchState,
) -> Outcome | None:
    """Sampling for what the dictionary method left in a pool, within its own budget; None where it cannot find it."""
    budget = _budget_of_rest(factorization, config, neurons)
    if not budget:
        return None
    limited = dataclasses.replace(config, max_candidates=budget)
    sampled = search(factorization, judge, key, limited, state=state, on_round=on_round)
    is_ours = sampled.status is Status.CANDIDATE_BUDGET and budget < config.max_candidates
    return sampled._replace(status=Status.ROUND_BUDGET) if is_ours else sampled


def _budget_of_rest(factorization: Factorization, config: ReconstructConfig, neurons: RowModel) -> int:
    """Candidates that may be drawn for what the dictionary method leaves; 0 where sampling cannot find it."""
    plan = plan_search(factorization, config)
    own = plan.expected / plan.efficiency
    if neurons.regime(config.dictionary.regime) != "skewed":
        return config.max_candidates if own <= config.max_candidates else 0
    return min(config.max_candidates, int(SKEWED_PATIENCE * own)) if _is_at_once(plan, factorization) else 0


def _is_at_once(plan: Plan, factorization: Factorization) -> bool:
    """Whether sampling is expected to take seconds."""
    is_noisy = numerics.relative_noise(factorization) > WALK_NOISE
    return plan.expected <= (AUTO_NOISY_SAMPLING if is_noisy else AUTO_SAMPLING)
