"""Planted problems: gradients of a layer whose inputs, pre-activation gradient and directions are known."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from spear_jax.observation import LayerObservation


@dataclasses.dataclass(frozen=True)
class Planted:
    """A planted problem and its answer.

    Attributes:
        observation: what the server sees.
        inputs: (b, n) float64, the private batch.
        grad_z: (m, b) float64, ``D = dL/dZ``, zero exactly where ``Z <= 0``.
    """

    observation: LayerObservation
    inputs: Float[np.ndarray, "b n"]
    grad_z: Float[np.ndarray, "m b"]

    def directions(self, left: Float[np.ndarray, "m r"]) -> Float[np.ndarray, "r b"]:
        """The true directions as unit columns in the coordinates of ``left``."""
        columns = np.asarray(left).T @ self.grad_z
        return columns / np.linalg.norm(columns, axis=0)


def planted_problem(
    batch_size: int,
    out_features: int,
    in_features: int,
    *,
    seed: int = 0,
    dtype: str = "float64",
    noise: float = 0.0,
    spread: float = 0.0,
    dead_rows: int = 0,
    offset: float = 0.0,
) -> Planted:
    """A Gaussian layer, batch and gradient with the ReLU pattern of the layer.

    Args:
        batch_size: b.
        out_features: m.
        in_features: n.
        seed: seed of ``numpy.random.default_rng``.
        dtype: dtype of the observation; the gradient is rounded to it after it was formed in float64.
        noise: standard deviation of Gaussian noise added to the weight gradient, relative to its rms.
        spread: decades that the samples' gradient norms span, evenly in the logarithm.
        dead_rows: neurons (the first ones) that no sample activates.
        offset: common offset of the inputs' features, in standard deviations; 0 is the centred regime.

    Returns:
        the observation and its answer.
    """
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(out_features, in_features)) / np.sqrt(in_features)
    bias = rng.uniform(-1, 1, out_features) / np.sqrt(in_features)
    bias[:dead_rows] = -1e3
    inputs = rng.normal(size=(batch_size, in_features)) + offset
    pre_activation = weight @ inputs.T + bias[:, None]
    scale = 10.0 ** -np.linspace(0, spread, batch_size)
    grad_z = rng.normal(size=(out_features, batch_size)) * scale * (pre_activation > 0)
    weight_grad = grad_z @ inputs
    weight_grad += noise * np.sqrt(np.mean(weight_grad**2)) * rng.normal(size=weight_grad.shape)
    observation = LayerObservation(
        weight=weight.astype(dtype),
        bias=bias.astype(dtype),
        weight_grad=weight_grad.astype(dtype),
        bias_grad=grad_z.sum(axis=1).astype(dtype),
    )
    return Planted(observation, inputs, grad_z)
