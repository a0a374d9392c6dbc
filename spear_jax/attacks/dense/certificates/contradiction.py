"""Why directions that are found contradict the model: the one reason whose own test explains it, or none."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import comb

from spear_jax import linalg, numerics
from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.certificates.own_gradient import layers_of, logits_of
from spear_jax.attacks.dense.certificates.pattern import agree, factor_range, is_determined
from spear_jax.attacks.dense.certificates.verdict import Verdict
from spear_jax.attacks.dense.directions.recover import disaggregation, dual_vectors, has_every_scale
from spear_jax.attacks.dense.problem import Problem
from spear_jax.status import Reason, Scale

# Factors of the bias gradient that are tried, finer and finer around the best.
FACTORS, ZOOMS = np.geomspace(1 / 64, 64, 193), 3
# Samples whose gradients are compared with what any loss would give.
ASKED = 8


def explained(problem: Problem, verdict: Verdict) -> Verdict:
    """The verdict with the reason why directions that are all found contradict the model, where they do."""
    agreement = verdict.agreement
    if agreement is None:
        return verdict
    if verdict.scale is Scale.BIAS_GRADIENT:
        verdict = verdict._replace(factor_range=factor_range(problem, verdict.directions))
    if agreement.is_masked:
        return verdict._replace(reason=Reason.MASK)
    if verdict.exact.any() or verdict.approximate.any() or np.mean(agreement.matching < 1) < 0.5:
        return verdict
    if not is_found(problem, verdict.directions):
        return verdict
    return verdict._replace(is_contradicted=True, reason=explain(problem, verdict.directions))


def is_found(problem: Problem, directions: Float[np.ndarray, "k r"]) -> bool:
    """Whether all directions are there and nearly all follow from their zeros: more search would find nothing else."""
    if len(directions) < problem.rank or problem.rank == 1:
        return False
    return bool(is_determined(problem.factorization, directions).mean() >= limits.MOST_DETERMINED)


def explain(problem: Problem, directions: Float[np.ndarray, "r r"]) -> Reason | None:
    """The reason why the patterns of found directions disagree.

    Args:
        problem: of the layer.
        directions: (r, r) unit directions, all of which are known by their zeros.
    """
    mixing = disaggregation(problem.factorization, problem.bias_grad, directions)
    if problem.drift or not has_every_scale(mixing):
        return None
    centred = problem.response @ linalg.inv(mixing).T
    is_on = ~numerics.zero_mask(problem.factorization, directions)
    live = problem.live_mask
    centred, is_on, bias = centred[live], is_on[live], problem.bias[live]
    if _is_scaled(problem, directions, centred, is_on):
        return Reason.SCALE
    if _has_thresholds(centred, is_on) and _left_by_scales(centred, bias, is_on) > limits.OTHER_THRESHOLDS:
        return Reason.BATCH_NORM
    return Reason.BASE_WEIGHTS if _is_blurred(centred + bias[:, None], is_on) else None


def took_steps(problem: Problem, directions: Float[np.ndarray, "r r"], drift: float) -> bool:
    """Whether the patterns agree once the weights are said to have moved by this multiple of the gradients."""
    return bool(agree(dataclasses.replace(problem, drift=drift), directions).confirmed.all())


def fits_another_loss(problem: Problem, directions: Float[np.ndarray, "r r"]) -> bool:
    """Whether each sample's gradient is what some gradient of the logits gives through the layers above.

    Args:
        problem: of the layer, with the model above.
        directions: (r, r) unit directions.
    """
    dual = dual_vectors(problem.factorization, problem.bias_grad, directions)
    if dual is None:
        return False
    for direction, vector in list(zip(directions, dual, strict=True))[:ASKED]:
        jacobian = logits_of(layers_of(problem), problem.response @ vector + problem.bias)[1]
        column = problem.left @ direction
        rank = linalg.matrix_rank(jacobian)
        if 2 * rank + limits.MIN_ENTRIES > np.count_nonzero(jacobian.any(axis=0)):
            return False  # any column would fit
        rest = column - jacobian.T @ linalg.lstsq(jacobian.T, column)[0]
        noise = problem.factorization.noise_floor * numerics.noise_gain(problem.factorization, direction[None])[0]
        if np.linalg.norm(rest) > limits.NETWORK_MARGIN * (noise + problem.client_eps) * np.linalg.norm(column):
            return False
    return True


def _is_scaled(
    problem: Problem, directions: Float[np.ndarray, "r r"], centred: Float[np.ndarray, "l r"], is_on: np.ndarray
) -> bool:
    """Whether all patterns agree at one common factor of the inputs."""
    bias, centre, grid = problem.bias[problem.live_mask][:, None], 1.0, FACTORS
    if not bias.any():
        return False
    for _ in range(ZOOMS):
        wrong = [np.sum((centre * factor * centred + bias > 0) != is_on) for factor in grid]
        best = np.flatnonzero(wrong == np.min(wrong))
        centre *= float(grid[best[len(best) // 2]])
        grid = grid ** (4 / len(grid))
    scaled = dataclasses.replace(problem, bias_grad=problem.bias_grad / centre)
    return bool(agree(scaled, directions).confirmed.all())


def _left_by_scales(
    centred: Float[np.ndarray, "l r"], bias: Float[np.ndarray, " l"], is_on: Bool[np.ndarray, "l r"]
) -> float:
    """Share of the entries that disagree with the model's own thresholds where each sample may have any scale."""
    wrong = [np.mean((factor * centred + bias[:, None] > 0) != is_on, axis=0) for factor in FACTORS]
    return float(np.min(wrong, axis=0).mean())


def _has_thresholds(centred: Float[np.ndarray, "l r"], is_on: Bool[np.ndarray, "l r"]) -> bool:
    """Whether each neuron tells its samples apart by a threshold of its own, and far more of them than by chance."""
    count = is_on.sum(axis=1)
    mixed = (count > 0) & (count < is_on.shape[1])
    order = np.take_along_axis(is_on, np.argsort(centred, axis=1), axis=1)
    changes = np.sum(order[:, 1:] != order[:, :-1], axis=1)
    chance = np.minimum(2 / comb(is_on.shape[1], count[mixed]), 1.0)
    separable = np.sum(changes[mixed] == 1)
    beyond = (separable - chance.sum()) / np.sqrt(max(np.sum(chance * (1 - chance)), 1.0))
    return bool(separable >= limits.MOST_SEPARABLE * mixed.sum() and beyond > limits.PLAIN)


def _is_blurred(pre_activation: Float[np.ndarray, "l r"], is_on: Bool[np.ndarray, "l r"]) -> bool:
    """Whether samples disagree in both directions near zero and agree far from it."""
    agrees = (pre_activation > 0) == is_on
    near = np.abs(pre_activation) <= np.median(np.abs(pre_activation), axis=0)
    count = np.sum(~agrees)
    if count < limits.MIN_ENTRIES:
        return False
    shares = np.mean(~agrees & is_on) / np.mean(~agrees), np.mean(~agrees & near) / np.mean(~agrees)
    is_correlated = agrees.mean() > 0.5 + limits.PLAIN / np.sqrt(agrees.size)
    return bool(is_correlated and 0.1 < shares[0] < 0.9 and shares[1] > 0.6)
