"""A VGG-style network, its client, and the observation that the server makes of its first fully connected layer.

Blocks of 3 x 3 convolutions with ReLU, each block ending in 2 x 2 max pooling, then FC(m) - ReLU - ... - FC(classes)
(Simonyan and Zisserman, 2015). The FC head is what SPEAR inverts: its "inputs" are the features of the images.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Float, Int

from spear_jax import LayerObservation
from spear_jax.client.models import Params, cross_entropy
from spear_jax.types import Array

FC_STD = 0.01  # of the FC kernels in torchvision's VGG; the convolutions are He normal over the fan-out, biases zero


class VGG(nn.Module):
    """Convolutional features and a fully connected head.

    Attributes:
        blocks: channels of the convolutions of each block; pooling halves the image after each.
        widths: neurons of the hidden FC layers, m first.
        num_classes: number of logits.
        param_dtype: float32 or float64; the forward pass runs in it too.
    """

    blocks: tuple[tuple[int, ...], ...]
    widths: tuple[int, ...]
    num_classes: int
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        shared = {"dtype": self.param_dtype, "param_dtype": self.param_dtype, "precision": jax.lax.Precision.HIGHEST}
        he = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        normal = nn.initializers.normal(FC_STD)
        self.conv = [nn.Conv(channels, (3, 3), kernel_init=he, **shared) for block in self.blocks for channels in block]
        self.fc = [nn.Dense(size, kernel_init=normal, **shared) for size in (*self.widths, self.num_classes)]

    def features(self, images: Float[Array, "b h w c"]) -> Float[Array, "b n"]:
        """Features (b, n) of normalised images (b, H, W, C): not negative, in torchvision's order (C, H, W)."""
        hidden, layers = jnp.asarray(images), iter(self.conv)
        for block in self.blocks:
            for _ in block:
                hidden = nn.relu(next(layers)(hidden))
            hidden = _max_pool(hidden)
        return jnp.moveaxis(hidden, -1, 1).reshape(len(images), -1)

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        """Logits (b, num_classes) of normalised images (b, H, W, C)."""
        hidden = self.features(images)
        for layer in self.fc[:-1]:
            hidden = nn.relu(layer(hidden))
        return self.fc[-1](hidden)


def _max_pool(hidden: jax.Array) -> jax.Array:
    """2 x 2 maximum; XLA's window reduction has a derivative that is slow on CPUs."""
    size, height, width, channels = hidden.shape
    return hidden.reshape(size, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def init_params(model: VGG, key: jax.Array, image_shape: tuple[int, int, int]) -> Params:
    """Fresh parameters for images (H, W, C): ``conv_i`` and ``fc_i`` with ``kernel`` and ``bias``.

    Raises:
        ValueError: an image side that the poolings do not divide.
    """
    if any(side % 2 ** len(model.blocks) for side in image_shape[:2]):
        raise ValueError(f"images of {image_shape[:2]} cannot be halved {len(model.blocks)} times.")
    return jax.jit(model.init)(key, jnp.zeros((1, *image_shape), model.param_dtype))["params"]


def features(model: VGG, params: Params, images: Float[Array, "b h w c"]) -> Float[jax.Array, "b n"]:
    """Features (b, n) of normalised images."""
    return model.apply({"params": params}, images, method="features")  # pyright: ignore[reportReturnType]


def loss(model: VGG, params: Params, images: Float[Array, "b h w c"], labels: Int[Array, " b"]) -> jax.Array:
    """Softmax cross-entropy, the mean over the batch."""
    return cross_entropy(model.apply({"params": params}, images), labels)  # pyright: ignore[reportArgumentType]


def train(
    model: VGG,
    params: Params,
    images: Float[Array, "k h w c"],
    labels: Int[Array, " k"],
    key: jax.Array,
    *,
    steps: int,
    learning_rate: float = 0.02,
    batch_size: int = 32,
) -> tuple[Params, Float[np.ndarray, " steps"]]:
    """SGD with momentum 0.9 on mini-batches drawn without replacement, and the loss of every step."""
    optimizer = optax.sgd(learning_rate, momentum=0.9)

    @jax.jit
    def step(params, state, step_key):
        index = jax.random.choice(step_key, len(images), (batch_size,), replace=False)
        value, gradients = jax.value_and_grad(functools.partial(loss, model))(params, images[index], labels[index])
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimizer.init(params), []
    # The loop is Python's: XLA's convolutions on CPUs are ten times slower inside of a compiled one.
    for step_key in jax.random.split(key, steps):
        params, state, value = step(params, state, step_key)
        losses.append(value)
    return params, np.array(losses)


class ClientUpdate(NamedTuple):
    """What the server holds of one gradient over a private batch.

    Attributes:
        observation: of the first FC layer.
        layers_above: the dense layers above it, ``[(W2, b2), ...]``, kernels (out, in).
        next_weight_grad: (j, m) kernel gradient of the second FC layer.
    """

    observation: LayerObservation
    layers_above: list[tuple[Array, Array]]
    next_weight_grad: Array


def client_update(
    model: VGG, params: Params, images: Float[Array, "b h w c"], labels: Int[Array, " b"]
) -> ClientUpdate:
    """The gradient of the mean cross-entropy over a batch, in the dtype of the model.

    Args:
        model: with one hidden FC layer at least.
        params: as the server sent them; cast to the model's dtype.
        images: (b, H, W, C) normalised.
        labels: (b,) classes.
    """
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, model.param_dtype), params)
    gradients = jax.jit(jax.grad(functools.partial(loss, model)))(
        params, jnp.asarray(images, model.param_dtype), jnp.asarray(labels)
    )
    dense = [params[f"fc_{index}"] for index in range(len(model.widths) + 1)]
    observation = LayerObservation(
        weight=dense[0]["kernel"].T,
        bias=dense[0]["bias"],
        weight_grad=gradients["fc_0"]["kernel"].T,
        bias_grad=gradients["fc_0"]["bias"],
    )
    above = [(layer["kernel"].T, layer["bias"]) for layer in dense[1:]]
    return ClientUpdate(observation, above, gradients["fc_1"]["kernel"].T)
