"""The pooled vectors: what the first layer behind the pool read, one vector for each graph.

Its weight's gradient is ``sum_g d_g p_g^T`` and its bias's ``sum_g d_g``, so that of one graph p is their quotient.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spear_jax.graphs.observation import GraphObservation
from spear_jax.row_space import FORWARD_ROUNDING, RowSpace, row_space


class Pooled(NamedTuple):
    """What the layer behind the pool says.

    Attributes:
        vector: (width,) float64 mean of the pooled vectors, weighed by the sums of their graphs' gradients.
        noise: root mean square of the error of an entry of it.
        found: row space of the layer's gradient: of the pooled vectors.
        bias: (out,) float64 gradient of its bias.
        weight: (out, width) float64 gradient of its weight.
    """

    vector: np.ndarray
    noise: float
    found: RowSpace
    bias: np.ndarray
    weight: np.ndarray

    @property
    def relative(self) -> float:
        """Error of the vector per its length, with that of states that are computed again."""
        eps = float(np.finfo(self.found.space.basis.dtype).eps)
        length = float(np.linalg.norm(self.vector))
        return FORWARD_ROUNDING * eps + self.noise * np.sqrt(len(self.vector)) / max(length, np.finfo(float).tiny)


def behind_pool(observation: GraphObservation) -> str:
    """Name of the layer that reads the pooled vectors."""
    architecture = observation.architecture
    return f"readout.{architecture.readout_layers - 1 if architecture.readout == 'node' else 0}"


def read_pooled(observation: GraphObservation) -> Pooled | None:
    """The pooled vectors; None where the layer's gradients, of weight and bias, did not come back or are zero."""
    name = behind_pool(observation)
    weight, bias = (observation.gradients.get(f"{name}.{part}") for part in ("weight", "bias"))
    if weight is None or bias is None or not np.any(weight) or not np.any(bias):
        return None
    found = row_space(weight, observation.dtype, rounding=observation.rounding.get(f"{name}.weight", 0.0))
    bias64, weight64 = bias.astype(np.float64), weight.astype(np.float64)
    square = float(bias64 @ bias64)
    vector = weight64.T @ bias64 / square
    eps = max(float(np.finfo(part.dtype).eps) for part in (weight, bias))
    rounding = max(observation.rounding.get(f"{name}.{part}", 0.0) for part in ("weight", "bias"))
    entry = max(found.noise, eps * float(np.sqrt(np.mean(weight64**2))), rounding)
    return Pooled(vector, entry / np.sqrt(square), found, bias64, weight64)
