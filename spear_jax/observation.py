"""What the server sees of one layer, and the sentences that say what is wrong with it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from spear_jax.errors import SpearError
from spear_jax.types import Array, pytree_dataclass


@pytree_dataclass
class LayerObservation:
    """What an honest-but-curious server sees of one linear layer followed by an activation: ``Z = W X + bias``.

    The gradients are needed only up to one common factor, so sums, means and signed multiples all serve.

    Attributes:
        weight: (m, n) floating, the layer's kernel as (out_features, in_features).
        bias: (m,) floating; None for a layer that adds none.
        weight_grad: (m, n) floating, ``dL/dW = D X^T`` with ``D = dL/dZ`` (SPEAR, Thm. 3.1).
        bias_grad: (m,) floating, ``dL/dbias = D 1``; None where there is none: then only the span method reads the
            layer, by the layers above.
        drift: multiple of the gradients by which weight and bias moved, downhill, while the client computed them: 0 for
            the gradient of one step; the learning rate where the gradients are a sum over several local steps.
        rounding: root mean square of the rounding error of an entry of ``weight_grad``, beyond that of its own dtype:
            weights round in units of their own size, which the learning rate magnifies. 0 for a gradient.
        input_drift: how far what stands before the layer moved over the client's steps, relative to its size: above 0
            the layer's inputs moved too, and no sample is certified. 0 for one step, and for the first layer.

    Raises:
        SpearError: one sentence per mistake: a missing or non-floating array, shapes that disagree (a transposed
            kernel is named as such), NaN or infinity with their count and first position, an all-zero gradient, a
            drift, rounding or input drift that is negative or not finite.
    """

    weight: Float[Array, "m n"]
    bias: Float[Array, " m"] | None
    weight_grad: Float[Array, "m n"]
    bias_grad: Float[Array, " m"] | None
    drift: Any = 0.0
    rounding: Any = 0.0
    input_drift: Any = 0.0

    @property
    def out_features(self) -> int:
        """m, the number of neurons of the layer."""
        return self.weight_grad.shape[0]

    @property
    def in_features(self) -> int:
        """n, the number of values in one input."""
        return self.weight_grad.shape[1]


def _checking(init: Callable[..., None]) -> Callable[..., None]:
    """The constructor with the check before it; pytrees are rebuilt without it, around anything JAX may put there."""

    @functools.wraps(init)
    def checked(
        self: Any, *, weight: Any, bias: Any, weight_grad: Any, bias_grad: Any,
        drift: Any = 0.0, rounding: Any = 0.0, input_drift: Any = 0.0,
    ) -> None:  # fmt: skip
        arrays = {"weight": weight, "bias": bias, "weight_grad": weight_grad, "bias_grad": bias_grad}
        if not any(isinstance(array, Tracer | jax.ShapeDtypeStruct) for array in arrays.values()):
            _check(arrays)
            if not 0 <= drift < np.inf:
                raise SpearError(f"drift is {drift}; expected 0 for one step's gradient, or the learning rate.")
            if not 0 <= rounding < np.inf:
                raise SpearError(f"rounding is {rounding}; expected the size of an entry's error, 0 for a gradient.")
            if not 0 <= input_drift < np.inf:
                raise SpearError(f"input_drift is {input_drift}; expected 0, or how far what stands before moved.")
        init(self, **arrays, drift=drift, rounding=rounding, input_drift=input_drift)

    return checked


LayerObservation.__init__ = _checking(LayerObservation.__init__)


def _check(arrays: dict[str, Any]) -> None:
    arrays = {name: array for name, array in arrays.items() if array is not None or name in _WHY_MISSING}
    for name, array in arrays.items():
        if array is None:
            raise SpearError(f"{name} is missing: {_WHY_MISSING[name]}")
        if not isinstance(array, np.ndarray | jax.Array):
            raise SpearError(
                f"{name} is a {type(array).__name__}; expected a NumPy or JAX array: convert it with numpy.asarray."
            )
        _check_array(name, array)
    _check_shapes(arrays)
    for name, array in arrays.items():
        _check_finite(name, array)
    for name in ("weight_grad", "bias_grad"):
        if name in arrays and not _module(arrays[name]).any(arrays[name]):
            raise SpearError(
                f"{name} is zero everywhere: no sample reached this layer (every unit inactive, the layer frozen, "
                "or its gradient withheld); take an update in which the layer was trained."
            )


_NDIM = {"weight": 2, "bias": 1, "weight_grad": 2, "bias_grad": 1}
_WHY_MISSING = {
    "weight": "the server's own kernel (m, n) is needed to check what is found.",
    "weight_grad": "the gradient (m, n) of the kernel is what is inverted.",
}


def _module(array: Array):
    return jax.numpy if isinstance(array, jax.Array) else np


def _check_array(name: str, array: Array) -> None:
    if not jax.numpy.issubdtype(array.dtype, np.floating):
        raise SpearError(f"{name} has dtype {array.dtype}; expected floating point (float32 or float64).")
    if array.ndim != _NDIM[name]:
        raise SpearError(f"{name} has shape {array.shape}; expected {_NDIM[name]} dimension(s).")
    if array.size == 0:
        raise SpearError(f"{name} has shape {array.shape}: it is empty.")


def _check_shapes(arrays: dict[str, Array]) -> None:
    weight, weight_grad = arrays["weight"], arrays["weight_grad"]
    if weight.shape != weight_grad.shape:
        hint = " (one of them is transposed)" if weight.shape == weight_grad.shape[::-1] else ""
        raise SpearError(f"weight has shape {weight.shape} and weight_grad {weight_grad.shape}; they must agree{hint}.")
    m, n = weight.shape
    for name in ("bias", "bias_grad"):
        if name not in arrays:
            continue
        array = arrays[name]
        if array.shape == (m,):
            continue
        if array.shape == (n,):
            raise SpearError(
                f"weight has shape {weight.shape} but {name} has length {n}: the kernel looks transposed; "
                "pass it as (out_features, in_features), for a Flax or Keras kernel its .T."
            )
        raise SpearError(f"{name} has length {array.shape[0]}; expected {m}, the first dimension of weight {(m, n)}.")


def _check_finite(name: str, array: Array) -> None:
    xp = _module(array)
    # A sum is finite wherever every entry is, up to overflow, and needs no mask the size of the kernel.
    with np.errstate(all="ignore"):
        if xp.isfinite(array.sum()):
            return
    bad = ~np.isfinite(np.asarray(array))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise SpearError(
            f"{name} holds {int(bad.sum())} NaN or infinite values of {array.size}, the first at {first}: "
            "the update is corrupt or training diverged; take another round's."
        )


def require_gradients(params: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]) -> None:
    """Refuse gradients that are not those of a model.

    Args:
        params: its tensors by name.
        gradients: what came back.

    Raises:
        SpearError: a name that the model does not have, shapes that disagree, NaN or infinity.
    """
    for name, gradient in gradients.items():
        if name not in params:
            raise SpearError(f"{name} came back, but the model has no such tensor; give the model that was sent.")
        if gradient.shape != params[name].shape:
            raise SpearError(
                f"{name} came back with shape {gradient.shape}, but the model's has {params[name].shape}; "
                "give the model that was sent."
            )
        if not np.isfinite(gradient).all():
            raise SpearError(f"{name} holds NaN or infinite values: the update is corrupt or training diverged.")
