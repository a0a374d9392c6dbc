"""Numbers that were rounded to half precision, seen by their values: many are widened before they are saved."""

from __future__ import annotations

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np

from spear_jax.update.weight_change import TINY, rounding_error, widen

# bfloat16 first: most of its numbers are of float16, too.
KINDS = ("bfloat16", "float16")
_FIRST = 4096


def is_floating(tensor: np.ndarray) -> bool:
    """Whether a tensor holds real floating numbers of two bytes or more, bfloat16 among them."""
    return tensor.dtype.kind == "f" or tensor.dtype == jnp.bfloat16


def kind_of(tensor: np.ndarray) -> str | None:
    """``"bfloat16"`` or ``"float16"`` where every number is one of these, whatever the dtype; None where not."""
    if tensor.dtype.name in KINDS:
        return tensor.dtype.name
    flat = tensor.reshape(-1)
    # Float64 that was never float32 is told by its first numbers, and so are most others.
    return next((kind for kind in KINDS if _survives(flat[:_FIRST], kind) and _survives(flat, kind)), None)


def kind_among(tensors: Iterable[np.ndarray]) -> str | None:
    """`kind_of` of matrices that came back together: the coarsest that any of them has; None where none has one."""
    kinds = {kind_of(tensor) for tensor in tensors if tensor.ndim > 1}
    return next((kind for kind in KINDS if kind in kinds), None)


def unit_dtype(weights: np.ndarray) -> np.dtype:
    """The dtype in whose units weights were rounded."""
    return jnp.dtype(kind_of(weights) or weights.dtype)


def units(weights: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Of each weight, float32 or wider, the distance to the next number of a dtype."""
    eps = weights.dtype.type(jnp.finfo(dtype).eps)
    return eps * np.exp2(np.floor(np.log2(np.maximum(np.abs(weights), weights.dtype.type(TINY)))))


def rounding(weights: np.ndarray, lr: float) -> float:
    """`weight_change.rounding_error` of weights as the client had them, half precision included."""
    wide = widen(weights)
    eps, wide_eps = (float(jnp.finfo(dtype).eps) for dtype in (unit_dtype(weights), wide.dtype))
    return rounding_error(wide, lr) * eps / wide_eps


def _survives(flat: np.ndarray, kind: str) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.array_equal(flat.astype(jnp.dtype(kind)).astype(flat.dtype), flat))
