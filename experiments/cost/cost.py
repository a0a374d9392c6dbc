"""Submatrices that are drawn until every direction was among them, over b and m (SPEAR, Lemma 5.2 and Fig. 4)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from experiments.cost.real_layer import RealLayer, real_layer
from experiments.harness import claims
from experiments.harness.claims import Finding, Line, Setting
from spear_jax import numerics
from spear_jax.attacks.dense.directions.null_vectors import null_vectors_float64
from spear_jax.attacks.dense.directions.pool import SPARE_ZEROS
from spear_jax.attacks.dense.sampling import cost, samplers
from spear_jax.attacks.dense.sampling.plan import WALK_THRESHOLDS
from spear_jax.config import ReconstructConfig

# Seeds by width: the client's model is what takes the time where it is wide.
FIRST_SEED, WIDTHS = 700, {200: 20, 1000: 10, 2000: 10}
SIZES = {"flat": (4, 6, 8, 10, 12, 14, 16), "walk": (14, 16, 18, 20, 22)}
QUICK_SIZES, QUICK_SEEDS = {"flat": (8,), "walk": (14,)}, 3
# Medians [D] of the hypergeometric model, zero counts drawn too, two digits.
MEDIANS = {
    200: {10: 2.4e3, 15: 2.1e5, 20: 2.7e7, 24: 1.4e9},
    1000: {10: 1.5e3, 15: 7.0e4, 20: 3.2e6, 24: 7.0e7},
    2000: {10: 1.4e3, 15: 5.9e4, 20: 2.4e6, 24: 4.8e7},
}
# About so many rounds lead to the expected end; a search gives up at so many times its expectation.
ROUNDS, LIMIT = 64, 100
QUANTILES = (0.1, 0.5, 0.9)
COLORS = ("tab:blue", "tab:orange", "tab:green")


def settings(is_quick: bool) -> list[Setting]:
    """Searches of whole batches."""
    return [
        {"part": "cost", "batch_size": b, "width": width, "sampler": sampler, "seed": seed}
        for sampler, sizes in (QUICK_SIZES if is_quick else SIZES).items()
        for width in ((200,) if is_quick else WIDTHS)
        for b in sizes
        for seed in range(FIRST_SEED, FIRST_SEED + (QUICK_SEEDS if is_quick else WIDTHS[width]))
    ]


def trial(setting: Setting, path: Path) -> dict[str, Any]:
    """Draw rounds until all directions were drawn; the truth tells which is one, so no filter has a part in it."""
    b, width, seed = setting["batch_size"], setting["width"], setting["seed"]
    layer = real_layer(path, b, width, seed)
    expected = cost.expected_candidates(layer.hit_probabilities)
    sampler, step, worth, threshold = sampler_of(layer, setting["sampler"], cost.planned_candidates(b, width), seed)
    started, rounds, is_found = time.perf_counter(), 0, np.zeros(b, bool)
    while not is_found.all() and rounds * step * worth < LIMIT * expected:
        rows = sampler.draw(rounds, step, threshold)().rows
        is_found |= layer.is_among(null_vectors_float64(layer.left[rows]))
        rounds += 1
    needed = (rounds - 0.5) * step * worth  # the last was found somewhere within the last round
    return {
        "needed": needed if is_found.all() else None, "found": int(is_found.sum()), "resolution": step * worth,
        "own_candidates": rounds * step, "worth": worth, "expected": expected,
        "chance": float(np.prod(-np.expm1(-layer.hit_probabilities * needed))),
        "zeros": np.sort(layer.is_zero.sum(axis=0)).tolist(), "live_rows": len(layer.live_rows),
        "compile_seconds": sampler.compile_seconds, "run_seconds": time.perf_counter() - started,
    }  # fmt: skip


def sampler_of(
    layer: RealLayer, name: str, planned: float, seed: int, *, rounds: int = ROUNDS
) -> tuple[samplers.Sampler, int, float, int]:
    """A compiled way to draw a search that is expected to need so many independent candidates, in so many rounds.

    Returns:
        the sampler, candidates of a round, what one is worth in independent ones, and the zeros that make a hit: so few
        that mixtures pass.
    """
    rows, rank = layer.left.shape
    key, config = jax.random.key(seed), ReconstructConfig(hits_capacity=2**13)
    power = lambda size, least, most: 2 ** int(np.clip(round(np.log2(size)), least, most))
    few = max(rank - 1 + SPARE_ZEROS, rows // 8)
    if name == "flat":
        step = power(planned / rounds, 2, 13)
        tolerance = numerics.search_tolerance(layer.factorization)
        return samplers.flat_sampler(layer.left, key, tolerance, step, config), step, 1.0, few
    agreeing, per_chain = WALK_THRESHOLDS[0], samplers.candidates_per_chain(rank)
    worth = cost.walk_efficiency(agreeing, rank, rows)
    step = per_chain * power(planned / worth / per_chain / rounds, 5, 12)
    return samplers.walk_sampler(layer.left, key, agreeing, step, config), step, worth, few


def simulated_needed(rank: int, num_rows: int, trials: int, seed: int) -> Float[np.ndarray, " trials"]:
    """Submatrices that batches need whose zero counts and hits are drawn from the model: an oracle for the curves.

    A column is first hit after an exponential number of draws with its own rate; never, if it is out of reach.
    """
    rng = np.random.default_rng(seed)
    zeros = rng.binomial(num_rows, 0.5, (trials, rank))
    rates = cost.hit_probability(zeros.ravel(), num_rows, rank).reshape(zeros.shape)
    with np.errstate(divide="ignore"):
        return (rng.exponential(size=rates.shape) / rates).max(axis=1)


def wide_layer(rank: int) -> float:
    """``2^(r-1) H_r``, the expectation as m grows without bound."""
    return 2.0 ** (rank - 1) * float(np.sum(1 / np.arange(1, rank + 1)))


def spread(lines: list[Line]) -> Float[np.ndarray, " 3"]:
    """10, 50 and 90 % points of what was needed; infinite where a search gave up."""
    needed = [np.inf if line["needed"] is None else line["needed"] for line in lines]
    return np.quantile(needed, QUANTILES, method="nearest")


def by_size(lines: list[Line]) -> dict[int, list[Line]]:
    """Lines of each batch size."""
    return {b: claims.of(lines, batch_size=b) for b in sorted({line["setting"]["batch_size"] for line in lines})}


def findings(lines: list[Line]) -> list[Finding]:
    """Medians by sampler and width."""
    found = []
    for sampler, width in ((sampler, width) for sampler in SIZES for width in WIDTHS):
        mine = claims.of(lines, part="cost", sampler=sampler, width=width)
        if not mine:
            continue
        inside = sum(0.1 <= line["chance"] <= 0.9 for line in mine if line["needed"] is not None)
        whole = sum(line["needed"] is not None for line in mine)
        medians = ", ".join(f"{spread(group)[1]:.2g}" for group in by_size(mine).values())
        planned = [cost.planned_candidates(b, width, quantile=0.5) for b in by_size(mine)]
        found.append(
            Finding(
                f"submatrices until all directions are drawn, b = {', '.join(map(str, by_size(mine)))}, m = {width}, "
                f"{sampler} sampler",
                f"medians {', '.join(f'{median:.2g}' for median in planned)} (derived); 80 % of batches between the 10 "
                "and 90 % points of their own zero counts",
                f"medians {medians}; {inside} of {len(mine)} between those points; {whole} of {len(mine)} found all",
                mine,
            )
        )
    return found


def draw(axis: Axes, lines: list[Line]) -> None:
    """Batches over the curves of the model."""
    sizes = list(range(3, 26))
    for (width, medians), color in zip(MEDIANS.items(), COLORS, strict=True):
        planned = [cost.planned_candidates(b, width, quantile=0.5) for b in sizes]
        axis.plot(sizes, planned, color=color, label=f"m = {width}")
        bands = np.array(
            [np.quantile(simulated_needed(b, width, 400, seed=0), QUANTILES, method="nearest") for b in sizes]
        )
        axis.fill_between(sizes, bands[:, 0], bands[:, 2], color=color, alpha=0.15)
        axis.plot(list(medians), list(medians.values()), "x", color=color)
        for sampler, marker, shift in (("flat", "o", -0.12), ("walk", "D", 0.12)):
            for b, group in by_size(claims.of(lines, part="cost", sampler=sampler, width=width)).items():
                low, middle, high = spread(group)
                bars = [[middle - low], [high - middle]]
                axis.errorbar(b + shift, middle, bars, fmt=marker, color=color, ms=4, mfc="white")
    axis.plot(sizes, [wide_layer(b) for b in sizes], "k:", label="$2^{b-1} H_b$ (m without bound)")
    axis.set(yscale="log", xlabel="b", ylabel="submatrices until all b directions are drawn", ylim=(3, 3e10))
    title = "median, 10 and 90 % of batches: circles flat sampler, diamonds pivot walk"
    axis.set_title(f"{title}\nlines, bands, crosses: model", fontsize=10)
    axis.legend()
    axis.grid(alpha=0.3)
