"""One round of a graph network's client, from its private graphs to the tensors of an update bundle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from spear_jax.client.graph_batch import PrivateGraphs
from spear_jax.client.graph_gradient import graph_gradient
from spear_jax.client.graph_models import geometric_names
from spear_jax.client.text_gradient import as_dtype, one_step
from spear_jax.errors import SpearError
from spear_jax.graphs.architecture import Architecture
from spear_jax.graphs.features import Features
from spear_jax.update.graph_features import features_to_json
from spear_jax.update.metadata import FORMAT_VERSION, PREFIX


def simulate_graph_update(
    architecture: Architecture,
    params: Mapping[str, np.ndarray],
    private: PrivateGraphs,
    *,
    kind: str = "gradient",
    lr: float = 1e-2,
    dtype: str | None = None,
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Compute a client's update of a graph network, in the form that `tensor_files.write_tensors` writes.

    Args:
        architecture: of the network.
        params: the tensors that the server sent, by canonical name.
        private: the graphs.
        kind: what the client sends, ``"gradient"``, or after one step of SGD its ``"weights"`` or their ``"delta"``.
        lr: learning rate of that step.
        dtype: what is sent is rounded to ``"float64"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``; as computed
            where None.
        seed: of the labels, where the graphs have none.

    Returns:
        Tensors ``global/<name>`` of the network and ``grad/<name>`` or ``client/<name>`` of what came back, named as
        PyTorch Geometric names them; and metadata, which hold nothing private.

    Raises:
        SpearError: another kind or learning rate, as `graph_gradient`, and values too large for the dtype.
    """
    if kind not in PREFIX:
        raise SpearError(f"kind is {kind!r}; expected one of {', '.join(PREFIX)}.")
    if not 0 < lr < math.inf:
        raise SpearError(f"lr is {lr}; expected a positive number.")
    gradients = graph_gradient(architecture, params, private, seed=seed)
    came_back = gradients if kind == "gradient" else one_step(params, gradients, lr)
    if kind == "delta":
        came_back = {name: weight - params[name] for name, weight in came_back.items()}
    sent = came_back if dtype is None else as_dtype(came_back, dtype)
    named = geometric_names(architecture, sent)
    tensors = {f"{PREFIX[kind]}{name}": tensor for name, tensor in named.items()}
    tensors |= {f"global/{name}": tensor for name, tensor in geometric_names(architecture, dict(params)).items()}
    metadata = {
        "kind": kind,
        "framework": "jax",
        "format_version": FORMAT_VERSION,
        "num_examples": str(private.size),
        "local_steps": "1",
    }
    return tensors, metadata | ({} if kind == "gradient" else {"lr": str(lr)})


def known_to_the_server(architecture: Architecture, features: Features) -> dict[str, Any]:
    """What the features file of a simulation says: the possible rows, and the model beyond its tensors' names."""
    model = {
        "activation": architecture.activation,
        "is_activated": list(architecture.is_activated),
        "pool": architecture.pool,
        "readout": architecture.readout,
        "loss": architecture.loss,
    }
    return {"features": features_to_json(features), "model": model}
