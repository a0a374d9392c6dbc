"""What a page says of the defences that were tried on its update, whatever family it is of."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spear_jax.defences.trials import TRIALS, Bound, Trial, bounds, read_trials
from spear_jax.report.values import DASH, number

# Of the table of trials, before what leaked at each strength.
HEADER = ("Defence", "Everything leaks up to", "Nothing leaks from")


def trials_of(folder: Path, record: Mapping[str, Any]) -> list[Trial]:
    """The trials of defences in a folder that are of the update of its record."""
    return [trial for trial in read_trials(folder / TRIALS) if trial.update_sha256 in (None, record["update_sha256"])]


def sweep(trials: Sequence[Trial], not_tried: str, noun: str = "samples") -> dict[str, Any]:
    """The section of a page: a sentence, and where there are trials their table and what could not be applied.

    Args:
        trials: of defences against this update, possibly none.
        not_tried: what to say where there are none.
        noun: of what is counted.

    Returns:
        ``said``, ``header``, ``rows`` and ``more``, as the templates' macro ``defences`` takes them.
    """
    return {
        "said": trial_sentence(trials, noun) if trials else not_tried,
        "header": (*HEADER, f"{noun.capitalize()} leaked"),
        "rows": trial_rows(trials),
        "more": not_applied(trials),
    }


def how_to_try(record: Mapping[str, Any], options: Sequence[str] = ()) -> str:
    """How to find out which of the defences would have stopped the attack, in a sentence."""
    update = record.get("update")
    words = ["spear-jax", "defend", update if isinstance(update, str) and update else "UPDATE", *options]
    return f"Not tried: {shlex.join(words)} --sweep --out FOLDER, then make this report of FOLDER again."


def trial_sentence(trials: Sequence[Trial], noun: str = "samples") -> str:
    """Which of the defences that were tried would have stopped the attack."""
    stopping = [_stopped(bound) for bound in bounds(trials) if bound.stops_all[0]]
    powerless = [bound.defence for bound in bounds(trials) if not bound.stops_all[0]]
    sentence = (
        f"The attack would have got nothing with {', '.join(stopping)}" if stopping else "No defence stops it all"
    )
    if stopping and powerless:
        sentence += f"; {', '.join(powerless)} stopped it all at no strength that was tried"
    size = max(trial.batch_size for trial in trials)
    budget = max((trial.max_seconds or 0 for trial in trials), default=0)
    within = f" within {number(budget)} seconds a trial" if budget else ""
    more = "a longer search or another attack" if budget else "another attack"
    return f"{sentence}. Of {size} {noun}, without ground truth{within}; {more} may get more."


def not_applied(trials: Sequence[Trial]) -> list[str]:
    """The defences that could not be applied, and why, a sentence each."""
    return [
        f"{trial.defence} could not be applied, and hides nothing: {trial.status}"
        for trial in trials
        if trial.relative_change is None and trial.status
    ]


def _stopped(bound: Bound) -> str:
    if not bound.parameter:
        return bound.defence
    side = "up to" if bound.is_falling else "from"
    return f"{bound.defence} ({bound.parameter} {side} {_strength(bound.stops_all[1])})"


def trial_rows(trials: Sequence[Trial]) -> list[tuple[str, ...]]:
    """Rows below `HEADER`, one a defence, its strengths from weak to strong, and what leaked at each."""
    cell = lambda found, strength: _strength(strength) if found else DASH
    rows = []
    for bound in bounds(trials):
        grid = [trial for trial in trials if trial.defence == bound.defence]
        by_strength = ", ".join(_leaked(trial) for trial in grid)
        name = bound.defence + (f" ({bound.parameter})" if bound.parameter else "")
        rows.append((name, cell(*bound.leaks_all), cell(*bound.stops_all), by_strength))
    return rows


def _leaked(trial: Trial) -> str:
    approximate = f" + {trial.approximate} approximate" if trial.approximate else ""
    beyond = (trial.recognisable or 0) - trial.certified - trial.approximate
    recognisable = f" + {beyond} recognisable" if beyond > 0 else ""
    strength = "" if trial.strength is None else f" at {trial.strength:g}"
    return f"{trial.certified}{approximate}{recognisable}{strength}"


def _strength(strength: float | None) -> str:
    return "always" if strength is None else f"{strength:g}"
