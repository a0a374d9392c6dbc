"""Recovery while a network trains: what the loss no longer asks for, the gradient no longer shows.

Claim: recovery from trained networks (ours; no figures of the literature are known for MNIST or CIFAR-10: facts "NF").
Mechanism: as the loss of a sample goes to zero so does its gradient, ``|D_i| |x_i|``, until it lies below the noise of
the client's arithmetic. Such a sample is not visible: it adds nothing to the rank that rounding would not add too, and
no method sees it. Before that its zeros drown, as rounding of the larger samples' gradients reaches its own entries.
Rounding is relative, so the noise falls with the gradient as a whole: what counts is how far the samples of one batch
lie apart. Expected: every visible sample comes back while there are four neurons for each; training samples fade as
the model learns them, in float32 first. In a held-out batch the samples that the model gets wrong keep the noise up,
and those that it gets right fade sooner than in a batch of training images.

A network of six hidden layers is trained by SGD on one part of a data set; then the update of a batch of samples that
it trained on, or of held-out ones, is attacked with the whole update at hand. ``visible`` counts samples whose
``|D_i| |x_i|``, from the truth, exceeds the noise floor of the observation; ``accuracy`` is on the training part,
``accuracy_held_out`` on the other. Each seed is another split, network and batch.
Hardware: two CPU cores. Time: half an hour, quick a minute.

    python -m experiments.claims.trained --data DIR
"""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Bool

import spear_jax as sj
from experiments.harness import claims, common
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.audit.one import what_is_above
from spear_jax.config import DictionaryConfig, ReconstructConfig

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

FIRST_SEED, DEPTH = 700, 6
# Budgets that count work, not seconds: the outcome does not depend on the machine.
MAX_ROUNDS, MAX_CANDIDATES = 20, 2**30
# SGD: step size, samples per step, samples of each part of the data set.
RATE, TRAIN_BATCH, PART = 0.1, 32, 400
STEPS, QUICK_STEPS = (0, 50, 100, 200, 400, 800, 1600, 3200), (0, 200, 800)
MNIST: Setting = {"images": "mnist.npz", "batch_size": 20, "width": 200, "dtype": "float32", "batch": "training"}
# Each kind of batch, and over how many seeds.
KINDS: tuple[tuple[Setting, int], ...] = (
    (MNIST, 5),
    (MNIST | {"dtype": "float64"}, 5),
    (MNIST | {"batch": "held-out"}, 3),
    (MNIST | {"batch_size": 32, "width": 1000}, 3),
    (MNIST | {"images": "cifar10.npz"}, 3),
)


