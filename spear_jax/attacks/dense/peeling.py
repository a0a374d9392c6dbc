"""Samples peeled off the gradient one after another, each known by the network alone.

Where neuron k fires for one sample only, row k of the gradient over entry k of the bias gradient is that sample, as in
the ratio rule; which neurons do, the known network tells: the sample's own gradient ``D(y)`` then lies in the column
space, and its entry k, weighted as the other samples are, is all of the bias gradient there. Taken off the gradient the
sample leaves new neurons to one sample, as symbols leave a fountain code (LT-code peeling, Shariati and Alambardar
Meybodi 2026). Unlike there everything happens in the r coordinates of the factorisation, thresholds are the noise's,
and what is known is sharpened after each round: the dual vector of one sample is orthogonal to the directions of the
others, which takes out of it what its neuron held of samples that were found later.

It takes seconds and needs neither all directions nor centred inputs, but neurons that fire for few.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spear_jax import numerics
from spear_jax.attacks.dense.certificates import samples_by_themselves
from spear_jax.attacks.dense.certificates.alone import in_order
from spear_jax.attacks.dense.certificates.by_itself import (
    common_weight,
    held_of_others,
    misfit,
    rounding,
    weights,
)
from spear_jax.attacks.dense.certificates.limits import NETWORK_MARGIN
from spear_jax.attacks.dense.certificates.own_gradient import Own, label_misses, layers_of, own_gradients
from spear_jax.attacks.dense.certificates.select import select
from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.outcome import Outcome, Run, Samples, initial_state, settled
from spear_jax.attacks.dense.problem import Problem
from spear_jax.devices import compile_seconds, select_devices
from spear_jax.stages import stage
from spear_jax.status import Status

# What others may add to a neuron, beyond the noise, for its sample to be taken: it is cleaned of that later. No neuron
# of a thousand changes its sign with so little, and one that does moves D(y) by a thousand times as much.
ADMIXTURE = 1e-5
# Share of a wrong input's labels that miss the column space by so little along one random vector, next to the one that
# misses it most, that the input is looked at in full; and what a sample's own label may miss by, over its misfit.
LOOKED_AT, BY_CHANCE = 0.3, 10.0
# Arithmetic that the candidates of one round may cost, those of lowest offset first: seconds on two CPU cores. All
# neurons of a layer of 1000 with five such above stay below it.
ROUND_FLOPS = 2**37
# Steps of sharpening after each round: a sample is cleaned of one that is itself cleaned in the step before.
SHARPENINGS = 3
# Share of one sample in another from which the two are the same, or mixed beyond use.
SAME = 0.5


class Peeled(NamedTuple):
    """The samples that are off.

    Attributes:
        dual: (k, r) dual vectors, ``x = dual @ right``.
        gradients: (m, k) ``D``, as the client weighted it.
        noise: (k,) error of each input relative to its norm that the row it was read off leaves.
        spoiled: (k,) error of what was taken off with each, relative to it.
        labels: (k,) as their candidates had them.
    """

    dual: Float[np.ndarray, "k r"]
    gradients: Float[np.ndarray, "m k"]
    noise: Float[np.ndarray, " k"]
    spoiled: Float[np.ndarray, " k"]
    labels: Int[np.ndarray, " k"]


class Candidates(NamedTuple):
    """Neurons of what is left of the gradient, each as if one sample fired there.

    Attributes:
        rows: (l,) neurons.
        dual: (l, r) what would be the sample's dual vector.
        noise: (l,) error of it relative to its norm.
        own: what the network says of it.
    """

    rows: Int[np.ndarray, " l"]
    dual: Float[np.ndarray, "l r"]
    noise: Float[np.ndarray, " l"]
    own: Own


@stage("peel")
def peel_samples(problem: Problem, run: Run) -> Outcome:
    """Rounds of peeling until no neuron gives a sample, and what the certificates say of each that was found.

    Args:
        problem: of the layer, with the model above.
        run: of the search; of its budgets that of time counts.
    """
    started, compiled = time.perf_counter(), compile_seconds()
    peeled, weight = _nothing(problem), float("nan")
    while not run.is_late(started):
        candidates = _candidates(problem, peeled)
        if np.isnan(weight):
            weight = _weight(problem, candidates)
        places = _accepted(problem, peeled, candidates, weight)
        if len(places) == 0:
            break
        peeled = _sharpened(problem, _with(peeled, candidates, places))
    found = samples_by_themselves(problem, peeled.dual, peeled.noise)
    compiled = compile_seconds() - compiled
    return _outcome(problem, run, found)._replace(
        compile_seconds=compiled, search_seconds=time.perf_counter() - started - compiled
    )


def _nothing(problem: Problem) -> Peeled:
    rows, rank = problem.left.shape
    return Peeled(np.zeros((0, rank)), np.zeros((rows, 0)), np.zeros(0), np.zeros(0), np.zeros(0, np.int64))


def _size(problem: Problem, dual: Float[np.ndarray, "k r"]) -> Float[np.ndarray, " k"]:
    """Norms of the inputs that dual vectors give."""
    return np.linalg.norm(dual * problem.spectrum, axis=1)


def _candidates(problem: Problem, peeled: Peeled) -> Candidates:
    """Neurons of what is left that stand out of the noise, those of lowest offset first, as many as may be tried."""
    left = problem.left - peeled.gradients @ peeled.dual
    bias_grad = problem.bias_grad - peeled.gradients.sum(axis=1)
    factorization = problem.factorization
    own_noise = np.hypot(factorization.noise_std * np.sqrt(factorization.right.shape[1]), factorization.noise_floor)
    spoiled = np.abs(peeled.gradients) * _size(problem, peeled.dual) * np.hypot(peeled.spoiled, peeled.noise)
    noise = np.sqrt(own_noise**2 + np.sum(spoiled**2, axis=1))
    size = _size(problem, left)
    stands_out = problem.live_mask & (size > numerics.ZERO_SIGMAS * noise) & (bias_grad != 0)
    rows = np.flatnonzero(stands_out)
    rows = rows[np.argsort(problem.offset[rows], kind="stable")][: _affordable(problem)]
    dual, noise = left[rows] / bias_grad[rows, None], noise[rows] / size[rows]
    looked_at = _may_fit(problem, dual, noise)
    rows, dual, noise = rows[looked_at], dual[looked_at], noise[looked_at]
    return Candidates(rows, dual, noise, own_gradients(problem, dual))


def _may_fit(
    problem: Problem, dual: Float[np.ndarray, "l r"], noise: Float[np.ndarray, " l"]
) -> Bool[np.ndarray, " l"]:
    """Whether a candidate may be one sample: a label misses the column space by little next to another one.

    With two labels both do, if one does: then each is looked at.
    """
    misses = label_misses(problem, dual)
    if misses.shape[1] <= 2:
        return np.ones(len(dual), bool)
    most = np.maximum(LOOKED_AT / misses.shape[1], BY_CHANCE * (ADMIXTURE + NETWORK_MARGIN * noise))
    return misses.min(axis=1) <= most


def _affordable(problem: Problem) -> int:
    """Candidates that may be run through the network in one round: forward with four derivatives, and backward."""
    each = 12 * sum(weight.size for weight, _ in layers_of(problem)) + 4 * problem.left.size
    return max(1, ROUND_FLOPS // each)


def _tolerance(problem: Problem, candidates: Candidates) -> Float[np.ndarray, " l"]:
    """Largest misfit of a candidate that is one sample, but for a little of others."""
    return ADMIXTURE + NETWORK_MARGIN * (candidates.noise + rounding(problem, candidates.own))


def _weight(problem: Problem, candidates: Candidates) -> float:
    """The weight that the samples among the candidates share, NaN where they do not."""
    fits = candidates.own.reaches & (candidates.own.distance <= _tolerance(problem, candidates))
    return common_weight(weights(problem, candidates.dual, candidates.own)[fits])


def _accepted(problem: Problem, peeled: Peeled, candidates: Candidates, weight: float) -> Int[np.ndarray, " k"]:
    """Places of the candidates that are samples, one for each that is new, the one that fits best."""
    own, rows = candidates.own, candidates.rows
    # At its own neuron nobody else fires: there the weight is the bias gradient's share.
    entries = own.gradients[rows, np.arange(len(rows))]
    bias_grad = (problem.bias_grad - peeled.gradients.sum(axis=1))[rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        alone = np.where(entries * bias_grad > 0, bias_grad / entries, np.nan)
    distance = np.linalg.norm(misfit(own, alone, weight), axis=0)
    tolerance = _tolerance(problem, candidates)
    fits = own.reaches & np.isfinite(alone) & (distance <= tolerance) & (tolerance < ADMIXTURE**0.5)
    places = np.flatnonzero(fits)
    places = places[np.argsort(np.maximum(distance, candidates.noise)[places], kind="stable")]
    return _new(problem, peeled, candidates, places)


def _new(
    problem: Problem, peeled: Peeled, candidates: Candidates, places: Int[np.ndarray, " j"]
) -> Int[np.ndarray, " k"]:
    """Of these candidates, best first, those that no known one nor an earlier of them already is.

    A sample's dual vector gives 1 on its own direction and 0 on the others'.
    """
    weight = weights(problem, candidates.dual, candidates.own)
    sent = (problem.left.T @ np.nan_to_num(candidates.own.gradients * weight)).T
    known, chosen = np.abs(sent @ peeled.dual.T).max(axis=1, initial=0) > SAME, []
    for place in places:
        if not known[place] and len(peeled.dual) + len(chosen) < problem.rank:
            chosen.append(place)
            known |= np.abs(sent @ candidates.dual[place]) > SAME
    return np.asarray(chosen, np.int64)


def _with(peeled: Peeled, candidates: Candidates, places: Int[np.ndarray, " j"]) -> Peeled:
    """These candidates too, of which nothing is taken off yet."""
    own = candidates.own
    return Peeled(
        dual=np.concatenate([peeled.dual, candidates.dual[places]]),
        gradients=np.concatenate([peeled.gradients, 0 * own.gradients[:, places]], axis=1),
        noise=np.concatenate([peeled.noise, candidates.noise[places]]),
        spoiled=np.concatenate([peeled.spoiled, np.zeros(len(places))]),
        labels=np.concatenate([peeled.labels, own.labels[places]]),
    )


def _sharpened(problem: Problem, peeled: Peeled) -> Peeled:
    """Samples with what they hold of one another taken out, where it is more than their directions are off by."""
    for _ in range(SHARPENINGS):
        peeled = _run_through(problem, peeled)
        held = held_of_others(problem, peeled.dual, peeled.gradients, peeled.spoiled)
        peeled = peeled._replace(dual=peeled.dual - held @ peeled.dual)
    return _run_through(problem, peeled)


def _run_through(problem: Problem, peeled: Peeled) -> Peeled:
    """What the network says of samples: their gradients as the client weighted them, and how far these may be off."""
    own = own_gradients(problem, peeled.dual, peeled.labels)
    weight = weights(problem, peeled.dual, own)
    common = common_weight(weight)
    missed = np.linalg.norm(misfit(own, weight, common), axis=0)
    weight = np.nan_to_num(weight) if np.isnan(common) else common
    spoiled = np.nan_to_num(missed + rounding(problem, own), posinf=1.0)
    return peeled._replace(gradients=own.gradients * weight, spoiled=spoiled)


def _outcome(problem: Problem, run: Run, found: Samples) -> Outcome:
    """The samples as an outcome; in the pool the directions of those that are certified or fire as their input does."""
    directions = found.directions[found.confirmed | (found.matching == 1)]
    devices = select_devices(run.config.num_devices)
    state = initial_state(problem.rank, run.config)._replace(method="dictionary")
    zeros, hits = pool.zero_count(problem.factorization, directions), np.ones(len(directions), np.int64)
    state = state._replace(pool=pool.merge(state.pool, directions, zeros, hits))
    chosen, agreement = select(problem, state.pool, may_swap=False)
    chosen = state.pool.directions[chosen]
    return Outcome(
        state=state,
        directions=chosen,
        agreement=agreement,
        status=settled(agreement) or Status.ROUND_BUDGET,
        alone=in_order(found, chosen),
        devices=(len(devices), devices[0].device_kind),
    )
