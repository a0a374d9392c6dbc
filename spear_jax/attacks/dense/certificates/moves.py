"""Inputs moved by the error that a certificate excludes, to see whether the network would notice."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from spear_jax.attacks.dense.certificates import limits

# Makes the random mixture that samples are moved along: part of the algorithm, not of the experiment.
TAINT_SEED = 0


def mixture(dual: Float[np.ndarray, "k r"], spectrum: Float[np.ndarray, " r"]) -> Float[np.ndarray, "k r"]:
    """A random input of the row space for each sample."""
    return np.random.default_rng(TAINT_SEED).standard_normal(dual.shape) / spectrum


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
