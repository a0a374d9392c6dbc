"""What a root may be besides a sample: neurons that come twice, and other activations that fit it at another size.

Neurons with parallel weights see one another's pre-activation: they give one equation, however many they are. And where
nothing but the form of the activation says how large a sample is, the form must be told: for small pre-activations SiLU
of an input is GELU of another one of two thirds its size, to second order.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy.sparse.csgraph import connected_components

from spear_jax.activations import ACTIVATIONS, named
from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.roots import exact
from spear_jax.attacks.dense.roots.stack import Stack

# Sizes at which another activation is tried, relative to the root's.
SIZES = 1.5 ** np.arange(-4, 5)
# Neurons are one where their unit vectors differ by less than so many times the noise of what is seen of them, within
# bounds: rounding of the differences, and what is no likeness any more.
UNTOLD, NEAREST, FARTHEST = 100.0, 1e-6, 0.1


def spare_equations(stack: Stack, points: Float[np.ndarray, "k r"]) -> int:
    """Equations beyond the unknowns, neurons whose weights are parallel as far as the noise shows counted once.

    Args:
        stack: the equations.
        points: where the noise is taken.
    """
    neurons = np.append(stack.response, stack.problem.bias[:, None], axis=1)
    size = np.linalg.norm(neurons, axis=1)
    units = neurons[size > 0] / size[size > 0, None]
    noise = float(np.sqrt(np.median(exact.noise_cost(stack, points))))
    apart = min(max(UNTOLD * noise, NEAREST), FARTHEST)
    alike = np.abs(units @ units.T) > 1 - apart**2 / 2
    distinct, _ = connected_components(alike, directed=False)
    return stack.surplus - (len(neurons) - distinct)


def fits_another(
    stack: Stack, points: Float[np.ndarray, "k r"], error: Float[np.ndarray, " k"]
) -> Bool[np.ndarray, " k"]:
    """Whether another activation has a root beside each point that is further from it than its error bar allows.

    Asked only where nothing but the activation's form says how large a sample is.

    Args:
        stack: the equations.
        points: roots of them.
        error: relative, expected of each.
    """
    fits = np.zeros(len(points), bool)
    if stack.has_scale or stack.between is not None:  # a map of the user's own is taken at its word
        return fits
    allowed = limits.ROOT_MIRROR * np.maximum(exact.scores(stack, points), 1)
    size = np.linalg.norm(points, axis=1)
    for name in ACTIVATIONS:
        other = dataclasses.replace(stack, activation=named(name))
        if other.activation.kind == stack.activation.kind:
            continue
        for factor in SIZES:
            moved = exact.polish(other, factor * points)
            is_line = np.abs(np.sum(moved * points, axis=1)) > 0.9 * np.linalg.norm(moved, axis=1) * size
            is_far = np.linalg.norm(moved - points, axis=1) > limits.ROOT_ELSEWHERE * error * size
            fits |= is_line & is_far & (exact.scores(other, moved) < allowed)
    return fits
