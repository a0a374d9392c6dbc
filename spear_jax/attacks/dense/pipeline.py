"""The attack from one end to the other: the only module that knows the order of the stages (SPEAR, Alg. 1)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float

from spear_jax import numerics
from spear_jax.attacks.dense.above import Network, layers_above
from spear_jax.attacks.dense.certificates import network, pattern
from spear_jax.attacks.dense.directions.recover import disaggregation, recover_inputs
from spear_jax.attacks.dense.outcome import Outcome, Progress, Run, Samples, SearchState
from spear_jax.attacks.dense.problem import Problem, pose
from spear_jax.attacks.dense.sampling.plan import expected_remaining, plan_search
from spear_jax.attacks.dense.strategy import Plan, make_plan, search
from spear_jax.config import ReconstructConfig
from spear_jax.factorization import factorize
from spear_jax.observation import LayerObservation
from spear_jax.status import Status
from spear_jax.types import Array, Certificate, Factorization, Result, SearchStats

# Neurons on which two samples of a batch must differ, where the client reported more samples than there are directions:
# inputs that differ on hardly any neuron may well share all of them, and one direction is then their weighted mean.
MIN_APART = 16


def reconstruct(
    observation: LayerObservation,
    key: jax.Array,
    config: ReconstructConfig = ReconstructConfig(),
    *,
    model: Network | None = None,
    next_weight_grad: Array | None = None,
    state: SearchState | None = None,
    on_round: Callable[[Progress], None] | None = None,
) -> Result:
    """Reconstruct the batch behind one layer's gradient, with a certificate that needs no ground truth.

    Args:
        observation: what the server sees of the layer.
        key: a JAX key; the same key and config give the same result on any number of devices.
        config: method, budgets, devices.
        model: the dense layers above as ``[(W2, b2), ...]``, kernels (out, in), ReLU between, softmax cross-entropy on
            top: each sample is then certified on its own too, with its label (`certificates.network`). Not used, and
            neither is ``next_weight_grad``, where the client took several steps (``observation.drift``).
        next_weight_grad: (j, m) kernel gradient of the layer above, (out, in): the directions that are found then
            give their samples one by one, and the search goes on without these (`one_by_one`).
        state: state of a search to go on with (`audit.resume.load_state`).
        on_round: called after each round of the search.

    Returns:
        the reconstruction; ``result.status`` says how it ended and what to do. A batch that cannot be
        inverted is a status, not an error.

    Raises:
        SpearError: the rank or the number of devices asked for does not exist, or the model does not fit the layer.
    """
    above = layers_above(observation, model, next_weight_grad)
    started = time.perf_counter()
    factorization = factorize(observation.weight_grad, rank=config.rank, rounding=observation.rounding)
    if factorization.is_full and config.rank is None:
        return _refused(factorization, config, time.perf_counter() - started)
    problem = pose(observation, factorization, above)
    factorize_seconds = time.perf_counter() - started
    plan = make_plan(problem, config)
    outcome = search(problem, plan, Run(key, config, on_round), state)
    started = time.perf_counter()
    outcome, inputs, certificate = _verdict(problem, outcome, config.num_examples, observation)
    seconds = {
        "factorize": factorize_seconds,
        "compile": outcome.compile_seconds,
        "search": outcome.search_seconds,
        "solve": outcome.solve_seconds + time.perf_counter() - started,
    }
    return Result(
        inputs=_as_result(inputs),
        batch_size=factorization.rank,
        certificate=certificate,
        directions=outcome.directions,
        directions_found=len(outcome.directions),
        noise_floor=factorization.noise_floor,
        gap=factorization.gap,
        status=_final_status(outcome.status, certificate, factorization.rank, config),
        stats=_stats(factorization, config, plan, outcome, seconds),
    )


def _verdict(
    problem: Problem, outcome: Outcome, num_examples: int | None, observation: LayerObservation
) -> tuple[Outcome, Float[np.ndarray, "r n"], Certificate]:
    """The five steps to a certificate: patterns, network, inputs, next layer, and what may be a mean of several."""
    if problem.is_mended and outcome.certificate is not None:
        directions, certificate = network.repair(problem, outcome.directions, outcome.certificate)
        outcome = outcome._replace(directions=directions, certificate=certificate)
    elif outcome.certificate is not None:
        outcome = outcome._replace(certificate=pattern.all_or_none(outcome.certificate))
    inputs, certificate = _solve(observation, problem.factorization, outcome, outcome.alone)
    if num_examples is not None and num_examples > problem.rank:
        certificate = _told_apart(problem.factorization, outcome.directions, certificate)
    return outcome, inputs, certificate


def _solve(
    observation: LayerObservation, factorization: Factorization, outcome: Outcome, alone: Samples | None
) -> tuple[Float[np.ndarray, "r n"], Certificate]:
    """Inputs and full certificate of the directions chosen; while some are missing, of the samples known alone."""
    if outcome.certificate is None:
        inputs, certificate = _nothing(factorization)
    else:
        mixing = disaggregation(factorization, np.asarray(observation.bias_grad), outcome.directions)
        inputs = recover_inputs(factorization, mixing)
        residual = pattern.weight_residual(observation, factorization, mixing, inputs)
        certificate = dataclasses.replace(outcome.certificate, weight_residual=residual)
    if alone is not None and not certificate.exact.all():
        added = np.flatnonzero(alone.exact & ~certificate.exact[: len(alone.exact)])
        inputs[added] = alone.dual[added] @ np.asarray(factorization.right)
        exact, matching, error = certificate.exact.copy(), certificate.matching.copy(), certificate.error.copy()
        exact[added], matching[added], error[added] = True, alone.matching[added], alone.error[added]
        score = float(matching.mean())
        certificate = dataclasses.replace(
            certificate,
            exact=exact,
            approximate=certificate.approximate & ~exact,
            matching=matching,
            error=error,
            matching_score=score,
        )
    return inputs, certificate


def _told_apart(
    factorization: Factorization, directions: Float[np.ndarray, "k r"], certificate: Certificate
) -> Certificate:
    """The certificate without samples that may be means of several: there are more samples than directions."""
    fires = (~numerics.zero_mask(factorization, directions))[np.asarray(factorization.live_mask)].astype(float)
    differ = fires.T @ (1 - fires) + (1 - fires).T @ fires
    np.fill_diagonal(differ, np.inf if factorization.rank > 1 else 0)
    is_apart = np.zeros(factorization.rank, bool)
    is_apart[: len(directions)] = (differ >= MIN_APART).all(axis=1)
    return dataclasses.replace(
        certificate, exact=certificate.exact & is_apart, approximate=certificate.approximate & is_apart
    )


def _nothing(factorization: Factorization) -> tuple[Float[np.ndarray, "r n"], Certificate]:
    rank, in_features = factorization.right.shape
    return np.full((rank, in_features), np.nan), pattern.nothing_exact(rank)


def _final_status(status: Status, certificate: Certificate, rank: int, config: ReconstructConfig) -> Status:
    if certificate.exact.all():
        status = Status.EXACT
    elif (certificate.exact | certificate.approximate).all():
        return Status.APPROXIMATE
    elif status.is_complete:
        return Status.PARTIAL  # every pattern agrees, but the network refuses a sample
    if status is Status.EXACT and config.num_examples is not None and rank < config.num_examples:
        return Status.EXACT_VISIBLE
    return Status.PARTIAL if not status.is_complete and certificate.exact.any() else status


def _refused(factorization: Factorization, config: ReconstructConfig, seconds: float) -> Result:
    """The result for a gradient that hides nothing in its column space."""
    plan = Plan(config.method, "no search: the gradient has full rank", plan_search(factorization, config))
    nothing = Outcome(
        state=SearchState(pool=None),  # pyright: ignore[reportArgumentType]
        directions=np.zeros((0, factorization.rank)),
        certificate=None,
        status=Status.RANK_FULL,
    )
    inputs, certificate = _nothing(factorization)
    return Result(
        inputs=_as_result(inputs),
        batch_size=factorization.rank,
        certificate=certificate,
        directions=nothing.directions,
        directions_found=0,
        noise_floor=factorization.noise_floor,
        gap=factorization.gap,
        status=Status.RANK_FULL,
        stats=_stats(factorization, config, plan, nothing, {"factorize": seconds}),
    )


def _stats(
    factorization: Factorization, config: ReconstructConfig, plan: Plan, outcome: Outcome, seconds: dict[str, float]
) -> SearchStats:
    sampling = plan.sampling
    found, candidates = len(outcome.directions), outcome.state.candidates
    is_full = outcome.status is Status.RANK_FULL
    return SearchStats(
        method=outcome.state.method,
        reason=plan.reason,
        sampler=sampling.sampler,
        efficiency=sampling.efficiency,
        candidates=candidates,
        rounds=outcome.state.next_round,
        expected_candidates=sampling.expected / sampling.efficiency,
        expected_remaining=np.inf
        if is_full
        else expected_remaining(factorization.rank, found, sampling, candidates, config),
        hits=outcome.state.hits,
        hits_dropped=outcome.state.hits_dropped,
        false_hits=outcome.state.false_hits,
        zero_threshold=sampling.zero_threshold(factorization.rank, candidates, config),
        live_rows=len(sampling.live_rows),
        devices=outcome.devices[0],
        device_kind=outcome.devices[1],
        float64=numerics.float64_backend(),
        seconds={name: seconds.get(name, 0.0) for name in ("factorize", "compile", "search", "solve")},
    )


def _as_result(inputs: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "r n"]:
    return inputs if numerics.has_x64() else inputs.astype(np.float32)
