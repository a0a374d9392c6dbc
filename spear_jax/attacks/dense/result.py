"""From a verdict to a result: inputs, certificate, how it ended in a word, and what the search did and cost."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from spear_jax import numerics
from spear_jax.attacks.dense.by_zeros import ZerosPlan
from spear_jax.attacks.dense.certificates.verdict import Verdict, no_verdict
from spear_jax.attacks.dense.directions.recover import disaggregation, recover_inputs
from spear_jax.attacks.dense.outcome import Outcome, SearchState
from spear_jax.attacks.dense.problem import Problem
from spear_jax.attacks.dense.sampling.plan import expected_remaining, plan_search
from spear_jax.attacks.dense.strategy import Plan
from spear_jax.config import ReconstructConfig
from spear_jax.factorization import column_blocks
from spear_jax.numerics import float64_namespace, to_float64
from spear_jax.observation import LayerObservation
from spear_jax.stages import stage
from spear_jax.status import Status
from spear_jax.types import Array, Certificate, Factorization, Result, SearchStats


class Clock:
    """Wall-clock seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._at = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Give the time since the last lap to a stage."""
        now = time.perf_counter()
        self.seconds[stage], self._at = now - self._at, now


class Recovered(NamedTuple):
    """The batch, and what it leaves of the gradient.

    Attributes:
        inputs: (r, n) one sample a row; a row is NaN where the sample was not reconstructed.
        weight_residual: ``|G - D X^T| / |G|``; NaN while directions are missing.
    """

    inputs: Float[np.ndarray, "r n"]
    weight_residual: float


@stage("recover")
def recover(observation: LayerObservation, problem: Problem, verdict: Verdict) -> Recovered:
    """The inputs of all directions; while some are missing, those of the samples that were certified alone."""
    factorization = problem.factorization
    recovered = _nothing(factorization)
    if verdict.agreement is not None:
        mixing = disaggregation(factorization, problem.bias_grad / verdict.common_factor, verdict.directions)
        inputs = np.array(recover_inputs(factorization, mixing))  # a copy, as what came from a device is read-only
        recovered = Recovered(inputs, weight_residual(observation, factorization, mixing, inputs))
    alone = np.flatnonzero(np.isfinite(verdict.dual).all(axis=1))
    recovered.inputs[alone] = verdict.dual[alone] @ np.asarray(factorization.right)
    return recovered


def weight_residual(
    observation: LayerObservation, factorization: Factorization, mixing: Float[np.ndarray, "r r"], inputs: Array
) -> float:
    """``|G - D X^T| / |G|`` in the Frobenius norm, in column blocks."""
    xp: Any = float64_namespace()
    grad_z = to_float64(factorization.left) @ to_float64(mixing)
    batch = to_float64(inputs)
    pairs = column_blocks(
        observation.weight_grad,
        lambda columns, block: xp.stack([xp.sum((block - grad_z @ batch[:, columns]) ** 2), xp.sum(block**2)]),
    )
    missing, total = np.asarray(sum(pairs))
    return float(np.sqrt(missing / total))


def make_result(
    factorization: Factorization, verdict: Verdict, recovered: Recovered, status: Status, stats: SearchStats
) -> Result:
    """The result, with the certificate as a user gets it."""
    certificate = Certificate(
        exact=verdict.exact,
        approximate=verdict.approximate,
        error=verdict.error,
        matching=verdict.matching,
        matching_score=float(verdict.matching.mean()),
        weight_residual=recovered.weight_residual,
        bias_residual=float("nan") if verdict.agreement is None else verdict.agreement.bias_residual,
        labels=verdict.labels,
        possible_labels=verdict.possible_labels,
        mean_of=verdict.mean_of,
        scale=verdict.scale,
        factor=1.0 if verdict.factor is None else verdict.factor,
        factor_range=verdict.factor_range,
        reason=verdict.reason,
    )
    return Result(
        inputs=recovered.inputs if numerics.has_x64() else recovered.inputs.astype(np.float32),
        batch_size=factorization.rank,
        certificate=certificate,
        directions=verdict.directions,
        directions_found=len(verdict.directions),
        noise_floor=factorization.noise_floor,
        gap=factorization.gap,
        status=status,
        stats=stats,
    )


def final_status(status: Status, problem: Problem, verdict: Verdict, config: ReconstructConfig) -> Status:
    """How the reconstruction ended, from how the search did and what is certified."""
    hides_some = config.num_examples is not None and len(verdict.exact) < config.num_examples
    if problem.input_drift and verdict.agreement is not None:
        return Status.INPUTS_MOVED
    if verdict.exact.all():
        return Status.EXACT_VISIBLE if hides_some else Status.EXACT
    if verdict.is_whole:
        return Status.APPROXIMATE
    if verdict.is_contradicted:
        return Status.CONTRADICTED
    is_complete = status.is_complete or status is Status.APPROXIMATE
    if is_complete and hides_some and not (verdict.mean_of > 0).any():
        return Status.MERGED
    return Status.PARTIAL if is_complete or verdict.exact.any() else status


def refused(factorization: Factorization, config: ReconstructConfig, clock: Clock) -> Result:
    """The result for a gradient that hides nothing in its column space."""
    clock.lap("factorize")
    reason = "no search: the gradient has full rank"
    plan = Plan(config.method, reason, ZerosPlan(config.method, reason, plan_search(factorization, config)))
    nothing = Outcome(
        state=SearchState(pool=None),  # pyright: ignore[reportArgumentType]
        directions=np.zeros((0, factorization.rank)),
        agreement=None,
        status=Status.RANK_FULL,
    )
    stats = make_stats(factorization, config, plan, nothing, clock)
    return make_result(factorization, no_verdict(nothing.directions), _nothing(factorization), Status.RANK_FULL, stats)


def make_stats(
    factorization: Factorization, config: ReconstructConfig, plan: Plan, outcome: Outcome, clock: Clock
) -> SearchStats:
    """What the search did and what it cost."""
    sampling, state = plan.sampling, outcome.state
    found, candidates = len(outcome.directions), state.candidates
    remaining = np.inf
    if outcome.status is not Status.RANK_FULL:
        remaining = expected_remaining(factorization.rank, found, sampling, candidates, config)
    return SearchStats(
        method=state.method,
        reason=plan.reason,
        sampler=sampling.sampler,
        efficiency=sampling.efficiency,
        candidates=candidates,
        rounds=state.next_round,
        expected_candidates=sampling.expected / sampling.efficiency,
        expected_remaining=remaining,
        hits=state.hits,
        hits_dropped=state.hits_dropped,
        false_hits=state.false_hits,
        zero_threshold=sampling.zero_threshold(factorization.rank, candidates, config),
        live_rows=len(sampling.live_rows),
        devices=outcome.devices[0],
        device_kind=outcome.devices[1],
        float64=numerics.float64_backend(),
        activations=outcome.activations,
        seconds={
            "factorize": clock.seconds.get("factorize", 0.0),
            "compile": outcome.compile_seconds,
            "search": outcome.search_seconds,
            "solve": outcome.solve_seconds + clock.seconds.get("solve", 0.0),
        },
    )


def _nothing(factorization: Factorization) -> Recovered:
    rank, in_features = factorization.right.shape
    return Recovered(np.full((rank, in_features), np.nan), float("nan"))
