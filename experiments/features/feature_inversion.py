"""Feature inversion: an image whose features match given ones.

Cocktail Party Attack (Kariyappa et al., ICML 2023, Sec. 3 and README): Adam on pixels, step size 0.1 on a cosine
schedule, loss ``1 - cosine + tv_weight * total variation`` (facts "S"). SPEAR combines the same with its exact features
(VGG16 table; facts "S" for its rows, its figures are not known). CPA's features have no scale; exact features do, and
the relative squared error ``|f - target|^2 / |target|^2`` uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from spear_jax.types import Array

FeaturesOf = Callable[[jax.Array], jax.Array]  # (k, H, W, C) pixels in [0, 1] to (k, n) features
START, START_STD = 0.5, 0.02  # pixels: grey, with a little noise that breaks symmetries


class Inversion(NamedTuple):
    """How features are inverted.

    Attributes:
        steps: of Adam.
        learning_rate: its first step size, in pixels; a cosine schedule ends at zero.
        tv_weight: weight of the total variation, mean absolute difference of neighbouring pixels.
        uses_scale: relative squared error instead of the cosine.
    """

    steps: int = 500
    learning_rate: float = 0.1
    tv_weight: float = 0.1
    uses_scale: bool = False


def invert(
    features_of: FeaturesOf,
    targets: Float[Array, "k n"],
    image_shape: tuple[int, int, int],
    key: jax.Array,
    options: Inversion = Inversion(),
) -> Float[jax.Array, "k h w c"]:
    """Images in [0, 1] whose features match the targets, all k side by side and independently.

    Args:
        features_of: of pixels, in float32.
        targets: (k, n) features.
        image_shape: (H, W, C).
        key: of the starting noise, consumed.
        options: steps and losses.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(options.learning_rate, options.steps))
    targets = jnp.asarray(targets, jnp.float32)
    loss = lambda pixels: losses(features_of, pixels, targets, options).sum()

    @jax.jit
    def step(pixels, state):
        updates, state = optimizer.update(jax.grad(loss)(pixels), state)
        return jnp.clip(optax.apply_updates(pixels, updates), 0, 1), state  # pyright: ignore[reportArgumentType]

    pixels = START + START_STD * jax.random.normal(key, (len(targets), *image_shape), jnp.float32)
    state = optimizer.init(pixels)
    # The loop is Python's: XLA's convolutions on CPUs are ten times slower inside of a compiled one.
    for _ in range(options.steps):
        pixels, state = step(pixels, state)
    return pixels


def losses(
    features_of: FeaturesOf, pixels: Float[jax.Array, "k h w c"], targets: Float[jax.Array, "k n"], options: Inversion
) -> Float[jax.Array, " k"]:
    """What is minimised, for each image."""
    fit = jnp.asarray(mismatch(features_of(pixels), targets, uses_scale=options.uses_scale))
    return fit + options.tv_weight * total_variation(pixels)


def mismatch(found: Float[Array, "k n"], targets: Float[Array, "k n"], *, uses_scale: bool) -> Float[Array, " k"]:
    """One minus the cosine, or the squared error relative to the target's square."""
    if uses_scale:
        return jnp.sum((found - targets) ** 2, axis=1) / jnp.sum(targets**2, axis=1)
    return 1 - cosine(found, targets)


def cosine(found: Float[Array, "k n"], targets: Float[Array, "k n"]) -> Float[Array, " k"]:
    """Cosine of the angle between rows; zero for a row of zeros."""
    sizes = jnp.linalg.norm(found, axis=1) * jnp.linalg.norm(targets, axis=1)
    return jnp.sum(found * targets, axis=1) / jnp.maximum(sizes, jnp.finfo(found.dtype).tiny)


def total_variation(images: Float[Array, "k h w c"]) -> Float[Array, " k"]:
    """Mean absolute difference of neighbours, down and across."""
    down = jnp.abs(images[:, 1:] - images[:, :-1]).mean(axis=(1, 2, 3))
    return down + jnp.abs(images[:, :, 1:] - images[:, :, :-1]).mean(axis=(1, 2, 3))
