"""Samples behind noise, all together: what roots began, the whole of both gradients ends (docs/span.md, Sec. 5).

Roots lie in the row spaces that the gradients show; where noise turns these, roots are far off, or none. From what they
are, shaken at random, descents of the whole batch look for where both gradients leave least (`roots.joint`); the best
one is shaken again, until the samples' own gradients confirm it (`certificates.jointly`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from spear_jax import linalg
from spear_jax.attacks.dense.certificates import jointly as certificate
from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.certificates.twins import twin_distance
from spear_jax.attacks.dense.outcome import Outcome, Progress, Run, Samples
from spear_jax.attacks.dense.problem import Problem
from spear_jax.attacks.dense.roots.found import Found
from spear_jax.attacks.dense.roots.joint import Joint, Start, explain, explore, sharpen
from spear_jax.attacks.dense.roots.stack import Stack
from spear_jax.devices import compile_seconds, deal_out, select_devices
from spear_jax.factorization import is_flat
from spear_jax.numerics import in_float64
from spear_jax.observation import LayerObservation
from spear_jax.stages import stage

# Starts of a round, rounds at most, and those in a row that better nothing after which the search ends: a wrong sample
# leaves hundreds, in units of the noise's variance.
STARTS, MOST_ROUNDS, DRY_ROUNDS, BETTER = 4, 24, 5, 25.0
# Noise of the gradient, relative to its size, below which roots say more.
LEAST_NOISE = 1e-3
# Least noise of a layer relative to its size, as a share of the other's: behind less its equations drown the other's,
# along which no descent moves, and none that would show what it misses.
QUIETEST = 1e-5
# Samples up to which all their mixtures are looked at.
MOST_SAMPLES = 64
# Separates the keys of these rounds from those of the search for roots.
JOINT_KEY = 2**29


class Best(NamedTuple):
    """The batch that explains the gradients best so far.

    Attributes:
        joint: the layers, with the noise of the bias gradients that it shows.
        inputs: (b, d) float64, on the basis.
        cost: what it leaves, in units of the noise.
        witness: what its own gradients say.
    """

    joint: Joint
    inputs: Float[np.ndarray, "b d"]
    cost: float
    witness: certificate.Witness


@stage("joint fit")
def refine(
    problem: Problem, stack: Stack | None, layers: Sequence[LayerObservation], outcome: Outcome, run: Run
) -> tuple[Problem, Outcome]:
    """The problem in the row space of the batch that explains both gradients best, and its samples.

    Both as they were where roots say all or more, and where no batch explains the gradients well enough.

    Args:
        problem: of the layer.
        stack: the equations that the roots solve; None where nothing was sought by equations.
        layers: the layer and those above it, as observed.
        outcome: the roots.
        run: of the search; round i uses a key of its own, and the time budget is what is left of it.
    """
    if stack is None or not _suits(stack, outcome):
        return problem, outcome
    started, compiled = time.perf_counter(), compile_seconds()
    joint, basis = pose_joint(layers, stack)
    best = _search(joint, basis, outcome, (stack, run))
    if best is not None and best.witness.stands.any():
        found = _as_found(basis, best, (problem, stack, outcome, run))
        if _bars(found[1]) >= _bars(outcome):
            problem, outcome = found
    compiled = compile_seconds() - compiled
    seconds = time.perf_counter() - started - compiled
    return problem, outcome._replace(
        compile_seconds=outcome.compile_seconds + compiled, search_seconds=outcome.search_seconds + seconds
    )


def _bars(outcome: Outcome) -> int:
    """Samples that have an error bar."""
    assert outcome.alone is not None
    return int(np.sum(outcome.alone.confirmed & (outcome.alone.error <= limits.MAX_APPROXIMATE_ERROR)))


def _suits(stack: Stack, outcome: Outcome) -> bool:
    """Whether noise left roots that are not exact, and both gradients came back with those of their biases."""
    if outcome.state.roots is None or outcome.agreement is not None or outcome.alone is None:
        return False
    is_noisy = stack.problem.noise_in_roundings * stack.problem.client_eps > LEAST_NOISE
    has_both = stack.has_total and stack.uppers[0].constant > 0 and stack.between is None
    is_exact = np.sum(outcome.alone.error <= limits.MAX_ERROR / limits.ERROR_MARGIN) == stack.rank
    return is_noisy and has_both and stack.takes_out and not is_exact and 1 < stack.rank <= MOST_SAMPLES


def pose_joint(layers: Sequence[LayerObservation], stack: Stack) -> tuple[Joint, Float[np.ndarray, "n d"]]:
    """Both layers in units of their noise, float64 on the host, and the basis of the inputs that they are given in."""
    float64 = lambda array: np.asarray(array, np.float64)
    layer, upper = layers[0], layers[1]
    weight, gradient = float64(layer.weight), float64(layer.weight_grad)
    basis = linalg.qr(np.concatenate([weight, gradient]).T)[0]
    sizes, noises = np.zeros(2), np.zeros(2)
    for place, (observed, noise, rank) in enumerate(
        (
            (layer, stack.problem.factorization.noise_std, stack.rank),
            (upper, stack.uppers[0].noise, len(stack.uppers[0].spectrum)),
        )
    ):
        rows = len(observed.weight_grad)  # of which the samples explain as many as they are
        sizes[place] = np.sqrt(np.mean(float64(observed.weight_grad) ** 2))
        noises[place] = max(noise * np.sqrt(rows / max(rows - rank, 1)), stack.rounding * sizes[place])
    noises = np.maximum(noises, QUIETEST * sizes * (noises / sizes)[::-1])
    whole = lambda kernel, vector, noise: np.column_stack([kernel, float64(vector)]) / noise
    leaves: dict[str, Any] = dict(
        weight=weight @ basis,
        bias=stack.problem.bias,
        grad=whole(gradient @ basis, layer.bias_grad, noises[0]),
        next_weight=float64(upper.weight),
        next_grad=whole(float64(upper.weight_grad), upper.bias_grad, noises[1]),
        one=np.ones(()),
        next_one=np.ones(()),
        noise=np.asarray(noises[0]),
        next_noise=np.asarray(noises[1]),
        kind=np.asarray(stack.activation.kind, np.int32),
        slope=np.asarray(stack.activation.slope),
    )
    return Joint(**leaves), basis


def _search(joint: Joint, basis: np.ndarray, outcome: Outcome, how: tuple[Stack, Run]) -> Best | None:
    """Rounds of shaken starts from the best batch so far, until its gradients confirm all samples, or nothing helps."""
    (stack, run), started = how, time.perf_counter()
    run = run.after(outcome.spent)
    right = np.asarray(stack.problem.factorization.right) @ basis
    (known, is_open), beyond = _first(stack, outcome, right), len(basis) - basis.shape[1]
    spread = right / stack.problem.spectrum[:, None] * np.linalg.norm(stack.typical)
    best, grown_at, standing = None, 0, 0
    for number in range(MOST_ROUNDS):
        if run.is_late(started) or number - grown_at > DRY_ROUNDS or standing == stack.rank:
            break
        start = Start(
            key=jax.random.fold_in(run.key, JOINT_KEY + number),
            inputs=jnp.asarray(known if best is None else best.inputs, jnp.float32),
            is_open=jnp.asarray(is_open & (best is None)),
            spread=jnp.asarray(spread, jnp.float32),
            is_first=jnp.asarray(number == 0),
        )
        inputs, cost = _descended(joint, start, run)
        if best is None or cost < best.cost - BETTER:
            joint, inputs, cost = in_float64(sharpen, joint, inputs)
            best, grown_at = Best(joint, inputs, float(cost), certificate.witness(joint, inputs, beyond)), number
            standing = int(best.witness.stands.sum())
        if run.on_round is not None:
            seconds = outcome.search_seconds + time.perf_counter() - started
            state = outcome.state
            run.on_round(Progress(state, standing, stack.rank, float("nan"), seconds, state.candidates))
    return best


def _descended(joint: Joint, start: Start, run: Run) -> tuple[Float[np.ndarray, "b d"], float]:
    """The best batch that a round's starts end at, and what it leaves."""
    index, count = run.config.shard
    numbers = [jnp.asarray(index + count * place, jnp.uint32) for place in range(STARTS)]
    cast = lambda leaf: jnp.asarray(leaf, jnp.int32 if leaf.dtype == np.int32 else jnp.float32)
    devices = select_devices(run.config.num_devices)
    ended = np.stack(deal_out(explore, (jax.tree.map(cast, joint), start), numbers, devices)).astype(np.float64)
    costs = np.where(np.isfinite(ended).all(axis=1), ended[:, -1], np.inf)
    best = int(np.argmin(costs))
    return ended[best, :-1].reshape(start.inputs.shape), float(costs[best])


