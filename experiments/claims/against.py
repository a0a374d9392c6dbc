"""The same updates for all attacks: ours, the ratio rule, LT-code peeling, Cocktail Party and gradient matching.

Claim: where each passive attack ends. Expected: ours returns all samples, exact and certified; the ratio rule a batch
of one; peeling 99.7 % of 64 photos in its own setting (facts 4.1, "S": pixels in [0, 1], one hidden layer of 1000,
N(0, 0.5^2), no bias values), nothing known of it elsewhere; of ten classes, where some samples send 1e-3 to 1e-36 of
the largest, ours as many of the visible as peeling, none wrong; Cocktail Party and gradient matching likenesses
(SPEAR's table on ImageNet: Geiping et al. 19.6 dB, SPEAR 124 dB, facts 1.5, "M-med"; Cocktail Party's tables "NF").
Float64 gradients; six hidden layers of default PyTorch initialisation where a row does not say otherwise.

What each attacker is told: all know model and update; peeling and Cocktail Party the batch size, gradient matching the
labels. Cocktail Party is scored twice: with sign and scale by the bias gradient, and as its paper does, pixels scaled
to [0, 1] and the sign by the truth. Peeling runs twice: with the published tolerances, and with a tight one of ours.
The ratio rule returns a candidate per neuron, of which the truth picks the best: its median flatters it, its exact
samples do not. Cocktail Party and gradient matching take fewer steps than published (25,000 and 24,000) where those
would take hours; the lines say how many, `ROWS` sets them, and one batch of 8 gets them all ("all steps").

Hardware: two CPU cores. Time: about an hour; quick about a minute.

    python -m experiments.claims.against --data DIR
    python -m experiments.claims.against --data DIR --only batch_size=8 raw=True
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import spear_jax as sj
from experiments.baselines import Reconstruction, cocktail_party, gradient_matching, lt_peeling, ratio_rule
from experiments.harness import against_plots, claims, common
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.client.evaluate import IDENTICAL_PSNR
from spear_jax.devices import compile_seconds
from spear_jax.normalization import Normalization

NAME, FIRST_SEED, MAX_SECONDS = "against", 700, 100.0
OURS, MATCHING, PARTY = "spear_jax", "gradient matching", "cocktail party"
PUBLISHED, IN_FULL = f"{PARTY}, scored as published", f"{MATCHING}, all steps"
PUBLISHED_STEPS = {PARTY: cocktail_party.Options().steps, MATCHING: gradient_matching.Options().steps}
# Lines of batches of 8 hold pictures of the first 4 photos.
PICTURED, PICTURED_BATCH = 4, 8


class Problem(NamedTuple):
    """A batch and its client; float64.

    Attributes:
        images: file of the data pack.
        batch_size, width, depth: b, m and the number of hidden layers.
        raw: pixels in [0, 1], not normalised.
        initialization: see `spear_jax.MLP`.
        classes: labels are taken modulo this; None for the data set's.
    """

    images: str
    batch_size: int
    width: int
    raw: bool = False
    depth: int = 6
    initialization: str = "pytorch"
    classes: int | None = None

    @property
    def words(self) -> str:
        """In a table's cell."""
        scale = "in [0, 1]" if self.raw else "centred"
        model = "" if self.initialization == "pytorch" else ", one hidden layer, N(0, 0.5^2)"
        classes = "" if self.classes is None else f", {self.classes} classes"
        return f"{self.images.split('.')[0]} {scale}, b = {self.batch_size}, m = {self.width}{model}{classes}"


class Row(NamedTuple):
    """One problem over seeds.

    Attributes:
        problem: the batch and its client.
        seeds: of the methods that take seconds.
        slow_seeds: of those that take a minute.
        party_steps, matching_steps: of the two optimisers.
        seeds_in_full: of gradient matching with all of its steps.
    """

    problem: Problem
    seeds: int
    slow_seeds: int
    party_steps: int
    matching_steps: int
    seeds_in_full: int = 0


_PHOTOS = "imagenet_64.npz"
_PEER = {"raw": True, "depth": 1, "initialization": "normal"}
ROWS = (
    Row(Problem("cifar10.npz", 8, 200), 5, 2, 25_000, 4000),
    *(
        Row(Problem(_PHOTOS, b, m, raw), seeds, 2, party_steps, matching_steps, int(b == 8))
        for raw in (False, True)
        for b, m, seeds, party_steps, matching_steps in (
            (1, 200, 5, 1000, 1000),
            (8, 200, 5, 25_000, 2000),
            (20, 200, 5, 10_000, 1000),
            (64, 1000, 3, 1000, 100),
        )
    ),
    Row(Problem(_PHOTOS, 64, 1000, **_PEER), 5, 2, 1000, 200),
    Row(Problem(_PHOTOS, 128, 1000, **_PEER), 5, 0, 0, 0),
    *(Row(Problem(_PHOTOS, b, 1000, classes=10, **_PEER), 5, 0, 0, 0) for b in (64, 128)),
)


