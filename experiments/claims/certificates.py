"""No certificate is wrong, and bars mean what they say: planted directions of batches made to mislead them.

Claim (ours): what is certified is a private input, or the mean that it says it is, within its bar. A client of its own
in NumPy trains nothing that the library knows of: networks with one to three hidden layers, pictures with a natural
spectrum, float32, float64 and half; pairs from 0.01 to 30 % apart, copies of another brightness, one pixel, same and
other label; kernel and bias gradients scaled apart or rounded; zero biases, trained networks, two classes, dropout. The
directions are the true ones, polished as a search does, and for pairs the vertices too that vanish on one row more,
which is where searches went wrong. Each is judged by the layer alone, with the next layer's gradient, with the model,
and with both. Hardware: two CPU cores. Time: half an hour.

    python -m experiments.claims.certificates

Each kind appends one line to results/lines/certificates.jsonl.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import spear_jax as sj
from experiments.harness import claims
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.attacks.dense.above import known_above
from spear_jax.attacks.dense.certificates import certified_alone, certify
from spear_jax.attacks.dense.certificates.pattern import agree
from spear_jax.attacks.dense.certificates.verdict import Verdict
from spear_jax.attacks.dense.directions.polish import polish
from spear_jax.attacks.dense.outcome import Outcome, SearchState, is_done
from spear_jax.attacks.dense.problem import pose
from spear_jax.attacks.dense.result import recover
from spear_jax.factorization import factorize
from spear_jax.numerics import MIN_INDEPENDENT
from spear_jax.status import Scale, Status
from spear_jax.types import MAX_ERROR

PROBLEMS, FEW = 12, 1
SIDE, CHANNELS = 24, 3
MODES = ("layer", "next layer", "model", "both")
DISTANCES = {
    "near": (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3), "contrast": (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1),
    "brightness": (0.01, 0.05, 0.15, 0.3), "pixel": (1e-3, 1e-2, 0.1),
}  # fmt: skip
FACTORS = (0.05, 0.5, 0.9, 0.998, 1.005, 1.1, 3.0, 20.0)
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {}, "zero biases": {"zero": True}, "two classes": {"classes": 2}, "one hidden": {"depth": 1},
    "two classes, one hidden": {"classes": 2, "depth": 1}, "three hidden": {"depth": 3}, "trained": {"trained": 100},
    "dropout": {"dropped": 0.2},
}  # fmt: skip
# A sample is false where it is off by more than this many of its bars and more than an exact one may be.
FALSE = 10.0


def settings(is_quick: bool) -> list[Setting]:
    """Ordinary batches, pairs, scaled and noisy ones."""
    kinds: list[Setting] = [{"group": "ordinary", "network": name, "dtype": "float32"} for name in NETWORKS]
    kinds += [{"group": "ordinary", "network": "plain", "dtype": dtype} for dtype in ("float64", "float16")]
    kinds += [{"group": "noise", "network": "plain", "noise": noise} for noise in (1e-6, 1e-4, 1e-2)]
    for pair, distances in DISTANCES.items():
        for distance in distances:
            for same in (True, False):
                kinds.append({"group": "pairs", "network": "plain", "pair": pair, "distance": distance, "same": same})
        for name in list(NETWORKS)[1:]:
            kinds.append({"group": "pairs", "network": name, "pair": pair, "distance": distances[-2], "same": True})
    kinds += [
        {"group": "scaled", "network": name, "factor": factor}
        for factor in FACTORS
        for name in NETWORKS
        if name != "dropout"
    ]
    kinds += [{"group": "scaled", "network": name, "decimals": 4} for name in ("plain", "zero biases", "two classes")]
    problems = FEW if is_quick else PROBLEMS
    return [kind | {"problems": problems, "seed": 5000} for kind in (kinds[::12] if is_quick else kinds)]


class Batch(NamedTuple):
    """A private batch and what came back of it.

    Attributes:
        observation: of the first layer.
        network: the layers above.
        next_weight_grad: gradient of the next kernel.
        inputs, labels: (b, n) and (b,), private.
        grad_z: (m, b) ``dL/dZ``.
    """

    observation: sj.LayerObservation
    network: list[tuple[np.ndarray, np.ndarray]]
    next_weight_grad: np.ndarray
    inputs: np.ndarray
    labels: np.ndarray
    grad_z: np.ndarray


def trial(setting: Setting, data: str | None) -> dict[str, Any]:
    """Counts over the problems of one kind, and how far actual errors are from stated ones; it needs no data."""
    counts = dict.fromkeys(("samples", "certified", "approximate", "false", "wrong_labels"), 0)
    ratios: list[float] = []
    for number in range(setting["problems"]):
        batch = draw(setting, setting["seed"] + number)
        for mode in MODES:
            for start in starts(batch) if "pair" in setting else starts(batch)[:1]:
                found, rows = judge(batch, mode, start, "factor" in setting)
                for name, value in found.items():
                    counts[name] += value
                ratios += rows
    shares = np.quantile(ratios, [0.5, 0.95, 1]).tolist() if ratios else [None] * 3
    return counts | {"bar_median": shares[0], "bar_95": shares[1], "bar_max": shares[2]}


def findings(lines: list[Line]) -> list[Finding]:
    """One row a group."""
    found = []
    for group in ("ordinary", "noise", "pairs", "scaled"):
        mine = [line for line in claims.of(lines) if line["setting"]["group"] == group]
        total = lambda name, mine=mine: sum(line[name] for line in mine)
        if mine:
            medians = [line["bar_median"] for line in mine if line["bar_median"] is not None]
            largest = [line["bar_95"] for line in mine if line["bar_95"] is not None]
            measured = (
                f"{total('false')} false of {total('samples')} samples in {len(mine)} kinds "
                f"({total('certified')} exact, {total('approximate')} with an error bar); "
                f"{total('wrong_labels')} labels wrong; actual over stated error {min(medians):.2g} to "
                f"{max(medians):.2g} in the median of a kind, {max(largest):.2g} at most in its 95 %"
            )
            found.append(Finding(f"certificates of planted directions, {group}", "0 false", measured, mine))
    return found


def pictures(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, n) pictures with the spectrum of photos, mean 0 and variance near 1."""
    frequency = np.fft.rfftfreq(SIDE)[None, :] ** 2 + np.fft.fftfreq(SIDE)[:, None] ** 2
    noise = rng.normal(size=(count, CHANNELS, SIDE, SIDE))
    drawn = np.fft.irfft2(np.fft.rfft2(noise) / np.sqrt(frequency + 1e-3))
    low, high = drawn.min(axis=(1, 2, 3), keepdims=True), drawn.max(axis=(1, 2, 3), keepdims=True)
    return (4 * (drawn - low) / (high - low) - 2).reshape(count, -1)


