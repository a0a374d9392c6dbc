"""The attack from one end to the other: the only module that knows the order of the stages (SPEAR, Alg. 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax

from spear_jax.attacks.dense.above import Between, Network, known_above
from spear_jax.attacks.dense.certificates import certify
from spear_jax.attacks.dense.jointly import refine
from spear_jax.attacks.dense.outcome import Progress, Run, SearchState
from spear_jax.attacks.dense.problem import pose
from spear_jax.attacks.dense.result import Clock, final_status, make_result, make_stats, recover, refused
from spear_jax.attacks.dense.strategy import make_plan, search
from spear_jax.config import ReconstructConfig
from spear_jax.factorization import factorize
from spear_jax.observation import LayerObservation
from spear_jax.types import Array, Result


def reconstruct(
    observation: LayerObservation,
    key: jax.Array,
    config: ReconstructConfig = ReconstructConfig(),
    *,
    model: Network | None = None,
    next_weight_grad: Array | None = None,
    layers_above: Sequence[LayerObservation] | None = None,
    between: Between | None = None,
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
        layers_above: the next layers as observed, lowest first: the span method then finds samples behind any
            activation (``config.activation``), and ``next_weight_grad`` need not be given. After several steps the
            lowest one's sum of gradients is used.
        between: a JAX function of one sample's pre-activations (m,) and input (n,): what the lowest of ``layers_above``
            sees of it, where that is more than an activation, such as LayerNorm, a gate or a skip connection. The span
            method is then the only one, and zeros are not looked at.
        state: state of a search to go on with (`audit.resume.load_state`).
        on_round: called after each round of the search.

    Returns:
        the reconstruction; ``result.status`` says how it ended and what to do. A batch that cannot be
        inverted is a status, not an error.

    Raises:
        SpearError: the rank or the number of devices asked for does not exist, or the model does not fit the layer.
    """
    above = known_above(observation, model, next_weight_grad, layers_above, between)  # checked
    clock = Clock()
    factorization = factorize(observation.weight_grad, rank=config.rank, rounding=observation.rounding)
    if factorization.is_full and config.rank is None:
        return refused(factorization, config, clock)
    problem = pose(observation, factorization, above)  # all that any later stage sees
    clock.lap("factorize")
    plan = make_plan(problem, config)  # proposer and why, sampler, expected cost: once
    if above is not None and not above.confirms:  # what the layers above saw is in the plan
        problem = dataclasses.replace(problem, above=None)
    run = Run(key, config, on_round)
    outcome = search(problem, plan, run, state)  # directions, and what was certified on the way
    layers = (observation, *(layers_above or ()))
    problem, outcome = refine(problem, plan.stack_of(outcome), layers, outcome, run)  # where noise turns row spaces
    clock.lap("search")
    verdict = certify(problem, outcome, config.num_examples)  # the one place that calls a sample exact
    recovered = recover(observation, problem, verdict)
    clock.lap("solve")
    stats = make_stats(factorization, config, plan, outcome, clock)
    status = final_status(outcome.status, problem, verdict, config)
    return make_result(factorization, verdict, recovered, status, stats)