def _ours(update: sj.Update, labels: np.ndarray, setting: Setting) -> Reconstruction:
    """With the whole update, as the command line does."""
    config = sj.ReconstructConfig(num_examples=len(labels), max_seconds=MAX_SECONDS)
    helpers: dict[str, Any] = {"model": update.network(), "next_weight_grad": update.next_weight_grad()}
    result = sj.reconstruct(update.observation(), jax.random.key(setting["seed"]), config, **helpers)
    return Reconstruction(np.asarray(result.inputs, np.float64), result.certificate.exact)


def _matching(update: sj.Update, labels: np.ndarray, setting: Setting) -> Reconstruction:
    options = gradient_matching.Options(steps=setting.get("steps", PUBLISHED_STEPS[MATCHING]))
    return gradient_matching.gradient_matching(update, labels, jax.random.key(setting["seed"]), options)


def _party(update: sj.Update, labels: np.ndarray, setting: Setting) -> Reconstruction:
    return cocktail_party.cocktail_party(update, cocktail_party.Options(steps=setting["steps"]))


_TIGHT = lt_peeling.Options(max_mismatch=lt_peeling.ROUNDING)
METHODS: dict[str, Callable[[sj.Update, np.ndarray, Setting], Reconstruction]] = {
    OURS: _ours,
    "ratio rule": lambda update, labels, setting: ratio_rule.ratio_rule(update),
    "peeling": lambda update, labels, setting: lt_peeling.lt_peeling(update),
    "peeling, tight": lambda update, labels, setting: lt_peeling.lt_peeling(update, _TIGHT),
    PARTY: _party,
    MATCHING: _matching,
    IN_FULL: _matching,
}


def settings(is_quick: bool) -> list[Setting]:
    """All methods on each update, seed by seed; quick: the first update, without gradient matching."""
    every = [setting for row in ROWS for setting in _settings_of(row)]
    first = lambda setting: setting["images"] == "cifar10.npz" and setting["seed"] == FIRST_SEED
    return [each for each in every if first(each) and each["method"] != MATCHING] if is_quick else every


def _settings_of(row: Row) -> list[Setting]:
    steps = {PARTY: row.party_steps, MATCHING: row.matching_steps}
    seeds = dict.fromkeys(METHODS, row.seeds) | dict.fromkeys(steps, row.slow_seeds) | {IN_FULL: row.seeds_in_full}
    chosen = lambda method: {"steps": steps[method]} if method in steps else {}
    problem = {name: value for name, value in row.problem._asdict().items() if value is not None}
    return [
        problem | {"method": method} | chosen(method) | {"seed": FIRST_SEED + number}
        for number in range(row.seeds)
        for method in METHODS
        if number < seeds[method]
    ]


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One attack on one update, from images to scores."""
    problem = Problem(**{name: setting[name] for name in Problem._fields if name in setting})
    path = common.find_data(problem.images, data)
    if path is None:
        return None
    batch, update = make(problem, path, setting["seed"])
    visible = num_visible(batch, update)
    started, compiled = time.perf_counter(), compile_seconds()
    found = METHODS[setting["method"]](update, batch.labels, setting)
    seconds, compiled = time.perf_counter() - started, compile_seconds() - compiled
    outcome = {"samples": batch.size, "visible": visible, "update": update.sha256[:16]} | _scores(found, batch)
    pictures = {"original": batch.inputs, setting["method"]: _matched(found.inputs, batch)}
    if setting["method"] == PARTY:
        published = _as_published(found.inputs, batch)
        outcome |= {f"published_{name}": value for name, value in _scores(Reconstruction(published), batch).items()}
        pictures[PUBLISHED] = _matched(published, batch)
    if setting["method"] in PUBLISHED_STEPS:
        outcome["share_of_published_steps"] = setting["steps"] / PUBLISHED_STEPS[setting["method"]]
    if is_pictured(setting):
        outcome["pictures"] = {name: _strip(inputs, batch) for name, inputs in pictures.items()}
    return outcome | {"compile_seconds": round(compiled, 3), "run_seconds": round(seconds - compiled, 3)}


def make(problem: Problem, path: Path, seed: int) -> tuple[sj.Batch, sj.Update]:
    """The private batch and the update that every method gets."""
    normalization = Normalization((0.0,), (1.0,)) if problem.raw else None
    batch = sj.load_batch(path, batch_size=problem.batch_size, seed=seed, normalization=normalization)
    if problem.classes is not None:
        batch = dataclasses.replace(batch, labels=batch.labels % problem.classes, num_classes=problem.classes)
    widths = (problem.width,) * problem.depth
    model = sj.MLP(widths, batch.num_classes, initialization=problem.initialization, param_dtype="float64")
    params = sj.init_params(model, jax.random.key(seed), batch.inputs.shape[1])
    return batch, sj.simulate_update(model, params, batch)[0]


def num_visible(batch: sj.Batch, update: sj.Update) -> int:
    """Samples whose gradient is above the rounding of the kernel's: of the others nothing is in the update."""
    observation, network = update.observation(), update.network()
    assert network is not None
    wide = [(np.asarray(weight, np.float64), np.asarray(bias, np.float64)) for weight, bias in network]
    pre_activation = batch.inputs @ np.asarray(observation.weight).T + np.asarray(observation.bias)
    sent = lt_peeling.layer_grad(wide, pre_activation, batch.labels) / batch.size
    size = np.linalg.norm(sent, axis=1) * np.linalg.norm(batch.inputs, axis=1)
    return int(np.sum(size > np.finfo(np.float64).eps * np.linalg.norm(observation.weight_grad)))


