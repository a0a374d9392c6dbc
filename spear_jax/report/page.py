"""The page of one reconstruction of a fully connected layer: its record's sections around what is shown of samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spear_jax.defences.trials import Trial
from spear_jax.report import sections
from spear_jax.report.cards import Cards
from spear_jax.report.template import render
from spear_jax.report.trials import how_to_try, sweep
from spear_jax.report.values import opening


def render_page(
    record: Mapping[str, Any],
    *,
    headline: str,
    shown: Cards,
    notes: Iterable[str],
    num_by_network: int,
    trials: Sequence[Trial],
) -> str:
    """The whole page.

    Args:
        record: the dictionary of ``result.json``, with any key missing.
        headline: the first sentence.
        shown: what is shown of the samples; where all are certified exact, so is the page.
        notes: sentences below the headline.
        num_by_network: samples that the layers above confirm, each on its own.
        trials: of defences against this update, possibly none.
    """
    return render(
        "samples.html",
        headline=headline,
        is_whole=bool(shown.cards) and all(card.tone == "ok" for card in shown.cards),
        sentences=opening(record, trials),
        notes=notes,
        num_samples=len(shown.cards),
        shown=shown,
        threat_model=sections.threat_model(record),
        certification=sections.certification(record, num_by_network),
        noise=sections.noise(record),
        sweep=sweep(trials, how_to_try(record)),
        limits=sections.limits(record),
        tables=sections.facts(record),
    )
