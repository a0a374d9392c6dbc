"""Rows of a table: discrete accuracy and error of the continuous columns, and what dependent rows end.

Claim: SPEAR recovers ADULT exactly where TabLeak only comes near (its table on ADULT; columns discrete accuracy,
continuous MAE, time: facts "S"; the cells are not known, remembered as 100 %, about 20 and 0.4 min at b = 16: "M-lo").
Here b = 16 at m = 200 and b = 64 at m = 1000: 8 categorical columns one-hot, 6 numeric ones standardised, n = 103.

Where it ends: the method needs independent rows. Each one-hot group sums to 1, the education is in the table twice, and
most of the 40 countries are in no batch, so b rows have rank b up to about 32 only; 64 rows have rank 42 to 51. The
first layer's gradient then shows merged rows, whatever the method, beside those that depend on no others. The inputs of
the second layer, ``y = relu(W x + bias)``, are not linear in the rows: 64 of them have rank 64. With ``layer`` 1 these
are recovered, and then each row from the neurons that fire for it, ``W x + bias = y``: m / 2 equations for n values.

``repeats`` plants merged rows: so many rows are there twice, every second one with the other label; their copies are
counted (`count_copies`). ``raw`` leaves the numeric columns in their own units, up to a million: the
largest column alone then decides what fires, 1 to 5 of 200 neurons differ within a batch, and D has rank 1 to 4 (ten
batches).
Hardware: two CPU cores. Time: half an hour, quick a minute.

    python -m experiments.claims.adult --data DIR
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

import spear_jax as sj
from experiments.claims.trained import is_visible
from experiments.harness import claims, common
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.attacks.dense.copies import Copies, count_copies
from spear_jax.client.batch import Column
from spear_jax.config import DictionaryConfig, ReconstructConfig

FIRST_SEED, DEPTH = 700, 6
# Budgets that count work, not seconds: the outcome does not depend on the machine.
MAX_ROUNDS, MAX_CANDIDATES = 12, 2**32
# What the first layer makes of a row recovered through the second may differ from what that layer got by this share.
AGREES = 1e-3
# What rounding leaves of a neuron that is off, relative to the largest, is no output.
FIRES = 1e-5
DEFAULTS: Setting = {
    "batch_size": 16, "width": 200, "dtype": "float64", "method": "auto",
    "whole_update": False, "raw": False, "repeats": 0, "layer": 0,
}  # fmt: skip


class Row(NamedTuple):
    """One setting over seeds.

    Attributes:
        claim: in a few words.
        setting: what differs from `DEFAULTS`.
        seeds: how many, from `FIRST_SEED` on.
        quick: seeds of a quick run.
        expected: the figure to compare with.
    """

    claim: str
    setting: Setting
    seeds: int = 10
    quick: int = 0
    expected: str = "all rows, 100 %"


WHOLE, THIRTY_TWO, SIXTY_FOUR = (
    {"whole_update": True},
    {"batch_size": 32, "width": 1000},
    {"batch_size": 64, "width": 1000},
)
DEPENDENT = "not all: rows are dependent"
ROWS = (
    Row("b = 16, m = 200, one layer's gradient, sampling", {"method": "sampling"}, quick=1),
    Row("b = 16, m = 200, one layer's gradient, auto", {}),
    Row("b = 16, m = 200, whole update", WHOLE, quick=1),
    Row("b = 16, m = 200, whole update, float32", WHOLE | {"dtype": "float32"}),
    Row("b = 16, m = 200, whole update, 4 rows twice", WHOLE | {"repeats": 4}, quick=1),
    Row("b = 16, m = 200, whole update, raw columns", WHOLE | {"raw": True}, expected="not known"),
    Row("b = 32, m = 1000, whole update", THIRTY_TWO | WHOLE, 5),
    Row("b = 64, m = 1000, one layer's gradient", SIXTY_FOUR, 3, expected=DEPENDENT),
    Row("b = 64, m = 1000, whole update", SIXTY_FOUR | WHOLE, 5, expected=DEPENDENT),
    Row("b = 64, m = 1000, through the second layer", SIXTY_FOUR | WHOLE | {"layer": 1}, 10),
)


class TableScores(NamedTuple):
    """How far rows are from the truth.

    Attributes:
        discrete_accuracy: share of the categorical cells of all rows that are right; those without a partner are wrong.
        mae_standardised: mean absolute error of the numeric cells of rows with a partner, in deviations of each column
            over the whole table; None without partners.
        mae: the same in the columns' own units.
    """

    discrete_accuracy: float
    mae_standardised: float | None
    mae: float | None


def settings(is_quick: bool) -> list[Setting]:
    """All trials, seed by seed."""
    return [
        row.setting | {"seed": FIRST_SEED + number}
        for number in range(max(row.seeds for row in ROWS))
        for row in ROWS
        if number < (row.quick if is_quick else row.seeds)
    ]


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One batch of rows, from table to scores."""
    path = common.find_data("adult.csv", data)
    if path is None:
        return None
    options, seed = DEFAULTS | setting, setting["seed"]
    batch = repeat_rows(sj.load_batch(path, batch_size=options["batch_size"], seed=seed), options["repeats"])
    shift, scale = own_units(batch) if options["raw"] else (0.0, 1.0)
    client = dataclasses.replace(batch, inputs=batch.inputs * scale + shift)
    model = sj.MLP((options["width"],) * DEPTH, batch.num_classes, param_dtype=options["dtype"])
    params = sj.init_params(model, jax.random.key(seed), batch.inputs.shape[1])
    update, truth = sj.simulate_update(model, params, client, dtype=options["dtype"])
    name = update.layers[options["layer"]].name
    network = update.network(name)
    assert network is not None
    above = {"model": network, "next_weight_grad": update.next_weight_grad(name)} if options["whole_update"] else {}
    config = ReconstructConfig(
        method=options["method"], num_examples=batch.size,
        max_candidates=MAX_CANDIDATES, dictionary=DictionaryConfig(max_rounds=MAX_ROUNDS),
    )  # fmt: skip
    started = time.perf_counter()
    result = sj.reconstruct(update.observation(name), jax.random.key(seed), config, **above)
    seconds = time.perf_counter() - started
    inputs, certified = np.asarray(result.inputs), np.asarray(result.certificate.exact)
    if options["layer"]:
        inputs, certified = through_first_layer(update.observation(), inputs, certified)
    inputs = (inputs - shift) / scale
    copies = count_copies(update.observation(name), network, result)
    seconds = {"compile_seconds": result.stats.seconds["compile"], "seconds": result.stats.seconds} | {
        "run_seconds": seconds - result.stats.seconds["compile"]
    }
    outcome = _outcome(batch, inputs, certified, result) | _copies_outcome(batch, inputs, copies)
    return outcome | {"visible": int(is_visible(truth, name, result.noise_floor).sum())} | seconds


