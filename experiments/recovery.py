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
import time

import jax
import numpy as np

import spear_jax as sj
from experiments import common
from spear_jax.config import ReconstructConfig


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


def trial(arguments: argparse.Namespace, path, layer: int, seed: int) -> dict:
    """One batch, from photos to score."""
    batch = sj.load_batch(path, batch_size=arguments.batch_size, seed=seed)
    model = sj.MLP((arguments.width,) * arguments.depth, batch.num_classes, param_dtype=arguments.dtype)
    params = sj.init_params(model, jax.random.key(seed), batch.inputs.shape[1])
    update, truth = sj.simulate_update(model, params, batch, dtype=arguments.dtype)
    name = update.layers[layer].name
    config = ReconstructConfig(
        max_candidates=arguments.max_candidates, num_examples=batch.size, method=arguments.method
    )
    started = time.perf_counter()
    result = sj.reconstruct(update.observation(name), jax.random.key(seed), config)
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
        "normalization": batch.normalization.to_json(), "status": result.status.name, "rank": result.batch_size,
        "certified": int(result.certificate.exact.sum()), "recovered": scores.num_recovered, "exact": is_exact,
        "all_exact": is_exact == batch.size and bool(result.certificate.exact.all()),
        "false_certificates": scores.false_certificates, "median_psnr": min(float(np.median(scores.psnr)), 999.0),
        "candidates": result.stats.candidates, "expected_candidates": result.stats.expected_candidates,
        "seconds": result.stats.seconds, "seconds_total": seconds,
    }  # fmt: skip
    common.append("recovery", outcome)
    return outcome


def parse() -> argparse.Namespace:
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
    return parser.parse_args()


if __name__ == "__main__":
    main()
