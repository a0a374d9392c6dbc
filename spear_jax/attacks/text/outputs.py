"""What the model was to put out behind each prefix: the labels, read off the last linear layer of the last block.

That layer reads one vector ``h_i`` for each prefix, all of which are known once the prefixes are, and its gradient is
``sum_i d_i h_i^T``: dual vectors of the ``h_i`` give every ``d_i``. Nothing but the final norm and the output layer E
stands between: ``d_i = J_i^T sum_y a_iy E^T (p_i - e_y)`` for weights ``a_iy`` of the labels y, softmax outputs ``p_i``
and J_i the norm's derivative. So a label is, once more, a discrete choice: from V vectors that can be written down.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import nnls

from spear_jax import linalg
from spear_jax.attacks.text.tokens import CHUNK
from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import Params, product
from spear_jax.language.observation import TextObservation
from spear_jax.language.transformer import family, logits, module_names, output_name, top_params
from spear_jax.row_space import FORWARD_ROUNDING
from spear_jax.stages import stage

# A prefix has no more labels than this: that many sequences share it and go on differently.
MOST_LABELS = 64
# States that go through the output layer at a time.
STATES = 32
# The rest of an output gradient that noise explains, in units of that noise.
EXPLAINED = 30.0
# What counts for a label: a share of the largest weight of all.
LEAST_WEIGHT = 1e-3


@stage("text: labels")
def read_outputs(
    observation: TextObservation, params: Params, hidden: np.ndarray, final: np.ndarray, likely: list[list[int]]
) -> list[dict[int, float]] | None:
    """The labels of all prefixes and what they weigh in the loss.

    Args:
        observation: what came back.
        params: the model's tensors on the device.
        hidden: (N, h) what the last linear layer reads of each prefix.
        final: (N, d) state of each prefix behind the last block.
        likely: of each prefix, labels to try first: the tokens that are known to follow.

    Returns:
        of each prefix, ``{label: weight in the loss}``, up to one common factor; None where the gradient of that layer
        did not come back, or as an adapter only, or there are more prefixes than its inputs are long.
    """
    architecture = observation.architecture
    (module,) = module_names(architecture, architecture.layers - 1, "down")
    gradient = observation.gradients.get(f"{module}.weight")
    if gradient is None or len(hidden) > hidden.shape[1]:
        return None
    outward = gradient if family(architecture).IS_IN_OUT else gradient.T
    solved, noise = _by_duals(hidden, outward, observation.rounding.get(f"{module}.weight", 0.0))
    top = Top(architecture, params)
    expected = top.expected(final)
    read = [top.labels(*of_one) for of_one in zip(final, expected, solved, noise, likely, strict=True)]
    least = LEAST_WEIGHT * max((weight for labels in read for weight in labels.values()), default=0.0)
    return [{label: weight for label, weight in labels.items() if weight > least} for labels in read]


def _by_duals(hidden: np.ndarray, gradient: np.ndarray, rounding: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows d_i of ``gradient = sum_i h_i d_i^T`` (h, d), and the norm (N,) of the noise of each.

    Noise is what no combination of the h_i explains, and the rounding of the h_i themselves, which enters by the duals.
    """
    duals = linalg.pinv(hidden.astype(np.float64)).T  # (N, h), dual to the rows of hidden
    solved = duals @ gradient
    rest = gradient - hidden.T @ solved
    spare = max(gradient.shape[0] - len(hidden), 1) * gradient.shape[1]
    std = max(float(np.sqrt(np.sum(np.square(rest)) / spare)), rounding, _own_rounding(gradient))
    moved = _eps(hidden) * np.linalg.norm(np.linalg.norm(hidden, axis=1) * np.linalg.norm(solved, axis=1))
    size = np.linalg.norm(duals, axis=1)
    return solved, size * np.hypot(std * np.sqrt(gradient.shape[1]), FORWARD_ROUNDING * moved)


def _eps(array: np.ndarray) -> float:
    return float(np.finfo(array.dtype).eps)


def _own_rounding(gradient: np.ndarray) -> float:
    return _eps(gradient) * float(np.sqrt(np.mean(np.square(gradient, dtype=np.float64))))


