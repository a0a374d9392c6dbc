"""What stands between two dense layers: norms, gates, skips and a transformer's feed-forward block.

Claim (ours): the span equations hold for any map of one sample's pre-activations and input that the server knows, so
LayerNorm, BatchNorm of evaluation, gates and skip connections protect nothing (`reconstruct(..., between=)`), and the
hidden states of all tokens come back from a feed-forward block while they are fewer than its width. CIFAR-10 photos,
16@200, float64, ten classes; Gaussian tokens. Nothing of the kind was found in the literature. Hardware: two CPU
cores. Time: five minutes.

    python -m experiments.claims.span_maps --data DIR

Each trial appends one line to results/lines/span_maps.jsonl.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import spear_jax as sj
from experiments.harness import claims, common
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.normalization import Normalization

NAME, SEEDS, BATCH, WIDTH, CLASSES, SECONDS = "span_maps", 5, 16, 200, 10, 60.0
TOKENS, MODEL = 48, 128
FEED_FORWARD = "feed-forward block"
# Relative error of a sample from which on it is wrong.
WRONG = 1e-3

Between = Callable[[jax.Array, jax.Array], jax.Array]


def _normed(z: jax.Array) -> jax.Array:
    return (z - jnp.mean(z)) / jnp.sqrt(jnp.var(z) + 1e-5)


def _gelu(z: jax.Array) -> jax.Array:
    return jax.nn.gelu(z, approximate=False)


MAPS: dict[str, Between] = {
    "LayerNorm after GELU": lambda z, x: _normed(_gelu(z)),
    "LayerNorm before GELU": lambda z, x: _gelu(_normed(z)),
    "BatchNorm of evaluation": lambda z, x: _gelu(1.3 * (z - 0.05) / 0.6 - 0.1),
    "gate": lambda z, x: z[: WIDTH // 2] * jax.nn.sigmoid(z[WIDTH // 2 :]),
    "skip": lambda z, x: jnp.concatenate([_gelu(z), x[::16]]),
    "ReLU, then LayerNorm": lambda z, x: _normed(jax.nn.relu(z)),
}


def settings(is_quick: bool) -> list[Setting]:
    """Every map, seed by seed; quick: one."""
    every = [{"map": name, "seed": seed} for name in (*MAPS, FEED_FORWARD) for seed in range(SEEDS)]
    return every[:1] if is_quick else every


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One batch behind one map."""
    seed, rng = setting["seed"], np.random.default_rng(setting["seed"])
    if setting["map"] == FEED_FORWARD:
        inputs, between = rng.normal(size=(TOKENS, MODEL)), None
        layers = feed_forward(inputs, rng)
    else:
        path = common.find_data("cifar10.npz", data)
        if path is None:
            return None
        batch = sj.load_batch(path, batch_size=BATCH, seed=seed, normalization=Normalization((0.5,), (0.25,)))
        inputs, between = np.asarray(batch.inputs, np.float64), MAPS[setting["map"]]
        layers = network(inputs, np.asarray(batch.labels) % CLASSES, between, rng)
    config = sj.ReconstructConfig(
        method="span", num_examples=len(inputs), max_seconds=SECONDS, activation="gelu" if between is None else None
    )
    result = sj.reconstruct(layers[0], jax.random.key(seed), config, layers_above=layers[1:], between=between)
    known = result.certificate.exact | result.certificate.approximate
    found = np.asarray(result.inputs, np.float64)[known]
    error = np.linalg.norm(found[:, None] - inputs[None], axis=2) / np.linalg.norm(inputs, axis=1)
    return {
        "samples": len(inputs),
        "status": result.status.name,
        "certified": int(result.certificate.exact.sum()),
        "approximate": int(result.certificate.approximate.sum()),
        "false_certificates": int(np.sum(error.min(axis=1, initial=np.inf) > WRONG)),
        "largest_error": common.finite(float(error.min(axis=1, initial=np.inf).max(initial=0))),
        "seconds": result.stats.seconds["search"],
    }


def _drawn(rng: np.random.Generator, outer: int, inner: int) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias as PyTorch draws them."""
    bound = 1 / np.sqrt(inner)
    return rng.uniform(-bound, bound, (outer, inner)), rng.uniform(-bound, bound, outer)


def network(
    inputs: np.ndarray, labels: np.ndarray, between: Between, rng: np.random.Generator
) -> list[sj.LayerObservation]:
    """Two layers, the map between them, and a head behind GELU: the gradients of the mean cross-entropy."""
    width = len(between(jnp.zeros(WIDTH), jnp.zeros(inputs.shape[1])))
    sizes = ((WIDTH, inputs.shape[1]), (WIDTH, width), (CLASSES, WIDTH))
    weights = [_drawn(rng, *size) for size in sizes]

    def loss(weights: Any) -> jax.Array:
        (w1, b1), (w2, b2), (w3, b3) = weights
        hidden = _gelu(jax.vmap(between)(inputs @ w1.T + b1, jnp.asarray(inputs)) @ w2.T + b2)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(hidden @ w3.T + b3, labels))

    return [_observed(*pair) for pair in zip(weights[:2], jax.grad(loss)(weights)[:2], strict=True)]


def feed_forward(tokens: np.ndarray, rng: np.random.Generator) -> list[sj.LayerObservation]:
    """A block ``x + W2 gelu(W1 x)`` of a transformer, with random gradients behind it."""
    (w1, b1), (w2, b2) = _drawn(rng, 4 * MODEL, MODEL), _drawn(rng, MODEL, 4 * MODEL)
    later = rng.normal(size=tokens.shape)

    def loss(weights: Any) -> jax.Array:
        (w1, b1), (w2, b2) = weights
        return jnp.sum(later * (tokens + _gelu(tokens @ w1.T + b1) @ w2.T + b2))

    weights = [(w1, b1), (w2, b2)]
    return [_observed(*pair) for pair in zip(weights, jax.grad(loss)(weights), strict=True)]


def _observed(sent: tuple[Any, Any], gradient: tuple[Any, Any]) -> sj.LayerObservation:
    (weight, bias), (weight_grad, bias_grad) = ([np.asarray(array) for array in pair] for pair in (sent, gradient))
    return sj.LayerObservation(weight=weight, bias=bias, weight_grad=weight_grad, bias_grad=bias_grad)


def findings(lines: list[Line]) -> list[Finding]:
    """One row a map."""
    found = []
    for name in (*MAPS, FEED_FORWARD):
        mine = claims.of(lines, map=name)
        if mine:
            total = lambda key, mine=mine: sum(line[key] for line in mine)
            what = f"{TOKENS} tokens, width {MODEL}" if name == FEED_FORWARD else f"b = {BATCH}, m = {WIDTH}"
            largest = max(line["largest_error"] for line in mine)
            measured = (
                f"{total('certified')} of {total('samples')} certified, {total('approximate')} with an error bar, "
                f"{total('false_certificates')} false; largest error {largest:.1g}; "
                f"median {np.median([line['seconds'] for line in mine]):.1f} s"
            )
            found.append(Finding(f"{name}, {what}", "ours: all", measured, mine))
    return found


CLAIM = Claim(NAME, settings, trial, findings)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