def _first(stack: Stack, outcome: Outcome, right: Float[np.ndarray, "r d"]) -> tuple[np.ndarray, np.ndarray]:
    """The roots, (b, d), and for samples without one what the bias gradient says of all; which these are."""
    roots = outcome.state.roots
    assert roots is not None
    points = roots.points[: stack.rank]
    missing = np.broadcast_to(stack.typical, (stack.rank - len(points), stack.rank))
    inputs = (np.concatenate([points, missing]) / stack.problem.spectrum) @ right
    return inputs, np.arange(stack.rank) >= len(points)


def _as_found(basis: np.ndarray, best: Best, what: tuple[Problem, Stack, Outcome, Run]) -> tuple[Problem, Outcome]:
    """The batch in the coordinates of the gradient that it explains."""
    (problem, stack, outcome, run), joint = what, best.joint
    own, later, seen, slopes = in_float64(explain, joint, best.inputs)
    left, spectrum, right = _thin(own, best.inputs)
    factorization, rank = stack.problem.factorization, stack.rank
    tail = np.asarray(factorization.singular_values)[rank:]
    problem = dataclasses.replace(
        problem,
        factorization=dataclasses.replace(
            factorization,
            left=left,
            right=right @ basis.T,
            singular_values=np.concatenate([spectrum * joint.noise, tail]),
        ),
        response=joint.weight @ right.T,
    )
    dual = best.inputs @ right.T
    directions = own @ left / np.linalg.norm(own @ left, axis=1, keepdims=True)
    twins = np.zeros(rank)
    if run.config.num_examples != rank:
        twins = _twins(dataclasses.replace(stack, problem=problem, views=1), dual, later * joint.next_noise, seen)
    if stack.activation.is_kinked:
        twins = np.where(certificate.hold_each_other(slopes), np.inf, twins)
    vouched = _near_roots(stack, outcome, best.inputs @ basis.T)
    known = Samples(directions, dual, vouched, np.zeros(rank), np.full(rank, np.inf))
    flat = is_flat(factorization) and stack.uppers[0].is_flat and best.witness.has_scale
    size = np.linalg.norm(best.inputs, axis=1)
    alone = certificate.confirmed(known, best.witness, size, twins, is_flat=flat)
    return problem, outcome._replace(directions=directions, alone=alone)


