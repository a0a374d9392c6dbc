"""``spear-jax inspect``: what a bundle holds, and which of its layers can be inverted at what cost."""

from __future__ import annotations

import math
from typing import Any

import typer

from spear_jax.attacks.dense.problem import gather_evidence
from spear_jax.attacks.dense.regime import row_model, single_rows
from spear_jax.attacks.dense.sampling.plan import plan_search
from spear_jax.attacks.dense.strategy import choose_method
from spear_jax.audit import record
from spear_jax.audit.diagnose import Finding, diagnose
from spear_jax.cli import options
from spear_jax.cli.output import emit, table
from spear_jax.config import ReconstructConfig
from spear_jax.factorization import factorize
from spear_jax.types import Factorization
from spear_jax.update.bundle import Update, load_update
from spear_jax.update.dense_layers import DenseLayer

HEADER = ("layer", "m x n", "rank", "live rows", "noise floor", "gap", "expected candidates", "verdict")
LARGE = 1e12  # candidates that no machine draws in a day
# Live rows per sample below which the dictionary method was not seen to succeed; at 3.75 it was.
MIN_ROWS_PER_SAMPLE = 3.5


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("inspect")(inspect)


def inspect(
    update_file: options.UpdateFile,
    layer: options.Layer = None,
    layout: options.Layout = None,
    as_json: options.Json = False,
) -> None:
    """Say what an update shows and what it would cost.

    For every layer: its rank (the batch size a server sees), the noise, the expected search, and what is in the way.
    """
    update = load_update(update_file, layout=layout)
    layers = update.layers if layer is None else (update.layer(layer),)
    content: dict[str, Any] = {
        "update": str(update_file),
        "sha256": update.sha256,
        "kind": update.kind,
        "metadata": dict(update.metadata),
        "layers": [describe(update, one) for one in layers],
        "skipped": [{"name": name, "reason": reason} for name, reason in update.skipped],
    }
    emit(content, as_json, lambda: _tell(content))


def describe(update: Update, layer: DenseLayer) -> dict[str, Any]:
    """Facts and verdict of one layer."""
    facts: dict[str, Any] = {"name": layer.name, "shape": [layer.out_features, layer.in_features]}
    try:
        observation = update.observation(layer.name)
    except ValueError as error:
        return facts | {"findings": [], "invertible": False, "verdict": str(error)}
    factorization = factorize(observation.weight_grad, rounding=observation.rounding)
    plan = plan_search(factorization, ReconstructConfig())
    facts |= {
        "rank": factorization.rank,
        "live_rows": len(plan.live_rows),
        "noise_floor": record.finite(factorization.noise_floor),
        "gap": record.finite(factorization.gap),
        "expected_candidates": record.finite(plan.expected),
    }
    evidence = gather_evidence(observation, factorization)
    model = row_model(evidence)
    method, reason = choose_method(factorization, ReconstructConfig(), model)
    facts |= {
        "regime": model.regime(),
        "mean_share": model.mean_share,
        "dead_rows": layer.out_features - len(model.live),
        "single_rows": single_rows(evidence),
        "method": method,
        "reason": reason,
    }
    findings = diagnose(update, layer, factorization=factorization)
    facts["findings"] = [finding._asdict() for finding in findings]
    problem = _problem(update, layer, findings, factorization, plan.expected)
    count = update.metadata.get("num_examples")
    return facts | {"invertible": problem is None, "verdict": problem or _promise(method, factorization, count)}


def _problem(
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


def _tell(content: dict[str, Any]) -> None:
    typer.echo(f"{content['update']}: {content['kind']}, sha256 {content['sha256'][:16]}")
    for name, value in sorted(content["metadata"].items()):
        typer.echo(f"  {name}: {value}")
    rows = []
    for facts in content["layers"]:
        numbers = [facts.get(name) for name in ("rank", "live_rows", "noise_floor", "gap", "expected_candidates")]
        shape = "{} x {}".format(*facts["shape"])
        rows.append((facts["name"], shape, *map(_cell, numbers), facts["verdict"]))
    table(rows, header=HEADER)
    for facts in content["layers"]:
        if facts["invertible"]:
            typer.echo(
                f"{facts['name']}: {facts['regime']} inputs ({facts['mean_share']:.0%} of the gradient's energy lies "
                f"along the mean input); {facts['dead_rows']} of {facts['shape'][0]} neurons fired for no sample, "
                f"{facts['single_rows']} for one alone. auto takes {facts['reason']}."
            )
    for entry in content["skipped"]:
        typer.echo(f"not read: {entry['name']}: {entry['reason']}")


def _cell(value: int | float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.2g}"