def draw(setting: Setting, seed: int) -> Batch:
    """A batch of one kind."""
    rng = np.random.default_rng(seed)
    options = {"classes": 10, "depth": 2, "zero": False, "trained": 0, "dropped": 0.0} | NETWORKS[setting["network"]]
    b, m = int(rng.choice([2, 3, 4, 6, 9])), int(rng.choice([60, 100, 160]))
    inputs, labels = pictures(rng, b + 1), rng.integers(0, options["classes"], b)
    inputs, other = inputs[:b], inputs[b] * np.linalg.norm(inputs[0]) / np.linalg.norm(inputs[b])
    if "pair" in setting:
        inputs[1] = second_of(setting["pair"], setting["distance"], inputs[0], other, rng)
        labels[1] = labels[0] if setting["same"] else (labels[0] + 1) % options["classes"]
    dtype = setting.get("dtype", "float32")
    wide = "float64" if dtype == "float64" else "float32"
    layers = network(rng, [inputs.shape[1], *[m] * options["depth"], options["classes"]], options["zero"])
    for _ in range(options["trained"]):
        shown, named = pictures(rng, 16), rng.integers(0, options["classes"], 16)
        steps = gradients(layers, shown, named)[0]
        layers = [(w - 0.05 * dw, b - 0.05 * db) for (w, b), (dw, db) in zip(layers, steps, strict=True)]
    layers = [(weight.astype(wide).astype(float), bias.astype(wide).astype(float)) for weight, bias in layers]
    inputs = inputs.astype(wide).astype(float)
    mask = None if not options["dropped"] else (rng.random((b, m)) > options["dropped"]) / (1 - options["dropped"])
    grads, grad_z = gradients(layers, inputs, labels, mask)
    return sent(setting, rng, layers, grads, dtype)._replace(inputs=inputs, labels=labels, grad_z=grad_z.T)


