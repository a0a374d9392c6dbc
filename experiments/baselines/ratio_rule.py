"""The ratio rule: what a batch leaks by neurons that fire for one sample alone.

Where neuron k fires for sample i only, row k of the weight gradient is ``D_ki x_i`` and entry k of the bias gradient
``D_ki``: their ratio is the sample, exactly (Phong et al., 2018; for batches Fidel, Enthoven and Al-Ars, 2021; facts
"S" for the latter, about 20 of 30 samples in a fully connected network). A batch of one is always exact. All other
neurons give mixtures, which no single neuron tells from samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.cluster import hierarchy

import spear_jax as sj
from experiments.baselines import Reconstruction

# Random directions along which candidates are compared, and what draws them: a part of the method.
DIRECTIONS, DIRECTIONS_SEED = 16, 0


class Options(NamedTuple):
    """How candidates are made and merged.

    Attributes:
        min_bias_grad: entries of the bias gradient below this share of the largest give no candidate.
        merge_distance: candidates this close are one, as a share of their median norm; None for the square root of the
            unit of the gradient's dtype.
    """

    min_bias_grad: float = 1e-10
    merge_distance: float | None = None


def ratio_rule(update: sj.Update, options: Options = Options()) -> Reconstruction:
    """Candidates ``G_k / g_k`` of the first layer's neurons, equal ones merged, most neurons first.

    Its certificate: at least two neurons agree on the candidate, which mixtures do by coincidence only. (They do it
    without one where two samples send back parallel gradients, as with equal labels and a saturated softmax.)

    Args:
        update: of one step's gradient, in any dtype.
        options: thresholds.
    """
    observation = update.observation()
    weight_grad, bias_grad = (np.asarray(part) for part in (observation.weight_grad, observation.bias_grad))
    live = np.abs(bias_grad) > options.min_bias_grad * np.abs(bias_grad).max()
    found = ratios(weight_grad[live].astype(np.float64), bias_grad[live].astype(np.float64))
    distance = options.merge_distance or float(np.finfo(weight_grad.dtype).eps) ** 0.5
    groups = equal_rows(found, distance * float(np.median(np.linalg.norm(found, axis=1))))
    sizes = np.bincount(groups)
    order = np.argsort(-sizes, kind="stable")
    chosen = representatives(groups, np.abs(bias_grad[live]))[order]
    return Reconstruction(found[chosen], sizes[order] > 1)


def ratios(weight_grad: Float[np.ndarray, "k n"], bias_grad: Float[np.ndarray, " k"]) -> Float[np.ndarray, "k n"]:
    """One candidate a neuron; the bias gradient must not vanish."""
    return weight_grad / bias_grad[:, None]


def equal_rows(rows: Float[np.ndarray, "k n"], distance: float) -> Int[np.ndarray, " k"]:
    """Number of the group of each row: rows within ``distance`` of one another, directly or in a chain.

    They are compared along a few random directions, where equal rows are equal and others are not.
    """
    if len(rows) < 2:
        return np.zeros(len(rows), int)
    directions = np.random.default_rng(DIRECTIONS_SEED).normal(size=(rows.shape[1], DIRECTIONS)) / DIRECTIONS**0.5
    tree = hierarchy.linkage(rows @ directions, "single")
    return hierarchy.fcluster(tree, distance, "distance").astype(int) - 1


def representatives(groups: Int[np.ndarray, " k"], weights: Float[np.ndarray, " k"]) -> Int[np.ndarray, " g"]:
    """Row of largest weight of each group, the one that rounding hurts least."""
    order = np.lexsort((-weights, groups))
    return order[np.unique(groups[order], return_index=True)[1]]


def is_new(rows: Float[np.ndarray, "k n"], known: Float[np.ndarray, "j n"], distance: float) -> Bool[np.ndarray, " k"]:
    """Which rows are in a group with no known one."""
    groups = equal_rows(np.concatenate([known, rows]), distance)
    return ~np.isin(groups[len(known) :], groups[: len(known)])
