"""The gradient of a language model's client: of every tensor, or of those that it trains, over a private batch."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.numpy import bfloat16
from jaxtyping import Float, Int

from spear_jax.client.text_batch import TextBatch, arrays
from spear_jax.errors import SpearError
from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import LORA_A, LORA_B, LORA_SCALE, Params
from spear_jax.language.loss import weighted_loss

DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(bfloat16),
    "float16": np.dtype(np.float16),
}
# Outputs of the model that are held at once; those of all layers and their gradients come on top.
_CHUNK_OUTPUTS = 2**24


def text_gradient(
    architecture: Architecture,
    params: Params,
    batch: TextBatch,
    *,
    trained: Iterable[str] | None = None,
    reduction: str = "tokens",
) -> dict[str, np.ndarray]:
    """The gradient of a client's loss over its whole batch.

    Args:
        architecture: of the model.
        params: its tensors by name. Computed in float64 where all of them are and x64 is on, else in float32.
        batch: the private sequences.
        trained: names of the tensors that the client trains; None for the factors of the adapters where there are any,
            else for every floating tensor.
        reduction: see `arrays`.

    Returns:
        by name, in the order of ``params``, each in its tensor's shape, in the dtype of the computation.

    Raises:
        SpearError: names that the model does not have, a batch that does not fit it, or float64 without x64.
    """
    tokens, targets, weights = arrays(batch, architecture, reduction)
    names = trained_names(params, trained)
    dtype = computing_dtype(params)
    params = {name: jnp.asarray(tensor, dtype) for name, tensor in params.items() if _is_floating(tensor)}
    learnt = {name: params.pop(name) for name in names}
    chunks = [_in_chunks(rows, architecture) for rows in (tokens, targets, weights.astype(dtype))]
    gradients = _differentiate(architecture, learnt, params, *chunks)
    return {name: np.asarray(gradients[name]) for name in names}


@functools.partial(jax.jit, static_argnames="architecture")
def _differentiate(
    architecture: Architecture,
    learnt: Params,
    frozen: Params,
    tokens: Int[jax.Array | np.ndarray, "c k P"],
    targets: Int[jax.Array | np.ndarray, "c k P"],
    weights: Float[jax.Array | np.ndarray, "c k P"],
) -> dict[str, jax.Array]:
    """Gradients of the learnt tensors, summed over chunks of the batch: the loss is a sum over its sequences."""

    def loss(learnt, chunk):
        return weighted_loss(architecture, {**learnt, **frozen}, *chunk)

    def add(total, chunk):
        return jax.tree.map(jnp.add, total, jax.grad(loss)(learnt, chunk)), None

    learnt = dict(learnt)
    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, learnt), (tokens, targets, weights))[0]


def trained_names(params: Params, trained: Iterable[str] | None = None) -> list[str]:
    """Names of the tensors that a client trains, in the order of the model's.

    Args:
        params: tensors by name.
        trained: the ones asked for; None for the factors of the adapters where there are any, else for all that are
            floating, a buffer of integers being no parameter.

    Raises:
        SpearError: a name that the model does not have, or none at all.
    """
    if trained is None:
        floating = [name for name, tensor in params.items() if _is_floating(tensor)]
        factors = [name for name in floating if name.endswith((LORA_A, LORA_B))]
        return factors or [name for name in floating if not name.endswith(LORA_SCALE)]
    asked = set(trained)
    unknown = sorted(asked - set(params))
    if unknown or not asked:
        given = f"{unknown[0]} is to be trained" if unknown else "nothing is to be trained"
        raise SpearError(f"{given}; expected names of the model's tensors, such as {next(iter(params))}.")
    return [name for name in params if name in asked]


def computing_dtype(params: Params) -> np.dtype:
    """Float64 where all floating tensors are of it, else float32.

    Raises:
        SpearError: float64 without x64.
    """
    dtypes = {np.dtype(tensor.dtype) for tensor in params.values() if _is_floating(tensor)}
    if dtypes != {DTYPES["float64"]}:
        return DTYPES["float32"]
    if not jax.config.read("jax_enable_x64"):
        raise SpearError("the model's tensors are float64, but JAX computes in float32; set JAX_ENABLE_X64=1.")
    return DTYPES["float64"]


def one_step(params: Params, gradients: Mapping[str, np.ndarray], learning_rate: float) -> dict[str, np.ndarray]:
    """The weights after one step of SGD, of the tensors that have a gradient, in the dtype of each weight."""
    return {name: _stepped(np.asarray(params[name]), gradient, learning_rate) for name, gradient in gradients.items()}


def _stepped(weight: np.ndarray, gradient: np.ndarray, learning_rate: float) -> np.ndarray:
    rate = gradient.dtype.type(learning_rate)
    return (weight.astype(gradient.dtype) - rate * gradient).astype(weight.dtype)


def as_dtype(tensors: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Tensors rounded to a dtype and stored in it.

    Args:
        tensors: by name, floating.
        dtype: ``"float64"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.

    Raises:
        SpearError: an unknown dtype, or values too large for it.
    """
    if dtype not in DTYPES:
        raise SpearError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}.")
    with np.errstate(over="ignore"):
        rounded = {name: np.asarray(tensor).astype(DTYPES[dtype]) for name, tensor in tensors.items()}
    for name, tensor in rounded.items():
        if not np.isfinite(tensor.astype(np.float32)).all():
            raise SpearError(f"{name} holds values that {dtype} has no room for; send it in bfloat16 or float32.")
    return rounded


def _in_chunks(rows: np.ndarray, architecture: Architecture) -> np.ndarray:
    """(c, k, P) of (B, P): as many sequences at once as memory allows, filled up by some that weigh nothing."""
    per_sequence = rows.shape[1] * (architecture.classes or architecture.vocabulary)
    most = max(1, _CHUNK_OUTPUTS // per_sequence)
    chunks = -(-len(rows) // most)
    size = -(-len(rows) // chunks)
    filled = np.zeros((chunks * size, rows.shape[1]), rows.dtype)
    filled[: len(rows)] = rows
    return filled.reshape(chunks, size, -1)


def _is_floating(tensor: jax.Array | np.ndarray) -> bool:
    return bool(jnp.issubdtype(tensor.dtype, jnp.floating))