def own_units(batch: sj.Batch) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Shift and scale (n,) that take standardised inputs to the columns' own units."""
    shift, scale = np.zeros(batch.inputs.shape[1]), np.ones(batch.inputs.shape[1])
    for column in batch.columns:
        shift[column.start : column.start + column.size] = column.mean
        scale[column.start : column.start + column.size] = column.std
    return shift, scale


def repeat_rows(batch: sj.Batch, count: int) -> sj.Batch:
    """The batch with its first rows in the place of its last, every second one with the other label."""
    inputs, labels = batch.inputs.copy(), batch.labels.copy()
    inputs[batch.size - count :] = inputs[:count]
    labels[batch.size - count :] = (labels[:count] + np.arange(count)) % batch.num_classes
    return dataclasses.replace(batch, inputs=inputs, labels=labels)


def through_first_layer(
    observation: sj.LayerObservation, hidden: Float[np.ndarray, "k m"], certified: np.ndarray
) -> tuple[Float[np.ndarray, "k n"], np.ndarray]:
    """Inputs from the first layer's outputs after ReLU, and which are certified.

    ``W x + bias = y`` on the neurons that fire, by least squares. A certified y certifies x where the other neurons
    are off, as they must be.

    Args:
        observation: of the first layer.
        hidden: (k, m) what the second layer was reconstructed to have got; NaN rows stay NaN.
        certified: (k,) of these.
    """
    weight, bias = np.asarray(observation.weight, np.float64), np.asarray(observation.bias, np.float64)
    inputs, agrees = np.full((len(hidden), weight.shape[1]), np.nan), certified.copy()
    for place in np.flatnonzero(np.isfinite(hidden).all(axis=1)):
        fires = hidden[place] > FIRES * np.abs(hidden[place]).max()
        inputs[place] = np.linalg.lstsq(weight[fires], hidden[place][fires] - bias[fires])[0]
        error = np.maximum(weight @ inputs[place] + bias, 0) - hidden[place]
        agrees[place] &= np.linalg.norm(error) <= AGREES * np.linalg.norm(hidden[place])
    return inputs, agrees


