"""Defences a client may apply to its update before sending it, as pure functions ``Update -> Update``.

Each acts on what the client sends: the gradient, or the weight change (for ``kind="weights"`` the difference to the
global tensors), and gives every tensor back in its own dtype. The metadata ``defence`` of the result says what was
done, in order. It does not say the key: who knows it can subtract the noise. Of a language model the update is a
`TextUpdate`, before and after.

`DEFENCES` names them for sweeps and the command line. What needs single samples' gradients is in
`spear_jax.client.dp_sgd`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax.defences.alter import Tensors, U, alter, norm
from spear_jax.errors import UpdateError

_INT8_LEVELS = 127


@dataclasses.dataclass(frozen=True)
class Defence:
    """A row of the table of defences: a function with one strength, and strengths for a sweep.

    Attributes:
        name: in the table and on the command line.
        parameter: name of the strength, empty where there is none.
        meaning: what the strength is, its range and its unit.
        grid: strengths from harmless to deadly; a single None where there is none.
        function: ``(update, strength, key) -> update``.
    """

    name: str
    parameter: str
    meaning: str
    grid: tuple[float | None, ...]
    function: Callable[[Any, float, jax.Array], Any]

    def __call__(self, update: U, strength: float | None, key: jax.Array) -> U:
        """The update after this defence.

        Args:
            update: any kind, unchanged.
            strength: the parameter; None for a defence without one.
            key: PRNG key, consumed where the defence is random.

        Raises:
            UpdateError: a strength out of range, missing or superfluous; values that are not finite before or after.
        """
        if not self.parameter and strength is not None:
            raise UpdateError(f"{self.name} takes no strength but got {strength}; leave it out.")
        if self.parameter and strength is None:
            raise UpdateError(f"{self.name} needs a strength, {self.parameter}: {self.meaning}.")
        return self.function(update, 0.0 if strength is None else float(strength), key)


def by_name(name: str) -> Defence:
    """The defence of this name.

    Raises:
        UpdateError: no such defence.
    """
    if name not in DEFENCES:
        raise UpdateError(f"there is no defence {name!r}; choose one of {', '.join(DEFENCES)}.")
    return DEFENCES[name]


def gaussian_noise(update: U, std: float, key: jax.Array, *, relative: bool = True) -> U:
    """Independent Gaussian noise on every entry.

    Args:
        update: any kind.
        std: standard deviation >= 0: in units of each tensor's root mean square (``relative``), or in the unit of what
            is sent (of the gradient, or of the weight change, learning rate included).
        key: PRNG key, consumed: the tensor at place i of the sorted names draws with ``fold_in(key, i)``, in float32
            whatever its dtype, so that float32 and float64 updates get the same noise.
        relative: which of the two units.

    Raises:
        UpdateError: a standard deviation out of range; values that are not finite.
    """
    _require("std", std, 0 <= std < math.inf, "a number >= 0")

    def change(sent: Tensors) -> Tensors:
        unit = lambda value: norm({"": value}) / max(value.size, 1) ** 0.5 if relative else 1.0
        return _noisy(sent, {name: std * unit(value) for name, value in sent.items()}, key)

    done = _call("gaussian_noise", relative=std) if relative else _call("gaussian_noise_absolute", std=std)
    return alter(update, done, change)


def top_k(update: U, share: float) -> U:
    """Pruning: the entries of largest magnitude are kept in each tensor, all others become zero.

    The threshold is each tensor's own, as in Deep Gradient Compression (Lin et al., ICLR 2018, Alg. 1), but nothing is
    accumulated over rounds. Zhu et al. (Deep Leakage from Gradients, NeurIPS 2019, Sec. 5) use it as a defence; their
    prune ratio is ``1 - share``.

    Args:
        update: any kind.
        share: of the entries to keep, in (0, 1]; at least one entry of every tensor stays.

    Raises:
        UpdateError: a share out of range; values that are not finite.
    """
    _require("share", share, 0 < share <= 1, "a number in (0, 1]")
    return alter(update, _call("top_k", share=share), lambda sent: {n: _largest(v, share) for n, v in sent.items()})


def random_mask(update: U, probability: float, key: jax.Array) -> U:
    """Each entry becomes zero with the given probability; the others are not scaled up.

    Args:
        update: any kind.
        probability: in [0, 1).
        key: PRNG key, consumed as in `gaussian_noise`.

    Raises:
        UpdateError: a probability out of range; values that are not finite.
    """
    _require("probability", probability, 0 <= probability < 1, "a number in [0, 1)")

    def change(sent: Tensors) -> Tensors:
        keys = _keys(sent, key)
        draws = {name: np.asarray(jax.random.uniform(keys[name], v.shape, np.float32)) for name, v in sent.items()}
        return {name: np.where(draws[name] >= probability, value, 0) for name, value in sent.items()}

    return alter(update, _call("random_mask", probability=probability), change)


def quantize(update: U, dtype: str) -> U:
    """Rounding to a narrower type and back.

    Args:
        update: any kind; the rounding is of the gradient or weight change, not of the weights.
        dtype: ``"float16"``, ``"bfloat16"``, or ``"int8"``: 255 levels from minus to plus the largest magnitude of each
            tensor, to nearest, ties to even.

    Raises:
        UpdateError: another type; values that are not finite, or that float16 cannot hold (above 65504).
    """
    if dtype not in _ROUNDERS:
        raise UpdateError(f"dtype is {dtype!r}; expected one of {', '.join(_ROUNDERS)}.")
    return alter(update, dtype, lambda sent: {name: _ROUNDERS[dtype](value) for name, value in sent.items()})


def zero_bias(update: U) -> U:
    """The client withholds the gradients of the biases: they become zero.

    Zero and not absent, since a server that averages expects every tensor. One layer alone then says nothing of the
    scale of a sample; where the next one came back too, the biases themselves do (docs/span.md, Sec. 4).

    Raises:
        UpdateError: no tensor is called bias; values that are not finite.
    """
    biases = {name for name in update.sides.came_back if name.replace("/", ".").split(".")[-1] == "bias"}
    if not biases:
        raise UpdateError("no tensor of the update is called bias, so none can be set to zero; choose another defence.")
    return alter(update, "zero_bias", lambda sent: {n: np.zeros_like(v) if n in biases else v for n, v in sent.items()})


def clip(update: U, max_norm: float) -> U:
    """Scales the whole update down to a Euclidean norm over all tensors, if it is larger.

    Alone it hides nothing, as gradients are needed only up to a factor; it bounds what noise must cover.

    Args:
        update: any kind.
        max_norm: > 0, in the unit of what is sent.

    Raises:
        UpdateError: a norm out of range; values that are not finite.
    """
    _require("norm", max_norm, 0 < max_norm < math.inf, "a positive number")
    return alter(update, _call("clip", norm=max_norm), lambda sent: _clipped(sent, max_norm))


def client_dp(update: U, noise_multiplier: float, key: jax.Array, *, clip_norm: float = 1.0) -> U:
    """Client-level differential privacy, noised by the client itself: clip, then Gaussian noise.

    McMahan et al. (Learning Differentially Private Recurrent Language Models, ICLR 2018) clip each client's update and
    noise the sum; a server that must not see a client's update gets the noise with it.

    Args:
        update: any kind.
        noise_multiplier: >= 0, standard deviation of every entry's noise in units of ``clip_norm``.
        key: PRNG key, consumed as in `gaussian_noise`.
        clip_norm: > 0, largest norm of the whole update.

    Raises:
        UpdateError: numbers out of range; values that are not finite.
    """
    _require("clip_norm", clip_norm, 0 < clip_norm < math.inf, "a positive number")
    _require("noise_multiplier", noise_multiplier, 0 <= noise_multiplier < math.inf, "a number >= 0")
    done = _call("client_dp", noise_multiplier=noise_multiplier, clip_norm=clip_norm)
    stds = dict.fromkeys(update.sides.came_back, noise_multiplier * clip_norm)
    return alter(update, done, lambda sent: _noisy(_clipped(sent, clip_norm), stds, key))


def _keys(sent: Tensors, key: jax.Array) -> dict[str, jax.Array]:
    return {name: jax.random.fold_in(key, index) for index, name in enumerate(sent)}


def _noisy(sent: Tensors, stds: dict[str, float], key: jax.Array) -> Tensors:
    keys = _keys(sent, key)
    unit = lambda name: np.asarray(jax.random.normal(keys[name], sent[name].shape, np.float32))
    return {name: value + value.dtype.type(stds[name]) * unit(name).astype(value.dtype) for name, value in sent.items()}


def _clipped(sent: Tensors, max_norm: float) -> Tensors:
    factor = 1 / max(norm(sent) / max_norm, 1.0)
    return {name: value * value.dtype.type(factor) for name, value in sent.items()}


def _largest(value: np.ndarray, share: float) -> np.ndarray:
    flat = value.reshape(-1)
    dropped = min(flat.size - round(share * flat.size), flat.size - 1)
    if dropped <= 0:
        return value
    kept = flat.copy()
    kept[np.argpartition(np.abs(flat), dropped)[:dropped]] = 0
    return kept.reshape(value.shape)


def _to_int8(value: np.ndarray) -> np.ndarray:
    step = np.max(np.abs(value), initial=0).astype(np.float64) / _INT8_LEVELS
    return value if step == 0 else (np.rint(value / step) * step).astype(value.dtype)


_ROUNDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float16": lambda value: value.astype(np.float16).astype(value.dtype),
    "bfloat16": lambda value: value.astype(jnp.bfloat16).astype(value.dtype),
    "int8": _to_int8,
}


def _call(name: str, **parameters: float) -> str:
    """``clip(norm=1.0)``, as the metadata have it."""
    return f"{name}({', '.join(f'{parameter}={float(value)!r}' for parameter, value in parameters.items())})"


def _require(name: str, value: Any, is_valid: Any, wanted: str) -> None:
    if not is_valid:
        raise UpdateError(f"{name} is {value}; expected {wanted}.")


# The grids end the attack on 8 photos at a width of 200 somewhere inside; but for clip, which never ends it.
_TABLE = (
    Defence(
        "gaussian_noise", "relative", "standard deviation >= 0, in root mean squares of each tensor",
        (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0), gaussian_noise,
    ),
    Defence(
        "gaussian_noise_absolute", "std", "standard deviation >= 0, in the unit of the gradient or weight change",
        (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2),
        lambda update, std, key: gaussian_noise(update, std, key, relative=False),
    ),
    Defence(
        "top_k", "share", "share in (0, 1] of each tensor's entries kept, the largest",
        (1.0, 0.999, 0.99, 0.95, 0.9, 0.8, 0.5, 0.1), lambda update, share, _: top_k(update, share),
    ),
    Defence(
        "random_mask", "probability", "probability in [0, 1) that an entry becomes zero",
        (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5), random_mask,
    ),
    Defence("float16", "", "rounding to half precision", (None,), lambda update, *_: quantize(update, "float16")),
    Defence("bfloat16", "", "rounding to 8 significant bits", (None,), lambda update, *_: quantize(update, "bfloat16")),
    Defence("int8", "", "rounding to 255 levels per tensor", (None,), lambda update, *_: quantize(update, "int8")),
    Defence("zero_bias", "", "bias gradients withheld (zero)", (None,), lambda update, *_: zero_bias(update)),
    Defence(
        "clip", "norm", "largest norm > 0 of the whole update, in the unit of the gradient or weight change",
        (10.0, 1.0, 0.1, 1e-2, 1e-3), lambda update, max_norm, _: clip(update, max_norm),
    ),
    Defence(
        "client_dp", "noise_multiplier", "standard deviation >= 0 of the noise, in units of the clipping norm, 1",
        (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0), client_dp,
    ),
)  # fmt: skip
DEFENCES: dict[str, Defence] = {defence.name: defence for defence in _TABLE}
