"""Which activation stands between the layer and the next one: only the right one has roots at the noise."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Float

from spear_jax.attacks.dense.outcome import Run, initial_state
from spear_jax.attacks.dense.problem import Problem
from spear_jax.attacks.dense.roots import exact
from spear_jax.attacks.dense.roots.found import none_found
from spear_jax.attacks.dense.roots.stack import Stack
from spear_jax.attacks.dense.span.search import SHARP, one_round
from spear_jax.stages import stage

# Passes over all activations, each with other starts, before none of them is said to hold.
PASSES = 3
# Roots of two activations that are nearer than this, relative to their norm, are one.
ALIKE = 1e-2
# Separates the keys of these rounds from those of the search.
IDENTIFY_KEY = 2**30


@stage("identify")
def identify(problem: Problem, stacks: tuple[Stack, ...], run: Run) -> Stack | None:
    """The equations with the activation that has roots, None where none has within a few rounds each.

    Args:
        problem: of the layer.
        stacks: the equations with each activation that there may be, likely ones first.
        run: of the search; only its key and devices are used.
    """
    for number in range(PASSES):
        key = jax.random.fold_in(run.key, IDENTIFY_KEY + number)
        state = initial_state(problem.rank, run.config)._replace(next_round=number, turns=number)
        for stack in stacks:
            if one_round(stack, none_found(stack), state, run._replace(key=key)) is not None:
                return stack
    return None


@stage("identify")
def also_fit(stacks: tuple[Stack, ...], chosen: Stack, points: Float[np.ndarray, "k r"]) -> tuple[str, ...]:
    """Names of the activations that fit these roots, the chosen one first; several where the data cannot tell them."""
    names = [str(chosen.activation)]
    for stack in stacks:
        if stack.activation != chosen.activation and len(points):
            moved = exact.polish(stack, points)
            is_same = np.linalg.norm(moved - points, axis=1) < ALIKE * np.linalg.norm(points, axis=1)
            if np.all(is_same & (exact.scores(stack, moved) < SHARP)):
                names.append(str(stack.activation))
    return tuple(names)
