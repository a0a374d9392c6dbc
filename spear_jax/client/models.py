"""Fully connected classifiers as clients train them: model, initialization, loss and a plain SGD loop."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Float, Int

from spear_jax.activations import named
from spear_jax.errors import SpearError
from spear_jax.types import Array

Params = Mapping[str, Mapping[str, Array]]
INITIALIZATIONS = ("pytorch", "flax", "normal")
_FIRST_LAYER_STD = 0.5


class MLP(nn.Module):
    """Dense layers ``dense_0 .. dense_L`` with an activation between and logits on top.

    Attributes:
        widths: neurons of each hidden layer; none makes a linear classifier.
        num_classes: number of logits.
        initialization: ``"pytorch"`` draws kernel and bias from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as
            ``torch.nn.Linear`` does by default; ``"flax"`` is LeCun normal with zero biases; ``"normal"`` is
            N(0, 0.5^2) in the first layer, Glorot uniform above, and zero biases.
        activation: between the layers, by name (`spear_jax.activations`).
        param_dtype: float32, or float64 where x64 is on; the forward pass runs in it too.
    """

    widths: tuple[int, ...]
    num_classes: int
    initialization: str = "pytorch"
    activation: str = "relu"
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: Float[Array, "b n"]) -> Float[Array, "b c"]:
        """Logits (b, num_classes) of inputs (b, n)."""
        sizes = (inputs.shape[-1], *self.widths, self.num_classes)
        hidden = jnp.asarray(inputs)
        for index, (fan_in, size) in enumerate(itertools.pairwise(sizes)):
            kernel_init, bias_init = _initializers(self.initialization, index, fan_in)
            dense = nn.Dense(
                size,
                dtype=self.param_dtype,
                param_dtype=self.param_dtype,
                precision=jax.lax.Precision.HIGHEST,
                kernel_init=kernel_init,
                bias_init=bias_init,
                name=layer_name(index),
            )
            # An added zero whose gradient is dL/dZ; without the collection "perturbations" it is not there.
            pre_activation = self.perturb(perturbation_name(index), dense(hidden))
            hidden = activate(self.activation, pre_activation) if index < len(self.widths) else pre_activation
        return hidden


# As flax has them: another implementation than the attack's.
ACTIVATE: dict[str, Callable[..., jax.Array]] = {
    "relu": nn.relu, "relu6": nn.relu6, "gelu": functools.partial(nn.gelu, approximate=False), "gelu_tanh": nn.gelu,
    "silu": nn.silu, "elu": nn.elu, "selu": nn.selu, "softplus": nn.softplus, "tanh": nn.tanh, "sigmoid": nn.sigmoid,
    "hardswish": nn.hard_swish,
}  # fmt: skip


def activate(name: str, pre_activation: jax.Array) -> jax.Array:
    """The activation of this name, applied.

    Raises:
        SpearError: no activation is called so.
    """
    activation = named(name)
    if activation.name in ACTIVATE:
        return ACTIVATE[activation.name](pre_activation)
    return nn.leaky_relu(pre_activation, activation.slope)


def layer_name(index: int) -> str:
    """Name of dense layer ``index``, counted from the input."""
    return f"dense_{index}"


def perturbation_name(index: int) -> str:
    """Name of the zero added to the output of dense layer ``index`` in the collection ``perturbations``."""
    return f"grad_z_{index}"


def init_params(model: MLP, key: jax.Array, in_features: int) -> Params:
    """Draw fresh parameters ``{layer: {"kernel": (in, out), "bias": (out,)}}``.

    Args:
        model: the architecture.
        key: PRNG key, consumed.
        in_features: n, length of one input.

    Raises:
        SpearError: unknown initialization, a size below one, or float64 without x64.
    """
    if model.initialization not in INITIALIZATIONS:
        raise SpearError(f"initialization is {model.initialization!r}; expected one of {', '.join(INITIALIZATIONS)}.")
    sizes = (in_features, *model.widths, model.num_classes)
    if min(sizes) < 1:
        raise SpearError(f"the layer sizes are {sizes}; expected positive integers.")
    require_dtype(model.param_dtype)
    return _init(model, in_features, key)


@functools.partial(jax.jit, static_argnames=("model", "in_features"))
def _init(model, in_features, key):
    return model.init(key, jnp.zeros((1, in_features), model.param_dtype))["params"]


def require_dtype(dtype: Any) -> None:
    """Checks that this process can compute in ``dtype``.

    Raises:
        SpearError: neither float32 nor float64, or float64 while JAX runs without x64.
    """
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in ("float32", "float64"):
        raise SpearError(f"dtype is {name}; expected float32 or float64.")
    if name == "float64" and jnp.result_type(float) != jnp.float64:
        raise SpearError(
            "float64 needs JAX with x64, which is off in this process: call jax.config.update('jax_enable_x64', True) "
            "first, or ask for float32."
        )


def cross_entropy(logits: Float[Array, "b c"], labels: Int[Array, " b"]) -> Float[jax.Array, ""]:
    """Softmax cross-entropy, the mean over the batch."""
    return optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), jnp.asarray(labels)).mean()


def train(
    model: MLP,
    params: Params,
    inputs: Float[Array, "b n"],
    labels: Int[Array, " b"],
    *,
    steps: int,
    learning_rate: float,
    batch_size: int,
    key: jax.Array,
) -> tuple[Params, Float[jax.Array, " steps"]]:
    """Train by plain SGD on mini-batches drawn without replacement, afresh for every step.

    Args:
        model: the architecture.
        params: where to start.
        inputs: training inputs, normalized.
        labels: their classes.
        steps: number of SGD steps.
        learning_rate: step size.
        batch_size: samples per step, at most the number of inputs.
        key: PRNG key, consumed.

    Returns:
        The trained parameters, and the loss of each step's mini-batch before the step.

    Raises:
        SpearError: a batch larger than the data.
    """
    if not 1 <= batch_size <= len(inputs):
        raise SpearError(f"batch_size is {batch_size}; expected 1 to {len(inputs)}, the number of inputs.")
    inputs = jnp.asarray(inputs, model.param_dtype)
    return _sgd(model, batch_size, params, inputs, jnp.asarray(labels), learning_rate, jax.random.split(key, steps))


@functools.partial(jax.jit, static_argnames=("model", "batch_size"))
def _sgd(model, batch_size, params, inputs, labels, learning_rate, step_keys):
    optimizer = optax.sgd(learning_rate)

    def loss(params, index):
        return cross_entropy(model.apply({"params": params}, inputs[index]), labels[index])

    def step(carry, step_key):
        params, state = carry
        index = jax.random.choice(step_key, len(inputs), (batch_size,), replace=False)
        value, gradients = jax.value_and_grad(loss)(params, index)
        updates, state = optimizer.update(gradients, state)
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), step_keys)
    return params, losses


def _initializers(name: str, index: int, fan_in: int) -> tuple[Callable, Callable]:
    """Kernel and bias initializers of one layer."""
    if name == "pytorch":
        bound = fan_in**-0.5
        return (_uniform(bound), _uniform(bound))
    if name == "normal":
        first = index == 0
        kernel = nn.initializers.normal(_FIRST_LAYER_STD) if first else nn.initializers.glorot_uniform()
        return kernel, nn.initializers.zeros
    return nn.initializers.lecun_normal(), nn.initializers.zeros


def _uniform(bound: float) -> Callable:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)
