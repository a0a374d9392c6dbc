"""A layer of a fresh network that was given a batch of photos, with all that its client keeps to itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

import spear_jax as sj
from spear_jax import numerics
from spear_jax.attacks.dense.sampling import cost
from spear_jax.normalization import Normalization

IMAGES = "imagenet_64.npz"


class RealLayer(NamedTuple):
    """A layer and its answer.

    Attributes:
        observation: what the server sees.
        factorization: of its weight gradient.
        live_rows: (live,) rows that candidates are drawn from.
        left: (live, r) these rows of the left factor, of unit norm.
        is_zero: (live, b) where ``D = dL/dZ`` is zero in these rows.
        directions: (r, b) the true directions, unit columns.
    """

    observation: sj.LayerObservation
    factorization: sj.Factorization
    live_rows: Int[np.ndarray, " live"]
    left: Float[np.ndarray, "live r"]
    is_zero: Bool[np.ndarray, "live b"]
    directions: Float[np.ndarray, "r b"]

    @property
    def hit_probabilities(self) -> Float[np.ndarray, " b"]:
        """Of each column, for one submatrix."""
        rows, batch_size = self.is_zero.shape
        return cost.hit_probability(self.is_zero.sum(axis=0), rows, batch_size)

    def is_among(self, found: Float[np.ndarray, "k r"]) -> Bool[np.ndarray, " b"]:
        """Which of the true directions are among these unit vectors."""
        return np.abs(found @ self.directions).max(axis=0, initial=0) > np.cos(numerics.SAME_DIRECTION_ANGLE)


def real_layer(
    path: Path,
    batch_size: int,
    width: int,
    seed: int,
    *,
    depth: int = 2,
    layer: int = 0,
    raw: bool = False,
    classes: int | None = None,
) -> RealLayer:
    """Simulate a client in float64, default PyTorch initialisation, and factorise what it sends.

    Args:
        path: images of the data pack.
        batch_size: b.
        width: m, of every hidden layer.
        seed: of batch and network.
        depth: hidden layers.
        layer: which of them is observed, the first is 0.
        raw: pixels in [0, 1], not centred.
        classes: labels are taken modulo this; None for the data set's.
    """
    normalization = Normalization((0.0,), (1.0,)) if raw else None
    batch = sj.load_batch(path, batch_size=batch_size, seed=seed, normalization=normalization)
    if classes is not None:
        batch = dataclasses.replace(batch, labels=batch.labels % classes, num_classes=classes)
    model = sj.MLP((width,) * depth, batch.num_classes, param_dtype="float64")
    params = sj.init_params(model, jax.random.key(seed), batch.inputs.shape[1])
    update, truth = sj.simulate_update(model, params, batch, dtype="float64")
    name = update.layers[layer].name
    return layer_of(update.observation(name), truth.grad_z[name])


def layer_of(observation: sj.LayerObservation, grad_z: Float[np.ndarray, "m b"]) -> RealLayer:
    """A layer from what the server sees and what the client knows.

    Args:
        observation: of one step's gradient.
        grad_z: (m, b) ``D = dL/dZ``, exactly zero where ReLU is off.
    """
    factorization = sj.factorize(observation.weight_grad)
    live_rows = np.flatnonzero(np.asarray(factorization.live_mask))
    left = np.asarray(factorization.left)
    directions = left.T @ grad_z
    return RealLayer(
        observation=observation,
        factorization=factorization,
        live_rows=live_rows,
        left=left[live_rows] / np.linalg.norm(left[live_rows], axis=1, keepdims=True),
        is_zero=grad_z[live_rows] == 0,
        directions=directions / np.linalg.norm(directions, axis=0),
    )
