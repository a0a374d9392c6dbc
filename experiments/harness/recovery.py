"""One batch, from images to score: any b, m, depth, layer, data set and scaling, by any method.

What most claims are made of (`rows`), and a command of its own for settings that have no claim:

    python -m experiments.harness.recovery --data DIR --batch-size 12 --width 400 --seeds 20
    python -m experiments.harness.recovery --data DIR --images imagenet/224 --batch-size 8 --seeds 3

Claim: SPEAR recovers whole batches exactly for b up to about 25 (abstract; facts "S"). Hardware: two CPU cores. Time:
seconds per batch at b = 8 (m = 200) and b = 12 (m = 400). Each trial appends one line to results/lines/recovery.jsonl.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import spear_jax as sj
from experiments.harness import claims, common
from experiments.harness.claims import Finding, Line, Setting
from spear_jax.audit.one import what_is_above
from spear_jax.client.evaluate import IDENTICAL_PSNR
from spear_jax.config import ReconstructConfig
from spear_jax.normalization import Normalization

# Training before the update: images, step size, samples per step, and what keeps their draw apart from the batch's.
TRAIN_IMAGES, TRAIN_RATE, TRAIN_BATCH, TRAIN_SEED = 256, 0.05, 32, 10_000


class Options(NamedTuple):
    """What a batch, its client and the search are; a setting names what differs from these, and its seed.

    Attributes:
        images: file or folder of the data pack.
        batch_size, width, depth: b, m and the number of hidden layers.
        layer: dense layer to invert, the first is 0.
        dtype: of the client.
        method: of the search.
        max_candidates, max_seconds: its budget.
        one_label: whether every sample gets the same label.
        train_steps: SGD steps on other images before the update.
        whole_update: whether the layers above and their gradients are used too.
        raw: pixels in [0, 1], not normalised.
        classes: labels are taken modulo this; None for the data set's.
        initialization: see `spear_jax.MLP`.
        activation: between the layers; told to the attack where it is not ReLU.
    """

    images: str = "imagenet_64.npz"
    batch_size: int = 8
    width: int = 200
    depth: int = 6
    layer: int = 0
    dtype: str = "float32"
    method: str = "auto"
    max_candidates: int = 2**24
    max_seconds: float | None = 400.0
    one_label: bool = False
    train_steps: int = 0
    whole_update: bool = False
    raw: bool = False
    classes: int | None = None
    initialization: str = "pytorch"
    activation: str = "relu"

    def setting(self, seed: int) -> Setting:
        """The trial of one seed."""
        defaults = Options()._asdict()
        return {name: value for name, value in self._asdict().items() if value != defaults[name]} | {"seed": seed}


def options_of(setting: Setting) -> Options:
    """The options of a setting, which names only what differs from their defaults."""
    return Options(**{name: value for name, value in setting.items() if name != "seed"})


class Attack(NamedTuple):
    """One batch and what came of it: the client's images, what went into the layer, the result and its seconds."""

    batch: sj.Batch
    inputs: Any
    result: sj.Result
    seconds: float