def table_scores(
    inputs: Float[np.ndarray, "k n"],
    truth: Float[np.ndarray, "b n"],
    columns: Sequence[Column],
    assignment: Int[np.ndarray, " b"],
) -> TableScores:
    """Discrete accuracy and continuous error of reconstructed rows.

    Args:
        inputs: (k, n) reconstructed rows, numeric columns standardised.
        truth: (b, n) true rows.
        columns: how inputs encode the table's columns.
        assignment: (b,) index of the reconstruction of each true row, -1 for none, as `spear_jax.evaluate` matches.
    """
    matched = assignment >= 0
    found, wanted = inputs[assignment[matched]], truth[matched]
    groups = [slice(column.start, column.start + column.size) for column in columns if column.categories]
    right = sum(int(np.sum(found[:, group].argmax(axis=1) == wanted[:, group].argmax(axis=1))) for group in groups)
    accuracy = right / (len(truth) * len(groups))
    if not matched.any():
        return TableScores(accuracy, None, None)
    numeric = [column for column in columns if not column.categories]
    places = [column.start for column in numeric]
    error = np.abs(found[:, places] - wanted[:, places])
    deviations = np.array([[column.std for column in numeric]])
    return TableScores(accuracy, float(error.mean()), float(np.mean(error * deviations)))


def _copies_outcome(batch: sj.Batch, inputs: np.ndarray, copies: Copies) -> dict[str, int]:
    """How many recovered rows have certain counts, how many copies these are, and how many of the rows are wrong."""
    is_wrong = copies.is_certain & False
    if copies.is_certain.any():
        nearest = np.array([np.argmin(np.linalg.norm(inputs - row[None], axis=1)) for row in batch.inputs])
        true_counts = np.zeros_like(copies.counts)
        np.add.at(true_counts, (nearest, batch.labels), 1)
        is_wrong = copies.is_certain & (copies.counts != true_counts).any(axis=1)
    return {
        "batch_size_inferred": copies.batch_size,
        "counted": int(copies.is_certain.sum()),
        "copies": int(copies.counts[copies.is_certain].sum()),
        "counted_wrong": int(is_wrong.sum()),
    }


def _outcome(batch: sj.Batch, inputs: np.ndarray, certified: np.ndarray, result: sj.Result) -> dict[str, Any]:
    truth = np.unique(batch.inputs, axis=0)  # equal rows are one
    scores = sj.evaluate(inputs, truth, certified=certified)
    is_whole = scores.num_recovered == len(truth) == int(certified.sum())
    return {
        "samples": batch.size, "distinct": len(truth), "rank_inputs": int(np.linalg.matrix_rank(batch.inputs)),
        "rank": result.batch_size, "status": result.status.name, "method": result.stats.method,
        "directions": result.directions_found, "certified": int(certified.sum()), "recovered": scores.num_recovered,
        "matched": scores.num_matched, "false_certificates": scores.false_certificates, "whole": is_whole,
    } | table_scores(inputs, truth, batch.columns, scores.assignment)._asdict()  # fmt: skip


def findings(lines: list[Line]) -> list[Finding]:
    """One row of the table for each row of settings that has lines."""
    found = [(row, [line for line in claims.of(lines) if _is_of(row, line)]) for row in ROWS]
    return [Finding(f"ADULT, {row.claim}", row.expected, told(mine), mine) for row, mine in found if mine]


def told(lines: list[Line]) -> str:
    """What the lines of one row say."""
    total = lambda name: sum(line[name] for line in lines)
    accuracy = np.mean([line["discrete_accuracy"] for line in lines])
    errors = [(line["mae_standardised"], line["mae"]) for line in lines if line["mae"] is not None]
    worst = (
        "no row matched"
        if not errors
        else "MAE at most {:.1e} standardised, {:.1e} own units".format(*np.max(errors, axis=0))
    )
    return (
        f"{total('whole')} of {len(lines)} whole; of {total('samples')} samples, {total('distinct')} distinct, "
        f"{total('visible')} visible; {total('recovered')} recovered, {total('certified')} certified, "
        f"{total('false_certificates')} false; discrete accuracy {accuracy:.1%}; {worst}; "
        f"{total('copies')} of {total('samples')} copies counted, {total('counted_wrong')} rows wrong; "
        f"{np.median([line['run_seconds'] for line in lines]):.1f} s"
    )


def _is_of(row: Row, line: Line) -> bool:
    return {name: value for name, value in line["setting"].items() if name != "seed"} == row.setting


CLAIM = Claim("adult", settings, trial, findings)

if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