def _near_roots(stack: Stack, outcome: Outcome, inputs: Float[np.ndarray, "b n"]) -> Bool[np.ndarray, " b"]:
    """Whether each input is nearer to a confirmed root than what is recognised."""
    assert outcome.alone is not None
    roots = outcome.alone.dual[outcome.alone.confirmed] @ np.asarray(stack.problem.factorization.right)
    if len(roots) == 0:
        return np.zeros(len(inputs), bool)
    squares = np.sum(inputs**2, axis=1)[:, None] + np.sum(roots**2, axis=1)[None] - 2 * inputs @ roots.T
    return squares.min(axis=1) <= limits.JOINT_RECOGNISED**2 * np.sum(inputs**2, axis=1)


def _thin(own: Float[np.ndarray, "b m"], inputs: Float[np.ndarray, "b d"]) -> tuple[np.ndarray, ...]:
    """Singular vectors and values of ``own^T inputs``."""
    basis, factor = linalg.qr(inputs.T)
    left, spectrum, right = linalg.svd(own.T @ factor.T, full_matrices=False)
    return left, spectrum, right @ basis.T


def _twins(stack: Stack, dual: np.ndarray, later: np.ndarray, seen: np.ndarray) -> Float[np.ndarray, " b"]:
    """Distance within which each sample may be the mean of two."""
    left, spectrum, right = _thin(later, np.column_stack([seen, np.ones(len(seen))]))
    upper = stack.uppers[0]._replace(seen=right, left=left, spectrum=spectrum)
    stack = dataclasses.replace(stack, uppers=(upper,))
    points, nothing = dual * stack.problem.spectrum, np.zeros(len(dual))
    return twin_distance(stack, points, Found(points, points, later @ left / spectrum, nothing, nothing))
