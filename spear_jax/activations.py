"""Activations as data: one number that a compiled program switches on, so that it serves all of them.

Where an activation has kinks, the search follows its mean over Gaussian noise of the pre-activation: the pattern that
a step is about to change is then felt before it changes (docs/span.md, Sec. 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import erf
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from spear_jax.errors import SpearError

SQRT2 = 2**0.5
# Of GELU's tanh form (Hendrycks and Gimpel 2016, Sec. 2).
SQRT_2_OVER_PI, GELU_CUBIC = (2 / 3.141592653589793) ** 0.5, 0.044715
# Of SELU (Klambauer et al. 2017, Eq. 2).
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


class Activation(NamedTuple):
    """An activation by name.

    Attributes:
        name: as `ACTIVATIONS` has it.
        slope: of negative pre-activations, where they are scaled by a constant.
    """

    name: str
    slope: float = 0.0

    def __str__(self) -> str:
        return f"{self.name}({self.slope!r})" if self.name in SLOPES else self.name

    @property
    def kind(self) -> int:
        """Number of its function in the compiled switch."""
        return KINDS.index(FORMS.get(self.name, self.name))

    @property
    def is_kinked(self) -> bool:
        """Whether its derivative jumps."""
        return self.name in KINKED

    @property
    def is_relu(self) -> bool:
        """Whether it sends negative pre-activations to exactly zero, and no others."""
        return self.name == "relu"


def _rectified(z: jax.Array, slope: jax.Array, width: jax.Array) -> jax.Array:
    """Mean of ``z if z > 0 else slope z`` over Gaussian noise of this width on z."""
    safe = jnp.where(width > 0, width, 1)
    scaled = z / safe
    mean = z * norm.cdf(scaled) + safe * norm.pdf(scaled)
    return slope * z + (1 - slope) * jnp.where(width > 0, mean, jnp.maximum(z, 0))


def _relu6(z: jax.Array, slope: jax.Array, width: jax.Array) -> jax.Array:
    none = jnp.zeros_like(slope)
    return _rectified(z, none, width) - _rectified(z - 6, none, width)


def _exponential(z: jax.Array) -> jax.Array:
    return jnp.where(z > 0, z, jnp.expm1(jnp.minimum(z, 0)))


def _selu(z: jax.Array) -> jax.Array:
    return SELU_SCALE * jnp.where(z > 0, z, SELU_ALPHA * jnp.expm1(jnp.minimum(z, 0)))


def _smooth(function: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    return lambda z, slope, width: function(z)


FUNCTIONS: dict[str, Callable[..., jax.Array]] = {
    "rectified": _rectified,
    "relu6": _relu6,
    "gelu": _smooth(lambda z: z * (1 + erf(z / SQRT2)) / 2),
    "gelu_tanh": _smooth(lambda z: z * (1 + jnp.tanh(SQRT_2_OVER_PI * (z + GELU_CUBIC * z**3))) / 2),
    "silu": _smooth(jax.nn.silu),
    "elu": _smooth(_exponential),
    "selu": _smooth(_selu),
    "softplus": _smooth(jax.nn.softplus),
    "tanh": _smooth(jnp.tanh),
    "sigmoid": _smooth(jax.nn.sigmoid),
    "hardswish": _smooth(lambda z: z * jnp.clip(z + 3, 0, 6) / 6),
}
KINDS = tuple(FUNCTIONS)
FORMS = {"relu": "rectified", "leaky_relu": "rectified", "prelu": "rectified"}
KINKED = ("relu", "leaky_relu", "prelu", "relu6")
# Slopes where the name alone is given, as PyTorch has them.
SLOPES = {"leaky_relu": 0.01, "prelu": 0.25}
ACTIVATIONS = (*FORMS, *KINDS[1:])
# Other names for the same, as frameworks write them.
ALIASES = {
    "swish": "silu",
    "leakyrelu": "leaky_relu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_approximate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python": "gelu",
    "hard_swish": "hardswish",
    "hard_silu": "hardswish",
    "logistic": "sigmoid",
}


def named(name: str) -> Activation:
    """The activation of a name, in any spelling of case, ``-`` and ``_``; ``leaky_relu(0.2)`` gives its slope too.

    Raises:
        SpearError: no activation is called so.
    """
    plain, _, given = name.strip().lower().partition("(")
    plain = plain.replace("-", "_")
    plain = ALIASES.get(plain, plain)
    if plain not in ACTIVATIONS:
        raise SpearError(f"activation is {name!r}; expected one of {', '.join(ACTIVATIONS)}.")
    slope = SLOPES.get(plain, 0.0)
    if given:
        try:
            slope = float(given.rstrip(")"))
            if not math.isfinite(slope):
                raise ValueError("no slope")
        except ValueError:
            raise SpearError(f"activation is {name!r}; expected a number in brackets, as in leaky_relu(0.2).") from None
        if plain not in SLOPES:
            raise SpearError(f"activation is {name!r}; only {' and '.join(SLOPES)} take a slope in brackets.")
    return Activation(plain, slope)


def function(activation: Activation) -> Callable[[jax.Array], jax.Array]:
    """One activation of arrays of any shape, to be traced by itself; the slope at a kink is that of the left side."""
    if activation.name in SLOPES or activation.is_relu:
        return lambda z: jnp.where(z > 0, z, activation.slope * z)
    if activation.name == "relu6":
        return lambda z: jnp.where(z > 0, jnp.where(z < 6, z, 6.0), 0.0)
    none = jnp.zeros(())
    return lambda z: FUNCTIONS[activation.name](z, none, none)


def apply(
    kind: jax.Array, slope: jax.Array, z: Float[Array, "l m"], width: Float[Array, " l"]
) -> tuple[Float[Array, "l m"], Float[Array, "l m"]]:
    """The activation and its derivative.

    Args:
        kind: () int32, number of the function.
        slope: () of negative pre-activations, where the function has one.
        z: pre-activations.
        width: of the Gaussian noise that kinks are averaged over, 0 for none.
    """
    branches = [lambda z, function=function: function(z, slope, width[:, None]) for function in FUNCTIONS.values()]
    return jax.jvp(lambda z: jax.lax.switch(kind, branches, z), (z,), (jnp.ones_like(z),))


@jax.custom_jvp
def activate(z: jax.Array, kind: jax.Array, slope: jax.Array, width: jax.Array) -> jax.Array:
    """The activation, see `apply`; linearised it keeps one array, whichever function is chosen."""
    return apply(kind, slope, z, width)[0]


@activate.defjvp
def _activate_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    z, kind, slope, width = primals
    value, slopes = apply(kind, slope, z, width)
    return value, slopes * tangents[0]  # itself differentiable: `apply` is no more than a switch


@jax.custom_jvp
def derivative(z: jax.Array, kind: jax.Array, slope: jax.Array, width: jax.Array) -> jax.Array:
    """The activation's derivative, see `apply`; linearised it keeps one array, whichever function is chosen."""
    return apply(kind, slope, z, width)[1]


@derivative.defjvp
def _derivative_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    z, kind, slope, width = primals
    slopes, bend = jax.jvp(lambda z: apply(kind, slope, z, width)[1], (z,), (jnp.ones_like(z),))
    return slopes, bend * tangents[0]