def attack(options: Options, path: Path, seed: int) -> Attack:
    """A client's update from a batch of the file, and its reconstruction."""
    batch = _batch(options, path, seed)
    update, truth = sj.simulate_update(*_model(options, path, batch, seed), batch, dtype=options.dtype)
    name = update.layers[options.layer].name
    config = ReconstructConfig(
        max_candidates=options.max_candidates,
        num_examples=batch.size,
        method=options.method,
        max_seconds=options.max_seconds,
        activation=None if options.activation == "relu" and options.method != "span" else options.activation,
    )
    helpers = what_is_above(update, name) if options.whole_update else {}
    observation = update.observation(name)
    started = time.perf_counter()
    result = sj.reconstruct(observation, jax.random.key(seed), config, **helpers)
    return Attack(batch, truth.layer_inputs[name], result, time.perf_counter() - started)


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One batch, from images to score."""
    options = options_of(setting)
    path = common.find_data(options.images, data)
    if path is None:
        return None
    made = attack(options, path, setting["seed"])
    seconds = made.result.stats.seconds
    return _outcome(options, made) | {
        "seconds": seconds,
        "seconds_total": made.seconds,
        "run_seconds": made.seconds - seconds["compile"],
    }


def _batch(options: Options, path: Path, seed: int) -> sj.Batch:
    raw = Normalization((0.0,), (1.0,)) if options.raw else None
    batch = sj.load_batch(path, batch_size=options.batch_size, seed=seed, normalization=raw)
    if options.classes:
        batch = dataclasses.replace(batch, labels=batch.labels % options.classes, num_classes=options.classes)
    if options.one_label:
        batch = dataclasses.replace(batch, labels=np.full_like(batch.labels, batch.labels[0]))
    return batch


def _model(options: Options, path: Path, batch: sj.Batch, seed: int) -> tuple[sj.MLP, Any]:
    """The model and its parameters, trained where that is asked for."""
    widths = (options.width,) * options.depth
    as_told = {"initialization": options.initialization, "activation": options.activation}
    model = sj.MLP(widths, batch.num_classes, **as_told, param_dtype=options.dtype)
    params = sj.init_params(model, jax.random.key(seed), batch.inputs.shape[1])
    if options.train_steps:
        others = sj.load_batch(path, batch_size=TRAIN_IMAGES, seed=seed + TRAIN_SEED, num_classes=batch.num_classes)
        params, _ = sj.train(
            model, params, others.inputs, others.labels,
            steps=options.train_steps, learning_rate=TRAIN_RATE, batch_size=TRAIN_BATCH, key=jax.random.key(seed),
        )  # fmt: skip
    return model, params


def pixels(options: Options, batch: sj.Batch) -> dict[str, Any]:
    """What `spear_jax.evaluate` needs to speak of pixels; nothing for inputs of a deeper layer."""
    if options.layer:
        return {}
    return {"normalization": batch.normalization, "image_shape": batch.image_shape, "images": batch.images}


def _outcome(options: Options, made: Attack) -> dict[str, Any]:
    batch, result = made.batch, made.result
    scores = sj.evaluate(result.inputs, made.inputs, certified=result.certificate.exact, **pixels(options, batch))
    is_exact = scores.num_recovered if scores.num_pixel_exact is None else scores.num_pixel_exact
    return {
        "samples": batch.size, "rank": result.batch_size, "status": result.status.name,
        "method": result.stats.method, "classes": batch.num_classes,
        "certified": int(result.certificate.exact.sum()), "recovered": scores.num_recovered, "exact": is_exact,
        "all_exact": is_exact == batch.size and bool(result.certificate.exact.all()),
        "false_certificates": scores.false_certificates, "median_psnr": _median(scores.psnr),
        "median_ssim": None if scores.ssim is None else _median(scores.ssim),
        "candidates": result.stats.candidates, "expected_candidates": common.finite(result.stats.expected_candidates),
        "directions": result.directions_found, "rounds": result.stats.rounds,
    }  # fmt: skip


def _median(scores: np.ndarray) -> float:
    """Median over the true samples, what has no partner counting as zero."""
    return min(float(np.median(np.nan_to_num(scores, nan=0.0, posinf=IDENTICAL_PSNR))), IDENTICAL_PSNR)


def told(lines: list[Line]) -> str:
    """What the lines of one setting say, in a cell of a table."""
    if not lines:
        return "not run"
    total = lambda name: sum(line[name] for line in lines)
    whole = sum(line["all_exact"] for line in lines)
    seconds = [line["run_seconds"] for line in lines]
    return (
        f"{whole} of {len(lines)} whole; of {total('samples')} samples {total('exact')} exact, "
        f"{total('certified')} certified, {total('false_certificates')} false; "
        f"{np.median(seconds):.2f} s (at most {max(seconds):.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    claims.add_options(parser)
    for name, default in Options._field_defaults.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true")
        else:
            kind = {"max_seconds": float, "classes": int}.get(name, type(default))
            parser.add_argument(flag, type=kind, default=default)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    options = Options(**{name: getattr(arguments, name) for name in Options._fields})
    settings = [options.setting(seed) for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)]
    findings = lambda lines: [
        Finding(_name(settings[0]), "whole", told([line for line in lines if line["setting"] in settings]), lines)
    ]
    claim = claims.Claim("recovery", lambda is_quick: settings[:1] if is_quick else settings, trial, findings)
    claims.run(claim, arguments)
    claims.tell(claim, arguments.out)


def _name(setting: Setting) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.items() if name != "seed") or "b = 8, m = 200"


if __name__ == "__main__":
    main()
