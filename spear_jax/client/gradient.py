"""The client of a simulated federated round: one gradient over a private batch, and the truth about it, kept apart."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from spear_jax.activations import named
from spear_jax.client.batch import Batch
from spear_jax.client.models import MLP, Params, activate, cross_entropy, layer_name, perturbation_name, require_dtype
from spear_jax.client.truth import Truth
from spear_jax.errors import SpearError
from spear_jax.update.bundle import Update
from spear_jax.update.metadata import FORMAT_VERSION


def simulate_update(model: MLP, params: Params, batch: Batch, *, dtype: str = "float64") -> tuple[Update, Truth]:
    """Compute the gradient of the mean cross-entropy over a batch with respect to every layer.

    Args:
        model: the architecture.
        params: the parameters the server sent, as from `init_params`; cast to ``dtype``.
        batch: the private samples.
        dtype: ``"float64"`` (needs x64) or ``"float32"``: what the client computes and sends in.

    Returns:
        The update, which holds nothing private, and the truth: inputs and ``dL/dZ`` of every layer.

    Raises:
        SpearError: float64 without x64, inputs of another length than the model takes, labels it has no logit for.
    """
    require_dtype(dtype)
    check_batch(model, params, batch)
    model = model.clone(param_dtype=jnp.dtype(dtype))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    inputs = jnp.asarray(batch.inputs, dtype)
    gradients, grad_z, pre_activations = _differentiate(model, params, inputs, jnp.asarray(batch.labels))

    update = Update(flatten(params), flatten(gradients), update_metadata(batch, model.activation))
    layers = [layer_name(index) for index in range(len(model.widths) + 1)]
    hidden = [inputs, *(activate(model.activation, z) for z in pre_activations[:-1])]
    truth = truth_of(
        batch,
        layer_inputs={name: np.asarray(values, np.float64) for name, values in zip(layers, hidden, strict=True)},
        grad_z={name: np.asarray(values, np.float64).T for name, values in zip(layers, grad_z, strict=True)},
    )
    return update, truth


@functools.partial(jax.jit, static_argnames="model")
def _differentiate(
    model: MLP, params: Params, inputs: jax.Array, labels: jax.Array
) -> tuple[Params, list[jax.Array], list[jax.Array]]:
    """Gradients of the parameters, and ``dL/dZ`` and ``Z`` (b, m) of every layer."""
    sizes = (*model.widths, model.num_classes)
    zeros = {perturbation_name(i): jnp.zeros((len(inputs), size), inputs.dtype) for i, size in enumerate(sizes)}

    def loss(params, perturbations):
        logits, state = model.apply(
            {"params": params, "perturbations": perturbations},
            inputs,
            capture_intermediates=lambda module, _: isinstance(module, nn.Dense),
            mutable="intermediates",
        )
        return cross_entropy(logits, labels), state["intermediates"]

    (gradients, grad_z), intermediates = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, zeros)
    pre_activations = [intermediates[layer_name(i)]["__call__"][0] for i in range(len(sizes))]
    return gradients, [grad_z[name] for name in zeros], pre_activations


def truth_of(batch: Batch, layer_inputs: Mapping[str, np.ndarray], grad_z: Mapping[str, np.ndarray]) -> Truth:
    """What the client keeps to itself."""
    return Truth(
        layer_inputs=layer_inputs,
        labels=batch.labels,
        names=batch.names,
        images=batch.images,
        normalization=batch.normalization,
        image_shape=batch.image_shape,
        columns=batch.columns,
        grad_z=grad_z,
    )


def flatten(params: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Tensors by the names that they have in a bundle."""
    return {f"{layer}/{leaf}": np.asarray(value) for layer, leaves in params.items() for leaf, value in leaves.items()}


def update_metadata(batch: Batch, activation: str = "relu") -> dict[str, str]:
    """What the bundle of one step's gradient says of itself."""
    metadata = {
        "kind": "gradient",
        "framework": "flax",
        "format_version": FORMAT_VERSION,
        "num_examples": str(batch.size),
        "local_steps": "1",
        "activation": str(named(activation)),
    }
    if batch.normalization is not None:
        metadata["normalization"] = batch.normalization.to_json()
    if batch.image_shape is not None:
        metadata["image_shape"] = json.dumps(batch.image_shape)
    return metadata


def check_batch(model: MLP, params: Params, batch: Batch) -> None:
    """Checks that the model takes this batch.

    Raises:
        SpearError: inputs of another length than the model takes, labels it has no logit for.
    """
    in_features, length = params[layer_name(0)]["kernel"].shape[0], batch.inputs.shape[1]
    if in_features != length:
        raise SpearError(f"the model takes {in_features} inputs but a sample of the batch has {length} values.")
    if batch.labels.min() < 0 or batch.labels.max() >= model.num_classes:
        raise SpearError(
            f"the labels run from {batch.labels.min()} to {batch.labels.max()} but the model has "
            f"{model.num_classes} classes; build it with num_classes={batch.num_classes}."
        )
