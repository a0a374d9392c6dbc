"""What noise, rounding and DP-SGD leave of a batch where the next layer's gradient came back too.

Claim (ours): the zeros of ReLU drown in a hundredth of noise, what the next layer saw does not: at up to half of each
gradient's root mean square photos are still recognised (above 20 dB), behind ReLU and behind GELU, since all samples
are found together, and what carries an error bar is off by what it says. CIFAR-10 photos, m = 200, float64, ten classes
of PyTorch's initialisation; six hidden layers for ReLU, three for GELU and for DP-SGD, which clips each sample's
gradient to norm 1 over all parameters and adds noise of z to the sum: the more layers share that norm, the more it
hides. Hardware: two CPU cores. Time: forty minutes.

    python -m experiments.claims.span_noise --data DIR

Each trial appends one line to results/lines/span_noise.jsonl.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

import spear_jax as sj
from experiments.harness import claims, common
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.defences import by_name

NAME, SEEDS, WIDTH = "span_noise", 5, 200
DEPTHS, DP_DEPTH = {"relu": 6, "gelu": 3}, 3
STRENGTHS = {"white noise": (0.001, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5), "int8": (None,), "dp-sgd": (1e-4, 1e-3, 1e-2)}
SIZES = {"white noise": 8, "int8": 20, "dp-sgd": 20}
CLIP_NORM, RECOGNISED, CLEAR = 1.0, 20.0, 40.0


def settings(is_quick: bool) -> list[Setting]:
    """Every kind at every strength, seed by seed; quick: one seed of the first."""
    every = [
        {"kind": kind, "strength": strength, "activation": activation, "batch_size": SIZES[kind], "seed": seed}
        for kind, strengths in STRENGTHS.items()
        for strength in strengths
        for activation in DEPTHS
        for seed in range(SEEDS)
    ]
    return every[:1] if is_quick else every


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One batch, spoiled, and what comes back."""
    path = common.find_data("cifar10.npz", data)
    if path is None:
        return None
    activation, seed = setting["activation"], setting["seed"]
    batch = sj.load_batch(path, batch_size=setting["batch_size"], seed=seed)
    depth = DP_DEPTH if setting["kind"] == "dp-sgd" else DEPTHS[activation]
    model = sj.MLP((WIDTH,) * depth, batch.num_classes, activation=activation, param_dtype="float64")
    params = sj.init_params(model, jax.random.key(seed), batch.inputs.shape[1])
    layers = spoiled(setting, model, params, batch)
    config = sj.ReconstructConfig(activation=activation, method="span", num_examples=batch.size)
    try:
        result = sj.reconstruct(layers[0], jax.random.key(seed), config, layers_above=layers[1:])
    except sj.SpearError as error:  # noise hides the next layer's rank
        return {
            "samples": batch.size,
            "above_20_db": 0,
            "above_40_db": 0,
            "bars": 0,
            "ratios": [],
            "refused": str(error),
        }
    return score(result, batch)


def spoiled(setting: Setting, model: sj.MLP, params: Any, batch: sj.Batch) -> list[sj.LayerObservation]:
    """The layers as the server sees them, lowest first."""
    key = jax.random.fold_in(jax.random.key(setting["seed"]), 1)
    if setting["kind"] == "dp-sgd":
        update = sj.dp_sgd_update(
            model, params, batch, key, clip_norm=CLIP_NORM, noise_multiplier=setting["strength"], dtype="float64"
        )
        return [update.observation(), *update.layers_above()]
    update = sj.simulate_update(model, params, batch)[0]
    if setting["kind"] == "int8":
        update = by_name("int8")(update, None, key)
        return [update.observation(), *update.layers_above()]
    rng = np.random.default_rng(setting["seed"])
    size = lambda array: float(np.sqrt(np.mean(np.asarray(array) ** 2)))
    noisy = lambda array: np.asarray(array) + setting["strength"] * size(array) * rng.normal(size=array.shape)
    return [
        dataclasses.replace(layer, weight_grad=noisy(layer.weight_grad), bias_grad=noisy(layer.bias_grad))
        for layer in (update.observation(), *update.layers_above())
    ]


def score(result: sj.Result, batch: sj.Batch) -> dict[str, Any]:
    """Photos above 20 and 40 dB, and how far those with a bar are off."""
    assert batch.normalization is not None
    assert batch.image_shape is not None
    found, truth = np.nan_to_num(np.asarray(result.inputs, np.float64), nan=np.inf), np.asarray(batch.inputs)
    shown = np.isfinite(found).all(axis=1)
    pixels = lambda inputs: batch.normalization.invert(inputs.reshape(-1, *batch.image_shape)).reshape(len(inputs), -1)
    psnr = np.full(batch.size, -np.inf)
    if shown.any():
        squares = np.mean((pixels(found[shown])[:, None] - pixels(truth)[None]) ** 2, axis=2)
        psnr = -10 * np.log10(np.maximum(squares.min(axis=0), 1e-30))
    known = result.certificate.exact | result.certificate.approximate
    distance = np.linalg.norm(found[known][:, None] - truth[None], axis=2) / np.linalg.norm(truth, axis=1)
    ratios = distance.min(axis=1, initial=np.inf) / result.certificate.error[known]
    return {
        "samples": batch.size,
        "rank": result.batch_size,
        "status": result.status.name,
        "above_20_db": int(np.sum(psnr > RECOGNISED)),
        "above_40_db": int(np.sum(psnr > CLEAR)),
        "bars": int(known.sum()),
        "ratios": [round(float(ratio), 4) for ratio in ratios],
    }


def findings(lines: list[Line]) -> list[Finding]:
    """One row a kind, strength and activation."""
    found = []
    for kind, strengths in STRENGTHS.items():
        for strength in strengths:
            for activation in DEPTHS:
                mine = claims.of(lines, kind=kind, strength=strength, activation=activation)
                if not mine:
                    continue
                total = lambda name, mine=mine: sum(line[name] for line in mine)
                ratios = [ratio for line in mine for ratio in line["ratios"]]
                bars = f"{len(ratios)} with a bar"
                if ratios:
                    low, high = np.quantile(ratios, [0.5, 0.95])
                    bars += (
                        f", actual over stated {low:.2g} in the median, {high:.2g} in 95 %, {max(ratios):.2g} at most"
                    )
                counts = f"{total('above_20_db')} of {total('samples')} above 20 dB, {total('above_40_db')} above 40 dB"
                words = f"{activation}, b = {SIZES[kind]}, {kind}" + ("" if strength is None else f" {strength:g}")
                found.append(Finding(words, "ours", f"{counts}; {bars}", mine))
    return found


CLAIM = Claim(NAME, settings, trial, findings)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
