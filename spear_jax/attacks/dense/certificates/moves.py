"""Inputs moved by the error that a certificate excludes, to see whether the network would notice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from spear_jax.attacks.dense.certificates import limits

# Random ways to move inputs; their seeds are part of the algorithm, not of the experiment.
MIXTURES = 2
# Directions of the row space that the gradient shows least.
WEAKEST = 8


def ways(dual: Float[np.ndarray, "k r"], spectrum: Float[np.ndarray, " r"]) -> Iterator[Float[np.ndarray, "k r"]]:
    """Directions to move inputs along: random ones and the nearest other sample, there and back.

    Several, because a network that is blind to the input itself notices now and then, by a neuron that changes sign.
    """
    random = (mixture(dual, spectrum, seed) for seed in range(MIXTURES))
    for along in (*random, towards_nearest(dual, spectrum), *weakest(dual, spectrum)):
        yield along
        yield -along


def mixture(
    dual: Float[np.ndarray, "k r"], spectrum: Float[np.ndarray, " r"], seed: int = 0
) -> Float[np.ndarray, "k r"]:
    """A random input of the row space for each sample."""
    return np.random.default_rng(seed).standard_normal(dual.shape) / spectrum


def weakest(dual: Float[np.ndarray, "k r"], spectrum: Float[np.ndarray, " r"]) -> list[Float[np.ndarray, "k r"]]:
    """Along the weakest directions of the gradient, which may be noise that its rank counts as signal."""
    places = np.argsort(spectrum)[: min(WEAKEST, len(spectrum) - 1)]
    return [np.broadcast_to(np.eye(len(spectrum))[place] / spectrum[place], dual.shape) for place in places]


def towards_nearest(dual: Float[np.ndarray, "k r"], spectrum: Float[np.ndarray, " r"]) -> Float[np.ndarray, "k r"]:
    """The way from each sample to the nearest other one."""
    points = dual * spectrum
    squares = np.sum(points**2, axis=1)
    distances = squares[:, None] + squares[None] - 2 * points @ points.T
    np.fill_diagonal(distances, np.inf)
    return dual[np.argmin(distances, axis=1)] - dual


def moved(
    dual: Float[np.ndarray, "k r"], spectrum: Float[np.ndarray, " r"], along: Float[np.ndarray, "k r"]
) -> Float[np.ndarray, "k r"]:
    """Every input moved by `MAX_ERROR` of its norm."""
    size = np.linalg.norm(dual * spectrum, axis=1, keepdims=True)
    length = np.linalg.norm(along * spectrum, axis=1, keepdims=True)
    return dual + limits.MAX_ERROR * size * along / np.where(length > 0, length, 1)
