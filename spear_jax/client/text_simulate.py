"""One round of a language model's client, from its private batch to the tensors of an update bundle."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from spear_jax.client.text_batch import TextBatch
from spear_jax.client.text_gradient import as_dtype, one_step, text_gradient
from spear_jax.errors import SpearError
from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import Params
from spear_jax.update.metadata import FORMAT_VERSION, PREFIX


def simulate_text_update(
    architecture: Architecture,
    params: Params,
    batch: TextBatch,
    *,
    kind: str = "gradient",
    lr: float = 1e-2,
    dtype: str = "float32",
    trained: Iterable[str] | None = None,
    reduction: str = "tokens",
    include_global: bool = False,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Compute a client's update of a language model, in the form that `tensor_files.write_tensors` writes.

    Args:
        architecture: of the model.
        params: the tensors that the server sent, by name.
        batch: the private sequences.
        kind: what the client sends, ``"gradient"``, or after one step of SGD its ``"weights"`` or their ``"delta"``.
        lr: learning rate of that step.
        dtype: what is sent is rounded to ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"float64"``.
        trained: names of the tensors that the client trains, see `text_gradient.trained_names`.
        reduction: of its loss, see `text_batch.arrays`.
        include_global: whether the bundle holds the model that the server sent, too.

    Returns:
        Tensors ``grad/<name>`` or ``client/<name>`` of what the client trains, rounded, and with ``include_global`` the
        model's ``global/<name>`` in their own dtype; and metadata, which hold nothing private.

    Raises:
        SpearError: another kind or learning rate, as `text_gradient`, and values too large for the dtype.
    """
    if kind not in PREFIX:
        raise SpearError(f"kind is {kind!r}; expected one of {', '.join(PREFIX)}.")
    if not 0 < lr < math.inf:
        raise SpearError(f"lr is {lr}; expected a positive number.")
    gradients = text_gradient(architecture, params, batch, trained=trained, reduction=reduction)
    sent = as_dtype(gradients if kind == "gradient" else _trained(params, gradients, kind, lr), dtype)
    tensors = {f"{PREFIX[kind]}{name}": tensor for name, tensor in sent.items()}
    if include_global:
        tensors |= {f"global/{name}": np.asarray(tensor) for name, tensor in params.items()}
    metadata = {
        "kind": kind,
        "framework": "jax",
        "format_version": FORMAT_VERSION,
        "num_examples": str(batch.size),
        "local_steps": "1",
    }
    return tensors, metadata | ({} if kind == "gradient" else {"lr": str(lr)})


def _trained(params: Params, gradients: Mapping[str, np.ndarray], kind: str, lr: float) -> dict[str, np.ndarray]:
    """New weights, or their change, after one step."""
    stepped = one_step(params, gradients, lr)
    if kind == "weights":
        return stepped
    return {name: weight - np.asarray(params[name]) for name, weight in stepped.items()}
