"""Kernels that a model stores in parts: weight_norm and spectral_norm of PyTorch, old style and as parametrizations.

Weight normalisation (Salimans and Kingma, arXiv 1602.07868) has ``W = g v / |v|``. Of its gradients,
``dL/dg = <G, v / |v|>`` and ``dL/dv = g / |v| (G - v / |v| dL/dg)`` with ``G = dL/dW``, so G follows without loss:
``G = dL/dg v / |v| + |v| / g dL/dv``. That holds for the gradient of one step, not for the sum over several.

Spectral normalisation (Miyato et al., arXiv 1802.05957) has ``W = V / (u^T V v)``. Its gradient is orthogonal to V
whatever G is: one direction of G is lost, so such a layer cannot be inverted, but its W is known to the layers below.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from spear_jax.update.weight_change import gradient_sum

# The parts of a kernel by what they are, as endings of the name of its layer.
_WEIGHT_NORM = (
    {"g": "{}weight_g", "v": "{}weight_v"},
    {"g": "{}parametrizations.weight.original0", "v": "{}parametrizations.weight.original1"},
)
_SPECTRAL_NORM = (
    {"V": "{}weight_orig", "u": "{}weight_u", "v": "{}weight_v"},
    {
        "V": "{}parametrizations.weight.original",
        "u": "{}parametrizations.weight.0._u",
        "v": "{}parametrizations.weight.0._v",
    },
)
_ENDING = re.compile(r"(?P<layer>.*?)(?:weight_g|weight_orig|parametrizations\.weight\.original0?)")
# Rounding of v reaches G times |v| / g, while the observation knows that of W alone.
_MAX_STRETCH = 2.0

_SPECTRAL = "is under spectral_norm, which leaves one direction of its gradient open, so it cannot be inverted"
_STEPS = "is under weight_norm, and the sum over several local steps of its parts is no gradient of its kernel"
_STRETCHED = "is under weight_norm with |v| far above g, which magnifies the rounding of weights: give a gradient"
_FROZEN = "is under weight_norm of which only one part came back, so its gradient is not known"

Tensors = dict[str, np.ndarray]


class Composed(NamedTuple):
    """Both sides of an update with whole kernels in place of their parts.

    Attributes:
        sent: the model's tensors.
        came_back: what came back, by the names of ``sent``.
        lost: kernels whose layer cannot be inverted, and why: the rest of a sentence that begins with the layer.
    """

    sent: Tensors
    came_back: Tensors
    lost: dict[str, str]


def compose(sent: Tensors, came_back: Tensors, *, kind: str, decayed: float, local_steps: int) -> Composed:
    """Put whole kernels in the place of the parts that weight_norm and spectral_norm store.

    Args:
        sent: the model's tensors by name.
        came_back: gradients, weights or changes by the same names.
        kind: which of these.
        decayed: share of themselves that weights lost to weight decay.
        local_steps: steps that the client took.
    """
    composed = Composed(dict(sent), dict(came_back), {})
    for name in sent:
        layer = found["layer"] if (found := _ENDING.fullmatch(name)) else None
        if layer is None or layer[-1:] not in ("", "."):
            continue
        for styles, put in ((_WEIGHT_NORM, _weight_norm), (_SPECTRAL_NORM, _spectral_norm)):
            for style in styles:
                parts = {part: ending.format(layer) for part, ending in style.items()}
                if all(part in composed.sent for part in parts.values()):
                    put(composed, f"{layer}weight", parts, _Round(kind, decayed, local_steps))
    return composed


class _Round(NamedTuple):
    kind: str
    decayed: float
    local_steps: int

    def descent(self, sent: np.ndarray, came_back: np.ndarray) -> np.ndarray:
        """The gradient, or the step along it, of one part."""
        if self.kind == "gradient":
            return came_back.astype(float)
        is_change = self.kind == "delta"
        return gradient_sum(
            sent.astype(float), came_back.astype(float), is_change=is_change, lr=1.0, decayed=self.decayed
        )

    def back(self, kernel: np.ndarray, descent: np.ndarray) -> np.ndarray:
        """What came back of the whole kernel, if its descent is this."""
        if self.kind == "gradient":
            return descent
        return (kernel if self.kind == "weights" else 0) - descent - self.decayed * kernel


def _weight_norm(composed: Composed, kernel: str, parts: Mapping[str, str], of_round: _Round) -> None:
    g, v = (np.atleast_1d(composed.sent[parts[part]]) for part in "gv")
    back_g, back_v = (composed.came_back.pop(parts[part], None) for part in "gv")
    axes = tuple(axis for axis in range(v.ndim) if g.ndim != v.ndim or g.shape[axis] == 1)
    length = np.sqrt(np.sum(np.square(v, dtype=float), axis=axes, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):  # a row of zeros is reported by the observation
        unit, stretch = v / length, length / g.astype(float)
        whole = np.asarray(g * unit).astype(v.dtype)
        _replace(composed.sent, parts, kernel, whole)
        if back_g is None and back_v is None:
            return
        if back_g is None or back_v is None:
            reason = _FROZEN
        elif of_round.kind != "gradient" and of_round.local_steps > 1:
            reason = _STEPS
        elif of_round.kind != "gradient" and float(np.median(np.abs(stretch))) > _MAX_STRETCH:
            reason = _STRETCHED
        else:
            along_g, along_v = of_round.descent(g, np.atleast_1d(back_g)), of_round.descent(v, back_v)
            composed.came_back[kernel] = of_round.back(whole.astype(float), along_g * unit + stretch * along_v)
            return
    _lose(composed, kernel, reason)


def _spectral_norm(composed: Composed, kernel: str, parts: Mapping[str, str], of_round: _Round) -> None:
    # Training moves u and v before it uses them; they come back with weights.
    u, v = (composed.came_back.get(parts[part], composed.sent[parts[part]]) for part in "uv")
    if of_round.kind != "weights":
        u, v = (composed.sent[parts[part]] for part in "uv")
    stored = composed.sent[parts["V"]]
    size = u.astype(float) @ stored.reshape(len(u), -1).astype(float) @ v.astype(float)
    _replace(composed.sent, parts, kernel, (stored / size).astype(stored.dtype))
    if any([composed.came_back.pop(part, None) is not None for part in parts.values()]):
        _lose(composed, kernel, _SPECTRAL)


def _lose(composed: Composed, kernel: str, reason: str) -> None:
    composed.came_back.pop(kernel.removesuffix("weight") + "bias", None)
    composed.lost[kernel] = reason


def _replace(tensors: Tensors, parts: Mapping[str, str], kernel: str, whole: np.ndarray) -> None:
    """Put the kernel where its first part stood."""
    names, first = set(parts.values()), True
    for name in list(tensors):
        tensor = tensors.pop(name)
        if name not in names:
            tensors[name] = tensor
        elif first:
            tensors[kernel], first = whole, False
