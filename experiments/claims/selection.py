"""One stage of selection or two: the b sparsest independent directions, or these and swaps by the matching score.

Claim: the second stage makes more batches come back whole, the more the larger b is (SPEAR, appendix E.3 and Fig. 6,
"Effectiveness of our 2-Stage Greedy Algorithm" [S]; the accuracies [NF]). Expected here [D]: no difference on centred
photos once the pool holds all true directions, as zeros are counted on polished float64 directions, where a mixture of
two columns has a quarter of zeros, and greedy choice of the sparsest independent ones is exact for a matroid. A
difference where mixtures are as sparse as directions: with two classes and one hidden layer the columns of D are
multiples of one vector where two samples both fire, so that a difference of two is zero wherever their neurons agree,
on half of the rows; and now and then for inputs in [0, 1], whose zeros are nested, so that a mixture may have one zero
more than a column of it.

Each trial grows one pool by the sampling search's own rounds, without ending it, and chooses from it with one stage and
with two (`certificates.select`) at several multiples of the candidates that the batch's own zero counts make necessary.
Tags: S read at the source, D derived for this project, NF not found. 64 x 64 ImageNet photos, default PyTorch
initialisation, float64. Hardware: two CPU cores. Time: about half an hour, a quick run a minute.

    python -m experiments.claims.selection --data DIR
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

from experiments.cost.cost import sampler_of
from experiments.cost.real_layer import IMAGES, RealLayer, real_layer
from experiments.harness import claims, common
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.attacks.dense.certificates.select import select
from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.outcome import initial_state
from spear_jax.attacks.dense.sampling import cost
from spear_jax.config import ReconstructConfig
from spear_jax.types import CandidatePool

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from spear_jax.attacks.dense.problem import Problem, pose

NAME, FIRST_SEED, SEEDS, QUICK_SEEDS = "selection", 700, 10, 2
# Candidates drawn, in units of the expected ones, and the rounds that these make.
BUDGETS, ROUNDS = (0.5, 1.0, 2.0, 4.0, 8.0), 8
# Batch sizes beyond this are drawn by pivot walks.
FLAT_SIZE = 14


class Regime(NamedTuple):
    """What a row of settings has in common.

    Attributes:
        sizes: of the batch.
        quick: those of a quick run.
        width, depth, layer, raw, classes: see `real_layer`.
        is_filtered: whether the library's zero threshold applies; else mixtures of two pass too.
        expected: of the second stage.
    """

    sizes: tuple[int, ...]
    quick: tuple[int, ...] = ()
    width: int = 200
    depth: int = 2
    layer: int = 0
    raw: bool = False
    classes: int | None = None
    is_filtered: bool = False
    expected: str = "no difference"


REGIMES = {
    "centred, own filter": Regime((8, 12, 16, 20), quick=(8,), is_filtered=True),
    "centred, low filter": Regime((6, 8, 10, 12)),
    "hidden layer 3, low filter": Regime((4, 6, 8), depth=4, layer=2),
    "[0, 1], m = 400, low filter": Regime((4, 6, 8), width=400, raw=True, expected="a difference now and then"),
    "one hidden layer, two classes": Regime((4, 6, 8, 10, 12), quick=(6,), depth=1, classes=2, expected="a difference"),
}


def settings(is_quick: bool) -> list[Setting]:
    """Batches of each regime."""
    return [
        {"regime": name, "batch_size": b, "seed": seed}
        for name, regime in REGIMES.items()
        for b in (regime.quick if is_quick else regime.sizes)
        for seed in range(FIRST_SEED, FIRST_SEED + (QUICK_SEEDS if is_quick else SEEDS))
    ]


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """Grow a pool and choose from it at each budget."""
    path = common.find_data(IMAGES, data)
    if path is None:
        return None
    b, seed, regime = setting["batch_size"], setting["seed"], REGIMES[setting["regime"]]
    layer = real_layer(
        path, b, regime.width, seed, depth=regime.depth, layer=regime.layer, raw=regime.raw, classes=regime.classes
    )
    if layer.factorization.rank != b:
        return {"rank": layer.factorization.rank, "choices": []}
    expected = cost.expected_candidates(layer.hit_probabilities)
    name = "flat" if b <= FLAT_SIZE else "walk"
    sampler, step, worth, least = sampler_of(layer, name, expected, seed, rounds=ROUNDS)
    if regime.is_filtered:
        least = cost.zero_threshold(ReconstructConfig().false_rejection, len(layer.live_rows))
    evidence = pose(layer.observation, layer.factorization)
    grown, rounds, choices, started = initial_state(b, ReconstructConfig()).pool, 0, [], time.perf_counter()
    for budget in BUDGETS:
        while rounds * step * worth < budget * expected:
            rows = sampler.draw(rounds, step, least)().rows
            if len(rows):
                grown = pool.merge(grown, *pool.verify(layer.factorization, layer.live_rows[rows], least))
            rounds += 1
        choices.append({"budget": budget} | choices_from(layer, evidence, grown))
    return {
        "rank": b, "expected": expected, "candidates": rounds * step * worth, "least_zeros": least,
        "held": choices[-1]["held"], "one": choices[-1]["one"]["true"], "two": choices[-1]["two"]["true"],
        "choices": choices, "compile_seconds": sampler.compile_seconds, "run_seconds": time.perf_counter() - started,
    }  # fmt: skip


def choices_from(layer: RealLayer, problem: Problem, grown: CandidatePool) -> dict[str, Any]:
    """True directions that the pool holds, and that each way to choose takes; certified ones only count if true."""
    held = layer.is_among(grown.directions[: grown.size])
    told: dict[str, Any] = {"pool": grown.size, "held": int(held.sum())}
    for name, may_swap in (("one", False), ("two", True)):
        started = time.perf_counter()
        chosen, agreement = select(problem, grown, may_swap=may_swap)
        told[name] = {
            "true": int(layer.is_among(grown.directions[chosen]).sum()),
            "score": None if agreement is None else agreement.matching_score,
            "certified": 0 if agreement is None else int(agreement.precise.sum()),
            "seconds": time.perf_counter() - started,
        }
    return told


def whole(lines: list[Line], stage: str, place: int = -1) -> int:
    """Batches that this stage chose whole at a budget; stage "held" asks whether the pool holds them whole."""
    at = [(line["choices"][place], line["setting"]["batch_size"]) for line in lines if line["choices"]]
    return sum((choice["held"] if stage == "held" else choice[stage]["true"]) == b for choice, b in at)


def findings(lines: list[Line]) -> list[Finding]:
    """Counts by regime at the largest budget, and over all pools."""
    found = []
    for name, regime in REGIMES.items():
        mine = claims.of(lines, regime=name)
        sizes = sorted({line["setting"]["batch_size"] for line in mine})
        if not mine:
            continue
        counts = []
        for b in sizes:
            group = claims.of(mine, batch_size=b)
            counts.append(f"b = {b}: {whole(group, 'one')} and {whole(group, 'two')} of {len(group)}")
        found.append(
            Finding(
                f"batches chosen whole by one stage and by two, {name}",
                f"two stages better, more so with b (paper, figures not found); {regime.expected} (derived)",
                f"{'; '.join(counts)} after {BUDGETS[-1]:g} times the expected candidates; {_pools(mine)}",
                mine,
            )
        )
    return found


def _pools(lines: list[Line]) -> str:
    """All pools of all budgets: what became of those that held the whole batch, and certificates that were wrong."""
    pairs = [(choice, line["setting"]["batch_size"]) for line in lines for choice in line["choices"]]
    full = [(choice, b) for choice, b in pairs if choice["held"] == b]
    one, two = (sum(choice[stage]["true"] == b for choice, b in full) for stage in ("one", "two"))
    more = sum(choice["two"]["true"] > choice["one"]["true"] for choice, _ in pairs)
    less = sum(choice["two"]["true"] < choice["one"]["true"] for choice, _ in pairs)
    false = sum(
        choice[stage]["certified"] == b > choice[stage]["true"] for choice, b in pairs for stage in ("one", "two")
    )
    return (
        f"of {len(full)} pools that held all, one stage chose {one}, two {two}; of all {len(pairs)} pools two took "
        f"more true directions in {more}, fewer in {less}; {false} wrong choices certified whole"
    )


def draw(lines: list[Line], folder: Path) -> None:
    """Share of whole batches against b at the largest budget, one panel a regime."""
    figure, axes = plt.subplots(1, len(REGIMES), figsize=(20, 4), layout="constrained", sharey=True)
    for axis, name in zip(axes, REGIMES, strict=True):
        mine = claims.of(lines, regime=name)
        sizes = sorted({line["setting"]["batch_size"] for line in mine})
        for stage, label, style in (
            ("held", "all in the pool", "k:"),
            ("one", "one stage", "s--"),
            ("two", "two stages", "o-"),
        ):
            groups = [claims.of(mine, batch_size=b) for b in sizes]
            shares = [whole(group, stage) / len(group) for group in groups]
            axis.plot(sizes, shares, style, label=label, mfc="white" if stage == "one" else None)
        axis.set(title=name, xlabel="b", ylim=(-0.05, 1.05), xticks=sizes)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"share of batches chosen whole,\n{BUDGETS[-1]:g} times the expected candidates")
    axes[0].legend(loc="lower left")
    figure.savefig(folder / f"{NAME}.png", dpi=100)
    plt.close(figure)


CLAIM = Claim(NAME, settings, trial, findings, draw)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