def settings(is_quick: bool) -> list[Setting]:
    """All trials, seed by seed; a quick run has the first kind and seed."""
    if is_quick:
        return [MNIST | {"steps": steps, "seed": FIRST_SEED} for steps in QUICK_STEPS]
    most = max(seeds for _, seeds in KINDS)
    return [
        kind | {"steps": steps, "seed": FIRST_SEED + number}
        for number in range(most)
        for kind, seeds in KINDS
        if number < seeds
        for steps in STEPS
    ]


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One batch through a network after so many steps."""
    path = common.find_data(setting["images"], data)
    if path is None:
        return None
    seed, dtype = setting["seed"], setting["dtype"]
    known, held_out = split(path, seed)
    model = sj.MLP((setting["width"],) * DEPTH, known.num_classes)
    params = _trained(model, known, setting["steps"], seed)
    batch = take(known if setting["batch"] == "training" else held_out, slice(setting["batch_size"]))
    update, truth = sj.simulate_update(model, params, batch, dtype=dtype)
    name = update.layers[0].name
    budget = DictionaryConfig(max_rounds=MAX_ROUNDS)
    config = ReconstructConfig(num_examples=batch.size, max_candidates=MAX_CANDIDATES, dictionary=budget)
    started = time.perf_counter()
    result = sj.reconstruct(update.observation(), jax.random.key(seed), config, **what_is_above(update, name))
    seconds = time.perf_counter() - started
    scores = sj.evaluate(result.inputs, batch.inputs, certified=result.certificate.exact)
    visible = is_visible(truth, name, result.noise_floor)
    return {
        "accuracy": _accuracy(model, params, known), "accuracy_held_out": _accuracy(model, params, held_out),
        "samples": batch.size, "visible": int(visible.sum()), "rank": result.batch_size,
        "recovered": scores.num_recovered, "recovered_visible": int(np.sum(scores.recovered & visible)),
        "certified": int(result.certificate.exact.sum()), "false_certificates": scores.false_certificates,
        "smallest_size": float(gradient_sizes(truth, name).min()), "noise_floor": result.noise_floor,
        "status": result.status.name, "method": result.stats.method, "directions": result.directions_found,
        "seconds": result.stats.seconds, "compile_seconds": result.stats.seconds["compile"],
        "run_seconds": seconds - result.stats.seconds["compile"],
    }  # fmt: skip


def gradient_sizes(truth: sj.Truth, layer: str) -> np.ndarray:
    """``|D_i| |x_i|`` (b,): what each sample adds to the weight gradient of a layer, in the Frobenius norm."""
    return np.linalg.norm(truth.grad_z[layer], axis=0) * np.linalg.norm(truth.layer_inputs[layer], axis=1)


def is_visible(truth: sj.Truth, layer: str, noise_floor: float) -> Bool[np.ndarray, " b"]:
    """Samples whose share of the gradient is above its noise, see `spear_jax.Factorization`."""
    return gradient_sizes(truth, layer) > noise_floor


@functools.lru_cache(maxsize=2)
def split(path: Path, seed: int) -> tuple[sj.Batch, sj.Batch]:
    """Two disjoint parts of a data set, what is trained on and what is held out."""
    drawn = sj.load_batch(path, batch_size=2 * PART, seed=seed)
    return take(drawn, slice(PART)), take(drawn, slice(PART, None))


def take(batch: sj.Batch, part: slice) -> sj.Batch:
    """Some samples of a batch of images."""
    images = None if batch.images is None else batch.images[part]
    return dataclasses.replace(
        batch, inputs=batch.inputs[part], labels=batch.labels[part], names=batch.names[part], images=images
    )


def _trained(model: sj.MLP, known: sj.Batch, steps: int, seed: int) -> Any:
    init_key, train_key = jax.random.split(jax.random.key(seed))
    params = sj.init_params(model, init_key, known.inputs.shape[1])
    if steps == 0:
        return params
    params, _ = sj.train(
        model, params, known.inputs, known.labels,
        steps=steps, learning_rate=RATE, batch_size=TRAIN_BATCH, key=train_key,
    )  # fmt: skip
    return params


def _accuracy(model: sj.MLP, params: Any, batch: sj.Batch) -> float:
    logits = model.apply({"params": params}, jnp.asarray(batch.inputs, jnp.float32))
    return float(np.mean(np.argmax(np.asarray(logits), axis=1) == batch.labels))


def findings(lines: list[Line]) -> list[Finding]:
    """One row for each kind of batch and number of steps."""
    expected = "every visible sample (ours; figures not known)"
    return [
        Finding(f"{_name(kind)}, {steps} steps", expected, told(mine), mine)
        for kind in _kinds(lines)
        for steps in STEPS
        if (mine := claims.of(lines, **kind, steps=steps))
    ]


def told(lines: list[Line]) -> str:
    """What the lines of one kind and number of steps say."""
    total = lambda name: sum(line[name] for line in lines)
    accuracy = np.mean([line["accuracy"] for line in lines])
    return (
        f"accuracy {accuracy:.0%}; of {total('samples')} samples {total('visible')} visible, rank {total('rank')}; "
        f"{total('recovered_visible')} of {total('visible')} visible recovered, "
        f"{total('certified')} certified, {total('false_certificates')} false; {len(lines)} seeds"
    )


def draw(lines: list[Line], folder: Path) -> None:
    """Visible and recovered share against steps, accuracy beside."""
    kinds = _kinds(lines)
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(3.4 * len(kinds), 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, kind in zip(axes[0], kinds, strict=True):
        _panel(axis, kind, claims.of(lines, **kind))
    axes[0, 0].set_ylabel("share, mean over seeds")
    axes[0, -1].legend(fontsize=8)
    figure.savefig(folder / "trained.png", dpi=120)
    plt.close(figure)


def _panel(axis: Any, kind: Setting, lines: list[Line]) -> None:
    steps = sorted({line["setting"]["steps"] for line in lines})
    mean = lambda share: [np.mean([share(line) for line in lines if line["setting"]["steps"] == s]) for s in steps]
    axis.plot(steps, mean(lambda line: line["visible"] / line["samples"]), "o-", label="visible")
    axis.plot(steps, mean(lambda line: line["recovered"] / line["samples"]), "s--", label="recovered")
    axis.plot(steps, mean(lambda line: line["certified"] / line["samples"]), "^:", label="certified")
    axis.plot(steps, mean(lambda line: line["accuracy"]), "-", color="0.6", label="accuracy, training part")
    axis.set_xscale("symlog", linthresh=50)
    axis.set_xticks(steps, [str(number) for number in steps], fontsize=7)
    axis.set_title(_name(kind).replace(", batch", "\nbatch"), fontsize=9)
    axis.set(xlabel="SGD steps", ylim=(-0.03, 1.05))


def _kinds(lines: list[Line]) -> list[Setting]:
    """What there is beside steps and seeds, in the order of the lines."""
    kinds = [{key: value for key, value in line["setting"].items() if key not in ("steps", "seed")} for line in lines]
    return [kind for place, kind in enumerate(kinds) if kind not in kinds[:place]]


def _name(kind: Setting) -> str:
    return "{images}, b = {batch_size}, m = {width}, {dtype}, batch of {batch} images".format(**kind)


CLAIM = Claim("trained", settings, trial, findings, draw)

if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
