"""What one layer of an update shows, and whether it can be inverted at what cost: what ``spear-jax inspect`` says."""

from __future__ import annotations

import math
from typing import Any

from spear_jax.attacks.dense.above import known_above
from spear_jax.attacks.dense.problem import pose
from spear_jax.attacks.dense.regime import is_skewed, single_rows
from spear_jax.attacks.dense.strategy import make_plan
from spear_jax.audit.diagnose import Finding, diagnose, full_rank
from spear_jax.audit.record import finite
from spear_jax.config import ReconstructConfig
from spear_jax.errors import SpearError
from spear_jax.factorization import factorize
from spear_jax.types import Factorization
from spear_jax.update.bundle import Update
from spear_jax.update.dense_layers import DenseLayer

LARGE = 1e12  # candidates that no machine draws in a day
# Live rows per sample below which the dictionary method was not seen to succeed; at 3.75 it was.
MIN_ROWS_PER_SAMPLE = 3.5


def exposure(update: Update, layer: DenseLayer, *, is_diagnosed: bool = True) -> dict[str, Any]:
    """Say what one layer of an update shows, in facts and a verdict, without a search.

    Args:
        update: any kind.
        layer: one of its dense layers.
        is_diagnosed: whether to look for what is in the way too (`diagnose`) and to count neurons of a single sample,
            which takes seconds and the square of its width in memory for a large layer; without it only a full rank
            is named.

    Returns:
        a dictionary that JSON can hold: ``name``, ``shape``, ``findings``, ``invertible`` and ``verdict``, a sentence;
        where the layer can be read, also ``rank``, ``live_rows``, ``noise_floor``, ``gap``, ``expected_candidates``,
        ``moved_before``, ``regime``, ``mean_share``, ``dead_rows``, ``single_rows``, ``method`` and ``reason``.
    """
    facts: dict[str, Any] = {"name": layer.name, "shape": [layer.out_features, layer.in_features]}
    try:
        observation = update.observation(layer.name)
    except SpearError as error:
        return facts | {"findings": [], "invertible": False, "verdict": str(error)}
    factorization = factorize(observation.weight_grad, rounding=observation.rounding)
    above = known_above(observation, None, None, update.layers_above(layer.name))
    problem = pose(observation, factorization, above)
    try:
        plan = make_plan(problem, ReconstructConfig(activation=update.activation_behind(layer.name)))
    except SpearError as error:  # behind this activation only the span method reads, and its equations are not there
        return facts | {"findings": [], "invertible": False, "verdict": str(error)}
    facts |= {
        "rank": factorization.rank,
        "live_rows": len(problem.live_rows),
        "noise_floor": finite(factorization.noise_floor),
        "gap": finite(factorization.gap),
        "expected_candidates": finite(plan.sampling.expected),
        "moved_before": list(update.moved_before(layer.name)),
    }
    facts |= {
        "regime": "skewed" if is_skewed(problem) else "centred",
        "mean_share": problem.mean_share,
        "dead_rows": layer.out_features - len(problem.live_rows),
        "method": plan.method,
        "reason": plan.reason,
    }
    if is_diagnosed:
        facts["single_rows"] = single_rows(problem)
        findings = diagnose(update, layer, factorization=factorization)
    else:
        findings = full_rank(factorization, observation.weight_grad)
    facts["findings"] = [finding._asdict() for finding in findings]
    expected = 1.0 if plan.method == "span" else plan.sampling.expected
    hindrance = _hindrance(update, layer, findings, factorization, expected)
    count = update.metadata.get("num_examples")
    return facts | {
        "invertible": hindrance is None,
        "verdict": hindrance or _promise(plan.method, factorization, count) + _moving(facts["moved_before"]),
    }


def _hindrance(
    update: Update,
    layer: DenseLayer,
    findings: tuple[Finding, ...],
    factorization: Factorization,
    expected: float,
) -> str | None:
    if layer == update.layers[-1]:
        return "no ReLU follows the last layer, so no entry of its pre-activation gradient is zero"
    if findings:
        return findings[0].sentence
    if math.isinf(expected):
        return "too few live rows for this rank: some column cannot be zero on rank - 1 of them"
    live_rows = int(factorization.live_mask.sum())
    if expected > LARGE and live_rows < MIN_ROWS_PER_SAMPLE * factorization.rank:
        return f"out of reach: about {expected:.1g} candidates, and too few live rows for the dictionary method"
    return None


def _promise(method: str, factorization: Factorization, num_examples: str | None) -> str:
    seen = f"invertible by {method}, {factorization.rank} samples"
    if num_examples is not None and int(num_examples) > factorization.rank:
        return f"{seen} visible of {num_examples} reported (duplicates merge, zero gradients leave no trace)"
    return seen


def _moving(moved: list[str]) -> str:
    """What the verdict must add where the layer's inputs moved."""
    if not moved:
        return ""
    names = ", ".join(moved[:3]) + (f" and {len(moved) - 3} more" if len(moved) > 3 else "")
    return f"; shown, not certified: {names} may stand before it and moved over the local steps, and its inputs with it"
