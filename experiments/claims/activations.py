"""Whole batches behind any activation: photos, one gradient of a layer and the next one, nothing else told.

Claim (ours): smooth activations do not stop exact inversion. Each batch is solved from the gradients of the dense
layers and the weights between them (`spear_jax.attacks.dense.span`): no loss, no labels, the rank read off the
gradient, the batch size as the client reports it. Exact means every pixel within half a grey level, whole that all
samples are, each certified. Float64 gradients where a row does not say otherwise; three hidden layers of PyTorch's
initialisation, six where three row spaces are read, ten classes. Nothing of the kind was found in the literature, so
there is no published figure. Hardware: two CPU cores. Time: half an hour; the two largest problems an hour more.

    python -m experiments.claims.activations --data DIR
    python -m experiments.claims.activations --data DIR --only activation=gelu width=200

Each trial appends one line to results/lines/activations.jsonl.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, NamedTuple

import jax
import numpy as np

import spear_jax as sj
from experiments.harness import claims, common
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.normalization import Normalization

NAME, SEEDS, MAX_SECONDS = "activations", 5, 600.0
SMOOTH = ("gelu", "silu", "elu", "hardswish", "softplus", "tanh", "sigmoid")
KINKED = ("relu", "leaky_relu", "leaky_relu(0.2)")


class Row(NamedTuple):
    """One problem over seeds.

    Attributes:
        activation: between the layers.
        batch_size, width: b and m.
        raw: pixels in [0, 1], not normalised.
        dtype: of the client.
        images: file of the data pack.
        depth: hidden layers.
        above: layers above that came back; None for all.
        seeds: that are tried.
    """

    activation: str
    batch_size: int
    width: int
    raw: bool = False
    dtype: str = "float64"
    images: str = "cifar10.npz"
    depth: int = 3
    above: int | None = None
    seeds: int = SEEDS

    @property
    def words(self) -> str:
        """In a table's cell."""
        scale = "in [0, 1]" if self.raw else "centred"
        spaces = "" if self.above is None else f", {self.above} row space" + "s" * (self.above > 1)
        depth = ", one hidden layer" if self.depth == 1 else ""
        return f"{self.activation}, b = {self.batch_size}, m = {self.width}, {scale}, {self.dtype}{spaces}{depth}"


ROWS = (
    *(Row(name, 64, 200, raw, dtype) for name in SMOOTH for dtype in ("float64", "float32") for raw in (False, True)),
    *(Row(name, 64, 200, raw) for name in KINKED for raw in (False, True)),
    *(Row("gelu", 90, 200, raw, above=1) for raw in (False, True)),
    Row("gelu", 110, 200, above=2),
    Row("gelu", 130, 200, depth=6, above=3),
    *(Row("relu", 80, 200, raw, above=2) for raw in (False, True)),
    Row("relu", 90, 200, depth=6, above=3),
    Row("relu", 90, 200, raw=True, above=2),
    Row("gelu", 128, 400),
    Row("gelu", 256, 768, images="imagenet_64.npz"),
    *(Row("relu", 128, 1000, raw, images="imagenet_64.npz") for raw in (False, True)),
    *(Row(name, b, 200, raw, depth=1) for name in ("gelu", "silu") for b in (64, 80) for raw in (False, True)),
    *(Row(name, b, 200, depth=1) for name in ("tanh", "sigmoid") for b in (32, 64)),
    Row("gelu", 500, 1500, seeds=1),
)


def settings(is_quick: bool) -> list[Setting]:
    """Seed by seed; quick: the first row's first seed."""
    rows = ROWS[:1] if is_quick else ROWS
    return [
        {name: value for name, value in row._asdict().items() if name != "seeds"} | {"seed": seed}
        for row in rows
        for seed in range(1 if is_quick else row.seeds)
    ]


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One batch, from photos to score."""
    path = common.find_data(setting["images"], data)
    if path is None:
        return None
    seed, dtype = setting["seed"], setting["dtype"]
    normalization = Normalization((0.0,), (1.0,)) if setting["raw"] else None
    batch = sj.load_batch(path, batch_size=setting["batch_size"], seed=seed, normalization=normalization)
    widths = (setting["width"],) * setting["depth"]
    model = sj.MLP(widths, 10, activation=setting["activation"], param_dtype=dtype)
    batch = dataclasses.replace(batch, labels=batch.labels % 10, num_classes=10)
    params = sj.init_params(model, jax.random.key(seed), batch.inputs.shape[1])
    update = sj.simulate_update(model, params, batch, dtype=dtype)[0]
    config = sj.ReconstructConfig(
        activation=setting["activation"], method="span", num_examples=batch.size, max_seconds=MAX_SECONDS
    )
    started = time.perf_counter()
    above = update.layers_above()[: setting["above"]]
    result = sj.reconstruct(update.observation(), jax.random.key(seed), config, layers_above=above)
    seconds, compiled = time.perf_counter() - started, result.stats.seconds["compile"]
    return score(result, batch) | {
        "rounds": result.stats.rounds,
        "starts": result.stats.candidates,
        "compile_seconds": round(compiled, 3),
        "run_seconds": round(seconds - compiled, 3),
    }


def score(result: sj.Result, batch: sj.Batch) -> dict[str, Any]:
    """Counts of one result, and how far actual errors are from stated ones."""
    known = result.certificate.exact | result.certificate.approximate
    pixels = {"normalization": batch.normalization, "image_shape": batch.image_shape, "images": batch.images}
    scores = sj.evaluate(
        np.asarray(result.inputs, np.float64), batch.inputs, certified=result.certificate.exact, **pixels
    )
    found, truth = np.asarray(result.inputs, np.float64)[known], np.asarray(batch.inputs, np.float64)
    distance = np.linalg.norm(found[:, None] - truth[None], axis=2) / np.linalg.norm(truth, axis=1)
    ratios = distance.min(axis=1, initial=np.inf) / result.certificate.error[known] if len(found) else np.zeros(0)
    return {
        "samples": batch.size,
        "rank": result.batch_size,
        "status": result.status.name,
        "exact": scores.num_pixel_exact,
        "certified": int(result.certificate.exact.sum()),
        "approximate": int(result.certificate.approximate.sum()),
        "false_certificates": scores.false_certificates,
        "bar_median": common.finite(float(np.median(ratios))) if len(ratios) else None,
        "bar_max": common.finite(float(ratios.max())) if len(ratios) else None,
    }


def findings(lines: list[Line]) -> list[Finding]:
    """One row a problem."""
    found = []
    for row in ROWS:
        mine = [
            line
            for line in claims.of(lines)
            if all(line["setting"][name] == value for name, value in row._asdict().items() if name != "seeds")
        ]
        if not mine:
            continue
        whole = sum(line["exact"] == line["certified"] == line["samples"] for line in mine)
        total = lambda name, mine=mine: sum(line[name] for line in mine)
        measured = (
            f"{whole} of {len(mine)} whole; {total('exact')} of {total('samples')} exact in every pixel, "
            f"{total('certified')} certified, {total('approximate')} with an error bar, "
            f"{total('false_certificates')} false; median {np.median([line['run_seconds'] for line in mine]):.1f} s"
        )
        found.append(Finding(row.words, "ours: all", measured, mine))
    return found


CLAIM = Claim(NAME, settings, trial, findings)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