def _as_published(found: np.ndarray, batch: sj.Batch) -> np.ndarray:
    """Sources of Cocktail Party as its paper scores them, as inputs of the model."""
    assert batch.normalization is not None
    images = lambda inputs: inputs.reshape(-1, *(batch.image_shape or ()))
    pixels, truth = (batch.normalization.invert(images(inputs)) for inputs in (found, batch.inputs))
    scored = cocktail_party.as_published(pixels.reshape(found.shape), truth.reshape(batch.inputs.shape))
    return batch.normalization.apply(images(scored)).reshape(scored.shape)


def _evaluate(found: Reconstruction, batch: sj.Batch) -> sj.Evaluation:
    pixels = {"normalization": batch.normalization, "image_shape": batch.image_shape, "images": batch.images}
    return sj.evaluate(found.inputs, batch.inputs, certified=found.certified, **pixels)


def _scores(found: Reconstruction, batch: sj.Batch) -> dict[str, Any]:
    """Counts, and medians over the true samples, one without a partner counting as zero."""
    scores = _evaluate(found, batch)
    assert scores.ssim is not None
    median = lambda values: float(np.median(np.nan_to_num(values, nan=0.0, posinf=IDENTICAL_PSNR)))
    return {
        "returned": len(found.inputs), "recovered": scores.num_recovered, "exact": scores.num_pixel_exact,
        "median_psnr": median(scores.psnr), "median_ssim": median(scores.ssim),
        "certified": None if found.certified is None else int(found.certified.sum()),
        "false_certificates": scores.false_certificates,
    }  # fmt: skip


def _matched(found: np.ndarray, batch: sj.Batch) -> np.ndarray:
    """What was matched to each true sample, NaN for none."""
    partner = _evaluate(Reconstruction(found), batch).assignment
    return np.stack([found[index] if index >= 0 else np.full(batch.inputs.shape[1], np.nan) for index in partner])


def is_pictured(setting: Setting) -> bool:
    """Whether the lines of this setting hold pictures."""
    return setting["images"] == _PHOTOS and setting["batch_size"] == PICTURED_BATCH and setting["seed"] == FIRST_SEED


def _strip(inputs: np.ndarray, batch: sj.Batch) -> str:
    """The first samples side by side, grey where there is none."""
    assert batch.normalization is not None
    pixels = batch.normalization.invert(inputs[:PICTURED].reshape(-1, *(batch.image_shape or ())))
    return against_plots.encode(np.concatenate(list(np.nan_to_num(pixels, nan=0.5)), axis=1))


def findings(lines: list[Line]) -> list[Finding]:
    """A row per problem, with what each method made of it."""
    rows = []
    for row in ROWS:
        mine = claims.of(lines, **row.problem._asdict())
        told = [(method, [line for line in mine if line["setting"]["method"] == method]) for method in METHODS]
        measured = "; ".join(f"{method}: {_told(those)}" for method, those in told if those)
        ours = "all, certified" if row.problem.classes is None else "of the visible as many as peeling, none wrong"
        expected = f"ours: {ours}" + ("; peeling: 99.7 %, 94.7 % (S)" if row.problem.depth == 1 else "")
        if mine:
            rows.append(Finding(row.problem.words, expected, measured, mine))
    return rows


def _told(lines: list[Line]) -> str:
    total = lambda name: sum(line[name] for line in lines)
    middle = lambda name: float(np.median([line[name] for line in lines]))
    visible = f" ({total('visible')} visible)" if all("visible" in line for line in lines) else ""
    words = f"{total('recovered')} of {total('samples')}{visible} recovered, {middle('median_psnr'):.1f} dB"
    if lines[0]["certified"] is not None:
        words += f", {total('certified')} certified, {total('false_certificates')} false"
    if "published_median_psnr" in lines[0]:
        words += f" (scored as published {middle('published_median_psnr'):.1f} dB)"
    if "share_of_published_steps" in lines[0]:
        words += f", {lines[0]['setting']['steps']} steps"
    return words + f", {middle('run_seconds'):.1f} s"


def draw(lines: list[Line], folder: Path) -> None:
    """Median PSNR of every trial by method and problem, and the photos that each method gives."""
    shown = [(row.problem.words, claims.of(lines, **row.problem._asdict())) for row in ROWS]
    names = [name for method in METHODS for name in ((method, PUBLISHED) if method == PARTY else (method,))]
    against_plots.draw_scores(shown, names, folder / f"{NAME}.png")
    against_plots.draw_photos(shown, ["original", *names], folder / f"{NAME}_photos.png")


CLAIM = Claim(NAME, settings, trial, findings, draw)

if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