class Top:
    """Final norm and output layer, and what they pull back of a loss's derivative."""

    def __init__(self, architecture: Architecture, params: Params) -> None:
        self._architecture, self._params = architecture, top_params(architecture, params)
        self.size = params[output_name(architecture)].shape[0]

    def expected(self, final: np.ndarray) -> np.ndarray:
        """(N, d) mean row of the output layer under the model's own prediction, pulled back through the final norm."""
        found = []
        for start in range(0, len(final), STATES):
            part = final[start : start + STATES]
            rows = np.resize(part, (STATES, final.shape[1]))
            found.append(np.asarray(_expected(self._architecture, self._params, rows))[: len(part)])
        return np.concatenate(found)

    def shares(self, final: np.ndarray) -> np.ndarray:
        """(N, V) the model's own prediction at each state."""
        return np.asarray(_shares(self._architecture, self._params, jnp.asarray(final)))

    def labels(
        self, final: np.ndarray, expected: np.ndarray, solved: np.ndarray, noise: float, likely: list[int]
    ) -> dict[int, float]:
        """Weights of the labels behind one prefix, as many as explain its output gradient to its noise."""
        chosen, everything = list(likely), None
        while True:
            weights, rest, size = self._fit(final, solved, expected, chosen)
            misfit = float(np.linalg.norm(rest) / np.hypot(noise, FORWARD_ROUNDING * _eps(final) * size))
            if misfit <= EXPLAINED or len(chosen) >= MOST_LABELS:
                break
            if everything is None:
                everything = expected[None] - self.pulled(final, np.arange(self.size))
            lengths = np.linalg.norm(everything, axis=1)
            scores = everything @ rest.astype(everything.dtype) / np.maximum(lengths, lengths.max() * 1e-6)
            scores[chosen] = -np.inf
            chosen.append(int(np.argmax(scores)))
        return {label: float(weight) for label, weight in zip(chosen, weights, strict=True) if weight > 0}

    def _fit(
        self, final: np.ndarray, solved: np.ndarray, expected: np.ndarray, chosen: list[int]
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Weights >= 0 of some labels, what they leave of an output gradient, and the size of the terms that cancel."""
        if not chosen:
            return np.zeros(0), solved, 0.0
        pulled = self.pulled(final, np.array(chosen)).astype(np.float64)
        atoms = expected[None].astype(np.float64) - pulled
        weights = nnls(atoms.T, solved)[0]
        size = float(weights @ (np.linalg.norm(pulled, axis=1) + np.linalg.norm(expected)))
        return weights, solved - weights @ atoms, size

    def pulled(self, final: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(k, d) rows of the output layer, pulled back through the final norm at one state."""
        size = 8 if len(labels) <= 8 else CHUNK
        parts = [labels[start : start + size] for start in range(0, len(labels), size)]
        found = [
            np.asarray(_pull(self._architecture, self._params, final, np.resize(part, size)))[: len(part)]
            for part in parts
        ]
        return np.concatenate(found)


@partial(jax.jit, static_argnums=0)
def _shares(architecture: Architecture, params: Params, final: jax.Array) -> jax.Array:
    return jax.nn.softmax(logits(architecture, params, family(architecture).final_norm(architecture, params, final)))


@partial(jax.jit, static_argnums=0)
def _expected(architecture: Architecture, params: Params, final: jax.Array) -> jax.Array:
    normed, pull = jax.vjp(lambda state: family(architecture).final_norm(architecture, params, state), final)
    shares = jax.nn.softmax(logits(architecture, params, normed))
    return pull(product(shares, jnp.asarray(params[output_name(architecture)])))[0]


@partial(jax.jit, static_argnums=0)
def _pull(architecture: Architecture, params: Params, final: jax.Array, labels: jax.Array) -> jax.Array:
    """(k, d) rows of the output layer, pulled back through the final norm."""
    pull = jax.vjp(lambda state: family(architecture).final_norm(architecture, params, state), final)[1]
    return jax.vmap(lambda row: pull(row)[0])(params[output_name(architecture)][labels])
