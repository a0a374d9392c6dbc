"""The Cocktail Party Attack: independent component analysis of the weight gradient.

Kariyappa et al., ICML 2023, arXiv 2209.05578 (facts, section 3; objective "S"): rows of the gradient are mixtures
``G = D X^T`` of the inputs. They are centred and whitened to b components, and b unit rows V of an unmixing matrix
maximise the negentropy of the sources ``V G``, less a penalty for rows that agree and the sources' total variation.
Adam, 25,000 steps, from the identity. Weights: those published for Tiny-ImageNet at b = 128, in our reading of the
terms as means; the released code is said to run without negentropy. Its attacker knows the batch size.

ICA leaves the sign and the scale of every source open. The paper takes them from the truth and from the range [0, 1] of
pixels, in its evaluation (`as_published`). Here the bias gradient tells them, by the same unmixing, as in SPEAR:
``x_i = (u_i G) / (u_i g)``.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import spear_jax as sj
from experiments.baselines import Reconstruction, batch_size

ImageShape = tuple[int, int, int]
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
NORMAL_LOG_COSH = float(_WEIGHTS @ np.log(np.cosh(_NODES)) / _WEIGHTS.sum())
"""Mean of log cosh of a standard normal variable, with which negentropy compares."""


class Options(NamedTuple):
    """The optimiser's schedule and the weights of the objective.

    Attributes:
        steps: of Adam; 25,000 are published.
        learning_rate: of Adam.
        negentropy: weight.
        decorrelation: weight of ``exp(sharpness |cos(v_i, v_j)|) - 1``, the mean over pairs.
        sharpness: T.
        total_variation: weight; unused for inputs that are no images.
    """

    steps: int = 25_000
    learning_rate: float = 1e-3
    negentropy: float = 1.0
    decorrelation: float = 1.47
    sharpness: float = 12.4
    total_variation: float = 3.1


def cocktail_party(update: sj.Update, options: Options = Options()) -> Reconstruction:
    """One source per sample, sign and scale by the bias gradient; computed in float32 after whitening in float64.

    Args:
        update: of one step's gradient.
        options: schedule and weights.

    Raises:
        ValueError: no batch size.
    """
    observation = update.observation()
    weight_grad = np.asarray(observation.weight_grad, np.float64)
    whitening = whiten(weight_grad, batch_size(update))
    centred = weight_grad - weight_grad.mean(axis=1, keepdims=True)
    sources = jnp.asarray(whitening @ centred, jnp.float32)
    unmixing = np.asarray(unmix(sources, options, update.image_shape), np.float64) @ whitening
    scale = unmixing @ np.asarray(observation.bias_grad, np.float64)
    return Reconstruction(unmixing @ weight_grad / np.where(scale == 0, 1, scale)[:, None])


def as_published(found: Float[np.ndarray, "b n"], truth: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b n"]:
    """The paper's evaluation, which uses the truth: range, sign and partner of every source.

    Args:
        found: pixels of the sources, sign and scale arbitrary.
        truth: pixels of the batch, in [0, 1].

    Returns:
        each scaled to the range [0, 1], or its negative where that is closer, in the order of the truth; partners by
        the least sum of squared errors (the paper's by structural similarity, greedily).
    """
    low, high = found.min(axis=1, keepdims=True), found.max(axis=1, keepdims=True)
    positive = (found - low) / (high - low)
    signed = np.stack([positive, 1 - positive])
    errors = np.stack([cdist(sources, truth, "sqeuclidean") for sources in signed])
    rows, columns = linear_sum_assignment(errors.min(axis=0))
    signs = errors[:, rows, columns].argmin(axis=0)
    return signed[signs, rows][np.argsort(columns)]


def whiten(mixtures: Float[np.ndarray, "m n"], components: int) -> Float[np.ndarray, "b m"]:
    """The matrix that takes centred mixtures to uncorrelated components of unit variance, strongest first."""
    values, vectors = np.linalg.eigh(np.cov(mixtures, bias=True))
    return (vectors[:, ::-1][:, :components] / np.sqrt(values[::-1][:components])).T


@functools.partial(jax.jit, static_argnames=("options", "image_shape"))
def unmix(
    whitened: Float[jax.Array, "b n"], options: Options, image_shape: ImageShape | None = None
) -> Float[jax.Array, "b b"]:
    """Unit rows that minimise the objective, by Adam from the identity."""
    optimizer = optax.adam(options.learning_rate)
    loss = functools.partial(objective, whitened=whitened, options=options, image_shape=image_shape)

    def step(_, carry):
        unmixing, state = carry
        updates, state = optimizer.update(jax.grad(loss)(unmixing), state)
        return _unit_rows(unmixing + updates), state

    start = jnp.eye(len(whitened), dtype=whitened.dtype)
    return jax.lax.fori_loop(0, options.steps, step, (start, optimizer.init(start)))[0]


def objective(
    unmixing: Float[jax.Array, "b b"],
    whitened: Float[jax.Array, "b n"],
    options: Options,
    image_shape: ImageShape | None = None,
) -> Float[jax.Array, ""]:
    """What is minimised: the published objective with its sign turned (facts, section 3.1)."""
    rows = _unit_rows(unmixing)
    sources = rows @ whitened
    loss = options.decorrelation * decorrelation(rows, options.sharpness)
    loss -= options.negentropy * jnp.mean(negentropy(sources))
    if image_shape is not None:
        loss += options.total_variation * jnp.mean(total_variation(sources, image_shape))
    return loss


def negentropy(sources: Float[jax.Array, "b n"]) -> Float[jax.Array, " b"]:
    """``(E log cosh s - E log cosh v)^2``, v standard normal: Hyvarinen's approximation, at unit variance."""
    # log cosh s = |s| + log(1 + exp(-2 |s|)) - log 2 does not overflow.
    size = jnp.abs(sources)
    log_cosh = jnp.mean(size + jnp.log1p(jnp.exp(-2 * size)), axis=1) - np.log(2)
    return (log_cosh - NORMAL_LOG_COSH) ** 2


def decorrelation(rows: Float[jax.Array, "b b"], sharpness: float) -> Float[jax.Array, ""]:
    """Mean of ``exp(T |cos|) - 1`` over pairs of unit rows; 0 for a single row."""
    count = len(rows)
    if count == 1:
        return jnp.zeros((), rows.dtype)
    cosines = jnp.where(jnp.eye(count, dtype=bool), 0, rows @ rows.T)
    return jnp.sum(jnp.expm1(sharpness * jnp.abs(cosines))) / (count * (count - 1))


def total_variation(images: Float[jax.Array, "b n"], image_shape: ImageShape) -> Float[jax.Array, " b"]:
    """Mean absolute difference of neighbours down and across, per image of shape (H, W, C)."""
    pixels = images.reshape(-1, *image_shape)
    down, across = jnp.abs(jnp.diff(pixels, axis=1)), jnp.abs(jnp.diff(pixels, axis=2))
    return down.mean(axis=(1, 2, 3)) + across.mean(axis=(1, 2, 3))


def _unit_rows(matrix: Float[jax.Array, "b b"]) -> Float[jax.Array, "b b"]:
    return matrix / jnp.linalg.norm(matrix, axis=1, keepdims=True)
