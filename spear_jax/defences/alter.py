"""An update as the descent that it stands for, and that descent changed by a function.

The descent is the gradient itself, or the negative weight change (for ``kind="weights"`` the difference to the global
tensors). So one function does the same to a gradient and to the weight change of one step with a learning rate of 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from spear_jax.errors import UpdateError
from spear_jax.update.bundle import Update

Tensors = dict[str, np.ndarray]


def alter(update: Update, done: str, change: Callable[[Tensors], Tensors]) -> Update:
    """The update whose descent is changed by a function.

    Args:
        update: any kind, unchanged. Integer tensors (counters) are left alone.
        done: what the metadata ``defence`` of the result will say, after what it says already.
        change: takes and gives the tensors by name, sorted: float32 or float64 as they are, half precision widened.

    Returns:
        An update of the same kind with every tensor in its own dtype.

    Raises:
        UpdateError: values that are not finite before, or after in the dtype of the tensor.
    """
    sent = _descent(update)
    for name, value in sent.items():
        if not np.isfinite(value).all():
            raise UpdateError(f"{name} holds NaN or infinite values, which no defence mends; take another update.")
    # What overflows is reported in the sentence below, not by NumPy in a warning.
    with np.errstate(all="ignore"):
        back = {name: _undo_descent(update, name, np.asarray(value)) for name, value in change(sent).items()}
    for name, tensor in back.items():
        if not np.isfinite(tensor).all():
            raise UpdateError(f"{done} gives {name} values beyond floating point; choose another strength or defence.")
    before = update.metadata.get("defence")
    metadata = dict(update.metadata) | {"defence": f"{before}; {done}" if before else done}
    return dataclasses.replace(update, client_tensors=dict(update.client_tensors) | back, metadata=metadata)


def norm(tensors: Tensors) -> float:
    """Euclidean norm over all entries of all tensors, summed in float64."""
    return math.sqrt(sum(float(np.sum(np.square(value, dtype=np.float64))) for value in tensors.values()))


def relative_change(update: Update, defended: Update) -> float:
    """Norm of what a defence changed over the norm of the update: what it costs whoever averages updates."""
    before, after = _descent(update), _descent(defended)
    whole = norm(before)
    return norm({name: after[name] - before[name] for name in before}) / whole if whole else 0.0


def _descent(update: Update) -> Tensors:
    tensors = {}
    for name in sorted(update.client_tensors):
        client = update.client_tensors[name]
        if not jnp.issubdtype(client.dtype, np.floating):
            continue
        client = client.astype(np.result_type(client.dtype, np.float32))
        # Damaged numbers are reported by the caller.
        with np.errstate(invalid="ignore", over="ignore"):
            tensors[name] = -client if update.kind == "delta" else client
            if update.kind == "weights":
                tensors[name] = np.asarray(update.global_tensors[name].astype(client.dtype) - client)
    return tensors


def _undo_descent(update: Update, name: str, descent: np.ndarray) -> np.ndarray:
    if update.kind == "weights":
        tensor = update.global_tensors[name].astype(descent.dtype) - descent
    else:
        tensor = descent if update.kind == "gradient" else -descent
    return np.asarray(tensor).astype(update.client_tensors[name].dtype)
