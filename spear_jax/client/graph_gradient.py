"""The gradient of a graph network's client over its private graphs."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from spear_jax.client.graph_batch import PrivateGraphs, targets
from spear_jax.client.text_gradient import computing_dtype
from spear_jax.graphs.architecture import Architecture, check_params
from spear_jax.graphs.layers import as_batch, loss_gradients


def graph_gradient(
    architecture: Architecture, params: Mapping[str, np.ndarray], private: PrivateGraphs, *, seed: int = 0
) -> dict[str, np.ndarray]:
    """The gradient of the mean loss over all graphs.

    Args:
        architecture: of the network.
        params: its tensors by canonical name. Computed in float64 where all of them are and x64 is on, else in float32.
        private: the graphs; where they have no labels, these are drawn.
        seed: of that draw.

    Returns:
        by canonical name, each in its tensor's shape, in the dtype of the computation; none of ``eps``, which is a
        buffer.

    Raises:
        SpearError: tensors that are not the architecture's, labels that it has no output for, or float64 without x64.
    """
    check_params(architecture, params)
    labels = targets(private, architecture, seed)
    dtype = computing_dtype(params)
    batch = as_batch(private.graphs, dtype)
    held = {name: jnp.asarray(tensor, dtype) for name, tensor in params.items()}
    found = loss_gradients(architecture, held, batch, jnp.asarray(labels, dtype))
    return {name: np.asarray(gradient) for name, gradient in found.items() if not name.endswith(".eps")}
