"""Gradient matching: images whose gradient points where the observed one does.

Geiping et al., "Inverting Gradients", NeurIPS 2020 (facts "M-hi" for the method, "M-med" for its constants): from
noise, minimise one minus the cosine of the two gradients over all parameters, plus total variation, by Adam on the sign
of the derivative, at a rate of 0.1 that falls tenfold after 3/8, 5/8 and 7/8 of 24,000 steps; pixels are kept in
[0, 1]. Its attacker knows the labels, as there, and with them the batch size.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import unflatten_dict
from jaxtyping import Float, Int

import spear_jax as sj
from experiments.baselines import Reconstruction
from experiments.baselines.cocktail_party import ImageShape, total_variation
from spear_jax.client.models import Params, cross_entropy

DECAY, DECAY_AT = 0.1, (3 / 8, 5 / 8, 7 / 8)


class Options(NamedTuple):
    """The optimiser's schedule.

    Attributes:
        steps: of Adam; 24,000 are published.
        learning_rate: of Adam at first.
        total_variation: weight of the images' total variation, in the units that the model is fed: the best decade of
            four (0.1 to 1e-4) on one batch of 8 photos that is in no experiment.
    """

    steps: int = 24_000
    learning_rate: float = 0.1
    total_variation: float = 1e-4


def gradient_matching(
    update: sj.Update, labels: Int[np.ndarray, " b"], key: jax.Array, options: Options = Options()
) -> Reconstruction:
    """One image per label, computed in float32.

    Args:
        update: gradient of every parameter of an `spear_jax.MLP`, the mean over the batch.
        labels: of the batch, in any order: told to this attack, not found by it.
        key: of the noise it starts from, consumed.
        options: schedule.
    """
    model, params, observed = model_of(update, jnp.float32)
    start = jax.random.normal(key, (len(labels), update.observation().in_features), jnp.float32)
    low, high = (jnp.asarray(bound, jnp.float32) for bound in pixel_range(update))
    found = _minimise(model, options, update.image_shape, params, observed, start, jnp.asarray(labels), low, high)
    return Reconstruction(np.asarray(found, np.float64))


def model_of(update: sj.Update, dtype: jax.typing.DTypeLike) -> tuple[sj.MLP, Params, Params]:
    """The model, its parameters and their observed gradient, from an update of an `spear_jax.MLP`."""
    tree = lambda tensors: unflatten_dict({name: jnp.asarray(value, dtype) for name, value in tensors.items()}, sep="/")
    params, observed = tree(update.global_tensors), tree(update.client_tensors)
    *widths, classes = (len(update.global_tensors[layer.bias_name]) for layer in update.layers)
    return sj.MLP(tuple(widths), classes, param_dtype=dtype), params, observed


def mismatch(
    model: sj.MLP, params: Params, observed: Params, inputs: Float[jax.Array, "b n"], labels: Int[jax.Array, " b"]
) -> Float[jax.Array, ""]:
    """One minus the cosine of the gradient of these inputs and the observed one, over all parameters."""
    logits = lambda params: jnp.asarray(model.apply({"params": params}, inputs))
    gradient = jax.grad(lambda params: cross_entropy(logits(params), labels))(params)
    dot = lambda x, y: sum(jax.tree.leaves(jax.tree.map(jnp.vdot, x, y)))
    return 1 - dot(gradient, observed) / jnp.sqrt(dot(gradient, gradient) * dot(observed, observed))


def pixel_range(update: sj.Update) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """What black and white pixels are as inputs (n,); without bounds where the inputs are no images."""
    size, shape = update.observation().in_features, update.image_shape
    if update.normalization is None or shape is None:
        return np.full(size, -np.inf), np.full(size, np.inf)
    black, white = (update.normalization.apply(np.full((1, *shape), value)).reshape(-1) for value in (0.0, 1.0))
    return black, white


@functools.partial(jax.jit, static_argnames=("model", "options", "image_shape"))
def _minimise(
    model: sj.MLP, options: Options, image_shape: ImageShape | None, params: Params, observed: Params,
    start: jax.Array, labels: jax.Array, low: jax.Array, high: jax.Array,
) -> jax.Array:  # fmt: skip
    decays = {int(options.steps * share): DECAY for share in DECAY_AT}
    optimizer = optax.adam(optax.piecewise_constant_schedule(options.learning_rate, decays))

    def loss(inputs):
        value = mismatch(model, params, observed, inputs, labels)
        if image_shape is None:
            return value
        return value + options.total_variation * jnp.mean(total_variation(inputs, image_shape))

    def step(_, carry):
        inputs, state = carry
        updates, state = optimizer.update(jnp.sign(jax.grad(loss)(inputs)), state)
        return jnp.clip(inputs + updates, low[None], high[None]), state

    return jax.lax.fori_loop(0, options.steps, step, (start, optimizer.init(start)))[0]