def second_of(pair: str, distance: float, first: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The other one of a pair."""
    if pair == "brightness":
        return (1 - distance) * first
    if pair == "pixel":
        changed = first.copy()
        changed[rng.integers(len(first))] += distance * np.linalg.norm(first)
        return changed
    return (0.8 if pair == "contrast" else 1.0) * first + distance * other


def network(rng: np.random.Generator, sizes: list[int], zero: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """PyTorch's initialisation."""
    bound = lambda inner, *shape: rng.uniform(-1, 1, shape) / np.sqrt(inner)
    return [
        (bound(inner, outer, inner), (not zero) * bound(inner, outer))
        for inner, outer in zip(sizes, sizes[1:], strict=False)
    ]


def gradients(layers: list, inputs: np.ndarray, labels: np.ndarray, mask: np.ndarray | None = None) -> tuple[list, Any]:
    """Mean cross-entropy's gradients of every layer, and ``dL/dZ`` (b, m) of the first."""
    hidden, masks = [inputs], []
    for index, (weight, bias) in enumerate(layers):
        logits = hidden[-1] @ weight.T + bias
        masks.append((logits > 0) * (mask if mask is not None and index == 0 else 1.0))
        hidden.append(logits * masks[-1])
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    grad = odds / odds.sum(axis=1, keepdims=True)
    grad[np.arange(len(labels)), labels] -= 1
    grad, found = grad / len(labels), []
    for index in range(len(layers) - 1, -1, -1):
        found.insert(0, (grad.T @ hidden[index], grad.sum(axis=0)))
        if index:
            grad = (grad @ layers[index][0]) * masks[index - 1]
    return found, grad


def sent(setting: Setting, rng: np.random.Generator, layers: list, grads: list, dtype: str) -> Batch:
    """What the server gets: rounded, noisy, scaled."""
    wide = "float64" if dtype == "float64" else "float32"
    size = lambda array: float(np.sqrt(np.mean(array**2)))
    unit = 1 / size(grads[0][0]) if dtype == "float16" else 1.0  # what loss scaling does
    noisy = lambda array: unit * (array + setting.get("noise", 0.0) * size(array) * rng.normal(size=array.shape))
    cast = lambda array: noisy(array).astype(dtype).astype(wide)
    bias_grad = cast(grads[0][1]) * np.dtype(wide).type(setting.get("factor", 1.0))
    if "decimals" in setting:
        largest = np.abs(bias_grad).max()
        bias_grad = (np.round(bias_grad / largest, setting["decimals"]) * largest).astype(wide)
    (weight, bias), *above = layers
    observation = sj.LayerObservation(
        weight=weight.astype(wide), bias=bias.astype(wide), weight_grad=cast(grads[0][0]), bias_grad=bias_grad
    )
    nothing = np.zeros(0)
    return Batch(observation, above, cast(grads[1][0]), nothing, nothing, nothing)


def starts(batch: Batch) -> list[np.ndarray]:
    """What a search may end with, before it is polished: true columns, merged where the rank says so, and vertices."""
    factorization = factorize(batch.observation.weight_grad)
    columns = np.asarray(factorization.left).T @ batch.grad_z
    if factorization.is_full or factorization.rank not in (columns.shape[1], columns.shape[1] - 1):
        return []
    if factorization.rank < columns.shape[1]:
        return [np.column_stack([columns[:, 0] + columns[:, 1], columns[:, 2:]])]
    wrong, both = columns.copy(), np.flatnonzero((batch.grad_z[:, 0] != 0) & (batch.grad_z[:, 1] != 0))
    if len(both):
        wrong[:, 0] -= batch.grad_z[both[0], 0] / batch.grad_z[both[0], 1] * columns[:, 1]
    return [columns, wrong]


def judge(batch: Batch, mode: str, columns: np.ndarray, is_scaled: bool) -> tuple[dict[str, int], list[float]]:
    """Counts of one set of directions, and actual over stated errors of what is certified."""
    model = batch.network if mode in ("model", "both") else None
    following = batch.next_weight_grad if mode in ("next layer", "both") else None
    factorization = factorize(batch.observation.weight_grad)
    above = known_above(batch.observation, model, following)
    problem = pose(batch.observation, factorization, above)
    directions = polish(factorization, (columns / np.linalg.norm(columns, axis=0)).T)
    if np.linalg.svd(directions, compute_uv=False)[-1] < MIN_INDEPENDENT:
        return {}, []
    agreement = agree(problem, directions)
    outcome = Outcome(SearchState(None), directions, agreement, Status.EXACT)  # pyright: ignore[reportArgumentType]
    if above is not None and not is_done(agreement):
        outcome = outcome._replace(alone=certified_alone(problem, outcome))
    verdict = certify(problem, outcome)
    return compare(batch, verdict, recover(batch.observation, problem, verdict).inputs, is_scaled)


def compare(batch: Batch, verdict: Verdict, inputs: np.ndarray, is_scaled: bool) -> tuple[dict[str, int], list[float]]:
    """What is certified against the truth.

    Where nobody counted, merged samples give a mean, of weights that nobody can know, and where the scale rests on the
    bias gradient a factor is open: the certificate says both.
    """
    size = np.linalg.norm(batch.inputs, axis=1)
    is_open = is_scaled and verdict.scale is Scale.BIAS_GRADIENT
    ratios, counts = [], {"samples": len(inputs), "certified": 0, "approximate": 0, "false": 0, "wrong_labels": 0}
    for place in np.flatnonzero(verdict.exact | verdict.approximate):
        row, bar = inputs[place], float(verdict.error[place])
        near = int(np.argmax(batch.inputs @ row / size)) if is_scaled else -1
        against = [batch.inputs[near]] if is_scaled else list(batch.inputs)
        if len(inputs) < len(batch.inputs) and not is_scaled and not verdict.mean_of[place]:
            against += means(batch, row)
        factors = [one @ row / (row @ row) if is_open else 1.0 for one in against]
        error = min(
            float(np.linalg.norm(f * row - one) / np.linalg.norm(one)) for f, one in zip(factors, against, strict=True)
        )
        ratios.append(error / bar)
        counts["certified" if verdict.exact[place] else "approximate"] += 1
        counts["false"] += int(not np.isfinite(bar) or (error > MAX_ERROR and error > FALSE * bar))
        if verdict.labels is not None and verdict.labels[place] >= 0:
            nearest = int(np.argmin(np.linalg.norm(batch.inputs - row, axis=1) / size)) if not is_scaled else near
            counts["wrong_labels"] += int(verdict.labels[place] != batch.labels[nearest])
    return counts, ratios


def means(batch: Batch, row: np.ndarray) -> list[np.ndarray]:
    """The means of two inputs with nearly parallel columns that are nearest to a row, for each such pair."""
    found = []
    for one in range(len(batch.inputs)):
        for other in range(one):
            first, second = batch.grad_z[:, one], batch.grad_z[:, other]
            if np.linalg.norm(second - first @ second / (first @ first) * first) < 0.3 * np.linalg.norm(second):
                apart = batch.inputs[other] - batch.inputs[one]
                weight = np.clip(apart @ (row - batch.inputs[one]) / (apart @ apart), 0, 1)
                found.append(batch.inputs[one] + weight * apart)
    return found


CLAIM = Claim("certificates", settings, trial, findings)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
