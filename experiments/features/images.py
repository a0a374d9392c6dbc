"""Images from features: exact ones, noisy ones and those of ICA, inverted and scored side by side."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.optimize import linear_sum_assignment
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from experiments.features import ica
from experiments.features.feature_inversion import FeaturesOf, Inversion, cosine, invert, losses

Pixels = Float[np.ndarray, "k h w c"]
# Weights of the total variation, chosen from 0, 0.03, 0.1, 0.3 and 1 on the same four images (of seed 0) and networks.
TV_WEIGHTS = {"distance": 0.3, "cosine": 0.03}


class Kind(NamedTuple):
    """A kind of feature and how it is inverted.

    Attributes:
        name: in lines and plots.
        loss: ``"distance"``, which uses the feature's scale, or ``"cosine"`` (CPA).
        noise: norm of Gaussian noise on the exact feature, relative to the feature's; None for ICA's estimate.
    """

    name: str
    loss: str
    noise: float | None


KINDS = (
    Kind("exact", "distance", 0.0),
    Kind("noise 0.01", "distance", 0.01),
    Kind("noise 0.1", "distance", 0.1),
    Kind("exact, cosine", "cosine", 0.0),
    Kind("ICA, cosine", "cosine", None),
)
NAMES = tuple(kind.name for kind in KINDS)


def compare(
    features_of: FeaturesOf,
    originals: Pixels,
    truth: Float[np.ndarray, "k n"],
    exact: Float[np.ndarray, "k n"],
    mixtures: Float[np.ndarray, "r n"],
    seed: int,
    steps: int,
) -> tuple[dict[str, dict[str, list[float]]], UInt8[np.ndarray, "k columns h w c"]]:
    """Invert every kind of feature of the same images.

    Args:
        features_of: pixels in [0, 1] to features, float32.
        originals: the k images, in [0, 1].
        truth: their true features, which only score, and choose among ICA's.
        exact: the recovered ones.
        mixtures: rows that span the features of the whole batch, for ICA.
        seed: of noise, ICA and the starting images.
        steps: of Adam.

    Returns:
        ``{kind: {score: [one per image]}}`` and the 8-bit images, originals first. Scores: ``psnr``, ``ssim``,
        ``correlation`` of the pixels, which brightness and contrast do not change, ``target_cosine`` of the feature
        inverted and ``feature_cosine`` of the feature of the image found, to the true one, and ``excess_loss`` over the
        loss of the original: positive where the optimiser is stuck, negative where the loss prefers another image.
    """
    rng = np.random.default_rng(seed)
    targets = {
        kind: _from_ica(mixtures, truth, rng) if kind.noise is None else _noisy(exact, kind.noise, rng)
        for kind in KINDS
    }
    found: dict[Kind, Pixels] = {}
    for number, loss in enumerate(TV_WEIGHTS):
        same = [kind for kind in KINDS if kind.loss == loss]
        options = _inversion(loss, steps)
        key = jax.random.fold_in(jax.random.key(seed), number)
        stacked = np.concatenate([targets[kind] for kind in same])
        images = np.asarray(invert(features_of, stacked, originals.shape[1:], key, options), np.float64)
        found |= zip(same, np.split(images, len(same)), strict=True)
    scores = {
        kind.name: _image_scores(originals, found[kind])
        | _feature_scores(features_of, _inversion(kind.loss, steps), originals, truth, targets[kind], found[kind])
        for kind in KINDS
    }
    columns = np.stack([originals, *(found[kind] for kind in KINDS)], axis=1)
    return scores, np.rint(255 * columns).astype(np.uint8)


def _noisy(exact: Float[np.ndarray, "k n"], noise: float, rng: np.random.Generator) -> Float[np.ndarray, "k n"]:
    direction = rng.standard_normal(exact.shape)
    sizes = np.linalg.norm(exact, axis=1, keepdims=True) / np.linalg.norm(direction, axis=1, keepdims=True)
    return exact + noise * sizes * direction


def _from_ica(
    mixtures: Float[np.ndarray, "r n"], truth: Float[np.ndarray, "k n"], rng: np.random.Generator
) -> Float[np.ndarray, "k n"]:
    """ICA's estimates that are nearest to the true features by angle: in its favour, as in CPA's evaluation."""
    sources = ica.unmix(mixtures, rng)
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return sources[linear_sum_assignment(-unit(truth) @ unit(sources).T)[1]]


def _inversion(loss: str, steps: int) -> Inversion:
    return Inversion(steps=steps, tv_weight=TV_WEIGHTS[loss], uses_scale=loss == "distance")


def _image_scores(originals: Pixels, found: Pixels) -> dict[str, list[float]]:
    pairs = list(zip(originals, found, strict=True))
    return {
        "psnr": [float(peak_signal_noise_ratio(*pair, data_range=1.0)) for pair in pairs],
        "ssim": [_ssim(*pair) for pair in pairs],
        "correlation": [float(np.corrcoef(original.ravel(), image.ravel())[0, 1]) for original, image in pairs],
    }


def _feature_scores(
    features_of: FeaturesOf,
    options: Inversion,
    originals: Pixels,
    truth: Float[np.ndarray, "k n"],
    targets: Float[np.ndarray, "k n"],
    found: Pixels,
) -> dict[str, list[float]]:
    loss = lambda pixels: losses(
        features_of, jnp.asarray(pixels, jnp.float32), jnp.asarray(targets, jnp.float32), options
    )
    features = np.asarray(features_of(jnp.asarray(found, jnp.float32)), np.float64)
    return {
        "target_cosine": np.asarray(cosine(targets, truth)).tolist(),
        "feature_cosine": np.asarray(cosine(features, truth)).tolist(),
        "excess_loss": np.asarray(loss(found) - loss(originals)).tolist(),
    }


def _ssim(original: np.ndarray, image: np.ndarray) -> float:
    return float(structural_similarity(original, image, data_range=1.0, channel_axis=-1))  # pyright: ignore[reportArgumentType]


def encode(images: UInt8[np.ndarray, "k columns h w c"]) -> str:
    """A grid of images, one row per sample, as a PNG in base64, so that a line holds what a plot needs."""
    rows, columns, height, width, channels = images.shape
    grid = images.swapaxes(1, 2).reshape(rows * height, columns * width, channels)
    stream = io.BytesIO()
    Image.fromarray(grid).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def decode(text: str) -> UInt8[np.ndarray, "height width c"]:
    """The grid that `encode` wrote."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
