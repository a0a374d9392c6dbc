"""Differentially private SGD on the client: every sample's gradient clipped on its own, then noise on the sum.

Abadi et al., Deep Learning with Differential Privacy (CCS 2016), Algorithm 1. The clipping norm is that of all
parameters together. The privacy accountant is the optional package dp-accounting.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from spear_jax.client.batch import Batch
from spear_jax.client.gradient import check_batch, flatten, update_metadata
from spear_jax.client.models import MLP, Params, cross_entropy, require_dtype
from spear_jax.defences import gaussian_noise
from spear_jax.errors import SpearError
from spear_jax.update.bundle import Update


def dp_sgd_update(
    model: MLP,
    params: Params,
    batch: Batch,
    key: jax.Array,
    *,
    clip_norm: float,
    noise_multiplier: float,
    dtype: str = "float64",
    chunk_size: int = 8,
) -> Update:
    """Compute the gradient that a client training with DP-SGD sends: ``(sum_i clip(g_i) + noise) / b``.

    Args:
        model: the architecture.
        params: the parameters the server sent, as from `init_params`; cast to ``dtype``.
        batch: the private samples.
        key: PRNG key, consumed by the noise.
        clip_norm: C > 0, largest norm over all parameters of one sample's gradient, before the division by b.
        noise_multiplier: sigma >= 0; every entry of the sum gets noise of standard deviation sigma C.
        dtype: ``"float64"`` (needs x64) or ``"float32"``: what the client computes and sends in.
        chunk_size: samples whose gradients are held at once; memory and speed only.

    Returns:
        An update of kind ``gradient`` with a metadata entry ``defence``. Samples below the clipping norm keep their
        gradient, so with a large C and no noise it is that of `simulate_update`.

    Raises:
        SpearError: numbers out of range; what `simulate_update` refuses.
    """
    _require("clip_norm", clip_norm, 0 < clip_norm < math.inf, "a positive number")
    _require("noise_multiplier", noise_multiplier, 0 <= noise_multiplier < math.inf, "a number >= 0")
    _require("chunk_size", chunk_size, chunk_size >= 1, "a positive integer")
    require_dtype(dtype)
    check_batch(model, params, batch)
    model = model.clone(param_dtype=jnp.dtype(dtype))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    inputs, labels = jnp.asarray(batch.inputs, dtype), jnp.asarray(batch.labels)
    mean = _clipped_mean(model, chunk_size, params, inputs, labels, clip_norm)

    update = Update(flatten(params), flatten(mean), update_metadata(batch, model.activation))
    noisy = gaussian_noise(update, noise_multiplier * clip_norm / batch.size, key, relative=False)
    done = f"dp_sgd(clip_norm={float(clip_norm)!r}, noise_multiplier={float(noise_multiplier)!r})"
    return dataclasses.replace(noisy, metadata=dict(update.metadata) | {"defence": done})


@functools.partial(jax.jit, static_argnames=("model", "chunk_size"))
def _clipped_mean(model, chunk_size, params, inputs, labels, clip_norm):
    """Mean over samples of ``g_i / max(1, |g_i| / C)``, a tree like the parameters."""

    def loss(params, one_input, label):
        return cross_entropy(model.apply({"params": params}, one_input[None]), label[None])

    def gradient_norm(sample):
        return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(jax.grad(loss)(params, *sample))))

    norms = jax.lax.map(gradient_norm, (inputs, labels), batch_size=chunk_size)
    factors = 1 / jnp.maximum(norms / clip_norm, 1)
    # A scaled gradient is the gradient of the scaled loss: one pass over the batch, as without clipping.
    scaled_loss = lambda params: jnp.mean(factors * jax.vmap(loss, in_axes=(None, 0, 0))(params, inputs, labels))
    return jax.grad(scaled_loss)(params)


def dp_epsilon(noise_multiplier: float, sampling_rate: float, steps: int, delta: float) -> float:
    """The epsilon of (epsilon, delta)-differential privacy that DP-SGD spends; an upper bound by Rényi accounting.

    One sample more or less in the data set is what cannot be told, and every step samples each of them independently.
    A batch of a fixed size is usually accounted for the same way, which is an approximation.

    Args:
        noise_multiplier: sigma, as for `dp_sgd_update`; 0 gives infinity.
        sampling_rate: chance in (0, 1] of a sample to be in a batch: batch size over size of the data set.
        steps: number of batches, >= 1.
        delta: in (0, 1), commonly well below one over the size of the data set.

    Raises:
        SpearError: numbers out of range.
        ImportError: dp-accounting is not installed; the message says how to install it.

    References:
        Mironov, Talwar and Zhang, Rényi Differential Privacy of the Sampled Gaussian Mechanism, 2019.
    """
    _require("noise_multiplier", noise_multiplier, 0 <= noise_multiplier < math.inf, "a number >= 0")
    _require("sampling_rate", sampling_rate, 0 < sampling_rate <= 1, "a number in (0, 1]")
    _require("steps", steps, steps >= 1, "a positive integer")
    _require("delta", delta, 0 < delta < 1, "a number in (0, 1)")
    try:
        import dp_accounting  # pyright: ignore[reportMissingImports]
        from dp_accounting.rdp import RdpAccountant  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("dp_epsilon needs the package dp-accounting: pip install 'spear-jax[privacy]'.") from error
    if noise_multiplier == 0:
        return math.inf
    event = dp_accounting.PoissonSampledDpEvent(sampling_rate, dp_accounting.GaussianDpEvent(noise_multiplier))
    return float(RdpAccountant().compose(event, steps).get_epsilon(delta))


def _require(name: str, value: Any, is_valid: Any, wanted: str) -> None:
    if not is_valid:
        raise SpearError(f"{name} is {value}; expected {wanted}.")
