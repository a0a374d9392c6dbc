"""Whole batches come back exactly: k of N seeds with every image pixel-exact and certified.

Claim: SPEAR recovers whole batches exactly for b up to about 25 (abstract; facts "S"); 99 % of 100 batches of b = 20 at
m = 200, six hidden layers (main table, remembered). Here: any b, m, depth, layer and data set, by any method.
Hardware: two CPU cores. Time: seconds per batch at b = 8 (m = 200) and b = 12 (m = 400).

    python -m experiments.recovery --data DIR --images imagenet_64.npz --batch-size 8 --width 200 --seeds 20
    python -m experiments.recovery --data DIR --images imagenet/224 --batch-size 8 --width 200 --seeds 3
    python -m experiments.recovery --data DIR --batch-size 8 --width 200 --layers 1 2 3 --seeds 5

Each trial appends one line to results/recovery.jsonl, failures included.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import jax
import numpy as np

import spear_jax as sj
from experiments import common
from spear_jax.config import ReconstructConfig
from spear_jax.normalization import Normalization

# Training before the update: images, step size, samples per step, and what keeps their draw apart from the batch's.
TRAIN_IMAGES, TRAIN_RATE, TRAIN_BATCH, TRAIN_SEED = 256, 0.05, 32, 10_000


def main() -> None:
    arguments = parse()
    jax.config.update("jax_enable_x64", True)
    path = common.find_data(arguments.images, arguments.data)
    if path is None:
        return
    for layer in arguments.layers:
        outcomes = [
            trial(arguments, path, layer, seed)
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        ]
        exact = sum(outcome["all_exact"] for outcome in outcomes)
        ratio = np.median([outcome["candidates"] / outcome["expected_candidates"] for outcome in outcomes])
        seconds = np.median([outcome["seconds_total"] for outcome in outcomes])
        print(
            f"b={arguments.batch_size} m={arguments.width} dense_{layer} {arguments.dtype}: {exact} of {len(outcomes)} "
            f"batches whole, candidates / expected {ratio:.2f} (median), {seconds:.2f} s (median)"
        )


def trial(arguments: argparse.Namespace, path, layer: int, seed: int, **more: object) -> dict:
    """One batch, from photos to score; ``more`` goes into its line as it is."""
    raw = Normalization((0.0,), (1.0,)) if arguments.raw else None
    batch = sj.load_batch(path, batch_size=arguments.batch_size, seed=seed, normalization=raw)
    if arguments.classes:
        batch = dataclasses.replace(batch, labels=batch.labels % arguments.classes, num_classes=arguments.classes)
    widths = (arguments.width,) * arguments.depth
    model = sj.MLP(widths, batch.num_classes, initialization=arguments.initialization, param_dtype=arguments.dtype)
    params = sj.init_params(model, jax.random.key(seed), batch.inputs.shape[1])
    if arguments.one_label:
        batch = dataclasses.replace(batch, labels=np.full_like(batch.labels, batch.labels[0]))
    if arguments.train_steps:
        others = sj.load_batch(path, batch_size=TRAIN_IMAGES, seed=seed + TRAIN_SEED, num_classes=batch.num_classes)
        params, _ = sj.train(
            model, params, others.inputs, others.labels,
            steps=arguments.train_steps, learning_rate=TRAIN_RATE, batch_size=TRAIN_BATCH, key=jax.random.key(seed),
        )  # fmt: skip
    update, truth = sj.simulate_update(model, params, batch, dtype=arguments.dtype)
    name = update.layers[layer].name
    config = ReconstructConfig(
        max_candidates=arguments.max_candidates,
        num_examples=batch.size,
        method=arguments.method,
        max_seconds=arguments.max_seconds,
    )
    started = time.perf_counter()
    helpers = {}
    if arguments.whole_update:
        helpers = {"model": update.network(name), "next_weight_grad": update.next_weight_grad(name)}
    result = sj.reconstruct(update.observation(name), jax.random.key(seed), config, **helpers)
    seconds = time.perf_counter() - started
    pixels = (
        {}
        if layer
        else {"normalization": batch.normalization, "image_shape": batch.image_shape, "images": batch.images}
    )
    scores = sj.evaluate(result.inputs, truth.layer_inputs[name], certified=result.certificate.exact, **pixels)
    is_exact = scores.num_recovered if scores.num_pixel_exact is None else scores.num_pixel_exact
    outcome = {
        "images": arguments.images, "batch_size": batch.size, "width": arguments.width, "depth": arguments.depth,
        "layer": layer, "dtype": arguments.dtype, "method": result.stats.method, "seed": seed,
        "normalization": batch.normalization and batch.normalization.to_json(),
        "status": result.status.name, "rank": result.batch_size,
        "certified": int(result.certificate.exact.sum()), "recovered": scores.num_recovered, "exact": is_exact,
        "all_exact": is_exact == batch.size and bool(result.certificate.exact.all()),
        "false_certificates": scores.false_certificates, "median_psnr": min(float(np.median(scores.psnr)), 999.0),
        "candidates": result.stats.candidates, "expected_candidates": result.stats.expected_candidates,
        "directions": result.directions_found, "rounds": result.stats.rounds, "one_label": arguments.one_label,
        "train_steps": arguments.train_steps, "raw": arguments.raw, "classes": batch.num_classes,
        "initialization": arguments.initialization, "whole_update": arguments.whole_update,
        "seconds": result.stats.seconds, "seconds_total": seconds,
        "run_seconds": seconds - result.stats.seconds["compile"], **more,
    }  # fmt: skip
    common.append(arguments.results, outcome)
    return outcome


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The options of one row of trials, from a list of words or the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the data pack; the variable SPEAR_JAX_DATA by default")
    parser.add_argument("--images", default="imagenet_64.npz", help="file or folder in it")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--width", type=int, default=200)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--layers", type=int, nargs="+", default=[0], help="dense layers to invert, the first is 0")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--method", default="auto")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--max-candidates", type=int, default=2**24)
    parser.add_argument("--max-seconds", type=float, help="time budget of each search")
    parser.add_argument("--one-label", action="store_true", help="give every sample the same label")
    parser.add_argument("--train-steps", type=int, default=0, help="SGD steps on other images before the update")
    parser.add_argument("--whole-update", action="store_true", help="use the layers above and their gradients too")
    parser.add_argument("--raw", action="store_true", help="pixels in [0, 1], not normalised")
    parser.add_argument("--classes", type=int, help="classes; labels are taken modulo this")
    parser.add_argument("--initialization", default="pytorch", help="pytorch, flax or normal, see spear_jax.MLP")
    parser.add_argument("--results", default="recovery", help="name of the file of lines")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
