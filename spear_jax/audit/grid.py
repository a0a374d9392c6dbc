"""The loop over a table of defences, each from its weakest strength on, which every family's sweep runs.

The caller keeps the trials after each, so that a sweep that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from spear_jax.defences import Defence
from spear_jax.defences.trials import Run, Trial
from spear_jax.errors import SweepError

# A grid ends after this many strengths in a row that left nothing: stronger ones leave no more.
ENOUGH = 2


class Target(NamedTuple):
    """What a family's sweep tries defences on.

    Attributes:
        run: what all its trials have in common, as `Trial.run` says.
        attempt: one trial, of a defence at a strength.
    """

    run: Run
    attempt: Callable[[Defence, float | None], Trial]


def try_each(
    target: Target,
    defences: Iterable[Defence],
    done: Sequence[Trial] = (),
    on_trial: Callable[[list[Trial]], None] = lambda trials: None,
) -> list[Trial]:
    """Try every defence at the strengths of its grid, until `ENOUGH` in a row left nothing.

    Args:
        target: what they are tried on.
        defences: rows of the table.
        done: trials of an earlier run, which are not repeated.
        on_trial: called with all trials so far after each new one.

    Returns:
        The trials, those of ``done`` first.

    Raises:
        SweepError: ``done`` belongs to another update, seed or budget.
    """
    if any(trial.run != target.run for trial in done):
        of = "update, seed or --max-seconds" if target.run.max_seconds is not None else "update or seed"
        raise SweepError(f"its trials are of another {of}; repeat those or give another --out.")
    trials = list(done)
    for defence in defences:
        of_defence: list[Trial] = []
        for strength in defence.grid:
            known = [t for t in trials if (t.defence, t.strength) == (defence.name, strength)]
            trial = known[0] if known else target.attempt(defence, strength)
            of_defence.append(trial)
            if not known:
                trials.append(trial)
                on_trial(trials)
            if len(of_defence) >= ENOUGH and not any(trial.leaked for trial in of_defence[-ENOUGH:]):
                break
    return trials
