"""An update as the descent that it stands for, and that descent changed by a function.

The descent is the gradient itself, or the negative weight change (for ``kind="weights"`` the difference to the global
tensors). So one function does the same to a gradient and to the weight change of one step with a learning rate of 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
import numpy as np

from spear_jax.errors import UpdateError
from spear_jax.update.bundle import Update
from spear_jax.update.returned import Returned
from spear_jax.update.text_update import TextUpdate

Tensors = dict[str, np.ndarray]
# An update of either family; a defence gives back the kind that it got.
U = TypeVar("U", Update, TextUpdate)


def alter(update: U, done: str, change: Callable[[Tensors], Tensors]) -> U:
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
    sides = update.sides
    sent = _descent(sides)
    for name, value in sent.items():
        if not np.isfinite(value).all():
            raise UpdateError(f"{name} holds NaN or infinite values, which no defence mends; take another update.")
    # What overflows is reported in the sentence below, not by NumPy in a warning.
    with np.errstate(all="ignore"):
        back = {name: _undo_descent(sides, name, np.asarray(value)) for name, value in change(sent).items()}
    for name, tensor in back.items():
        if not np.isfinite(tensor).all():
            raise UpdateError(f"{done} gives {name} values beyond floating point; choose another strength or defence.")
    before = update.metadata.get("defence")
    metadata = dict(update.metadata) | {"defence": f"{before}; {done}" if before else done}
    return update.returning(dict(sides.came_back) | back, metadata)


def norm(tensors: Tensors) -> float:
    """Euclidean norm over all entries of all tensors, summed in float64."""
    return math.sqrt(sum(float(np.sum(np.square(value, dtype=np.float64))) for value in tensors.values()))


def relative_change(update: U, defended: U) -> float:
    """Norm of what a defence changed over the norm of the update: what it costs whoever averages updates."""
    before, after = _descent(update.sides), _descent(defended.sides)
    whole = norm(before)
    return norm({name: after[name] - before[name] for name in before}) / whole if whole else 0.0


def _descent(sides: Returned) -> Tensors:
    tensors = {}
    for name in sorted(sides.came_back):
        client = sides.came_back[name]
        if not jnp.issubdtype(client.dtype, np.floating):
            continue
        client = client.astype(np.result_type(client.dtype, np.float32))
        # Damaged numbers are reported by the caller.
        with np.errstate(invalid="ignore", over="ignore"):
            tensors[name] = -client if sides.kind == "delta" else client
            if sides.kind == "weights":
                tensors[name] = np.asarray(sides.sent[name].astype(client.dtype) - client)
    return tensors


def _undo_descent(sides: Returned, name: str, descent: np.ndarray) -> np.ndarray:
    if sides.kind == "weights":
        tensor = sides.sent[name].astype(descent.dtype) - descent
    else:
        tensor = descent if sides.kind == "gradient" else -descent
    return np.asarray(tensor).astype(sides.came_back[name].dtype)
