"""Several local steps: what the sum of their gradients still shows of a batch behind any activation.

Claim (ours): after full-batch local steps the row space of the summed gradient holds what the next layer saw at the
weights that were sent, so that roots come back with no unrolling of the steps. Of mini-batches only the first one was
seen at weights that the server knows. CIFAR-10 photos, 8@200, three hidden layers, float64, five epochs; the batch size
as the client reports it. Nothing of the kind was found in the literature. Hardware: two CPU cores. Time: ten minutes.

    python -m experiments.claims.span_steps --data DIR

Each trial appends one line to results/lines/span_steps.jsonl.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

import spear_jax as sj
from experiments.claims import activations
from experiments.harness import claims, common
from experiments.harness.claims import Claim, Finding, Line, Setting

NAME, SEEDS, SECONDS = "span_steps", 5, 60.0
BATCH, WIDTH, DEPTH, EPOCHS = 8, 200, 3, 5
ACTIVATIONS, RATES, MINI_BATCHES = ("relu", "gelu", "tanh"), (0.1, 0.01), (None, 4)


def settings(is_quick: bool) -> list[Setting]:
    """Every activation at every rate, seed by seed; quick: one."""
    every = [
        {"activation": activation, "lr": lr, "mini_batch": mini_batch, "seed": seed}
        for mini_batch in MINI_BATCHES
        for lr in RATES
        for activation in ACTIVATIONS
        for seed in range(SEEDS)
    ]
    return every[:1] if is_quick else every


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One client's round, from photos to score."""
    path = common.find_data("cifar10.npz", data)
    if path is None:
        return None
    key, activation = jax.random.key(setting["seed"]), setting["activation"]
    batch = sj.load_batch(path, batch_size=BATCH, seed=setting["seed"])
    batch = dataclasses.replace(batch, labels=batch.labels % 10, num_classes=10)
    model = sj.MLP((WIDTH,) * DEPTH, 10, activation=activation, param_dtype="float64")
    params = sj.init_params(model, key, batch.inputs.shape[1])
    training = sj.LocalTraining(setting["lr"], EPOCHS, setting["mini_batch"])
    update = sj.simulate_round(model, params, batch, key, training)[0]
    config = sj.ReconstructConfig(activation=activation, method="span", num_examples=BATCH, max_seconds=SECONDS)
    try:
        result = sj.reconstruct(update.observation(), key, config, layers_above=update.layers_above())
    except sj.SpearError as error:
        nothing = dict.fromkeys(("exact", "certified", "approximate", "false_certificates"), 0)
        return {"samples": BATCH, "refused": str(error)} | nothing
    return activations.score(result, batch)


def findings(lines: list[Line]) -> list[Finding]:
    """One row for each activation, rate and kind of batch."""
    found = []
    for mini_batch in MINI_BATCHES:
        for lr in RATES:
            for activation in ACTIVATIONS:
                mine = claims.of(lines, activation=activation, lr=lr, mini_batch=mini_batch)
                if not mine:
                    continue
                total = lambda name, mine=mine: sum(line[name] for line in mine)
                bars = [line["bar_max"] for line in mine if line.get("bar_max") is not None]
                most = f", actual over stated {np.max(bars):.2g} at most" if bars else ""
                measured = (
                    f"{total('exact')} of {total('samples')} exact in every pixel, {total('certified')} certified, "
                    f"{total('approximate')} with an error bar{most}, {total('false_certificates')} false"
                )
                batches = "the whole batch" if mini_batch is None else f"mini-batches of {mini_batch}"
                words = f"{activation}, b = {BATCH}, m = {WIDTH}, {EPOCHS} epochs of {batches}, lr {lr:g}"
                found.append(Finding(words, "ours: all" if mini_batch is None else "ours", measured, mine))
    return found


CLAIM = Claim(NAME, settings, trial, findings)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
