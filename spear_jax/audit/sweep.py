"""Every defence at every strength against one update: what each would have stopped, without ground truth.

A trial is the update after one defence at one strength, reconstructed within a time budget. The file of trials is
written after each, so that a sweep that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.config import ReconstructConfig
from spear_jax.defences import DEFENCES, Defence
from spear_jax.defences.alter import relative_change
from spear_jax.factorization import factorize
from spear_jax.tensor_files import atomic_path
from spear_jax.types import Result
from spear_jax.update.bundle import Update, UpdateError

TRIALS = "defences.json"
# A grid ends after this many strengths in a row that left nothing: stronger ones leave no more.
ENOUGH = 2


class SweepError(ValueError):
    """A file of trials that cannot be gone on with; the message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One defence at one strength, and what the attack still got; the fields with defaults say where that is from.

    Attributes:
        defence: name in `DEFENCES`.
        parameter: name of the strength, empty where there is none.
        strength: the parameter; None where there is none.
        certified: samples certified exact.
        approximate: samples certified with a larger expected error.
        recovered: samples that a comparison with the truth calls recovered; None where no truth was at hand.
        batch_size: rank of the gradient before the defence, the batch size as the server would see it.
        status: how the reconstruction ended, or the sentence by which the update was refused.
        relative_change: norm of what the defence changed over the norm of the update.
        update_sha256: of the update before the defence.
        layer: that was inverted.
        seed: of the defence's noise and of the search.
        max_seconds: time budget of the search.
    """

    defence: str
    parameter: str
    strength: float | None
    certified: int
    approximate: int
    recovered: int | None
    batch_size: int
    status: str | None = None
    relative_change: float | None = None
    update_sha256: str | None = None
    layer: str | None = None
    seed: int | None = None
    max_seconds: float | None = None

    @property
    def leaked(self) -> int:
        """Samples that the attack got, exactly or approximately."""
        return self.certified + self.approximate

    @property
    def run(self) -> tuple[str | None, str | None, int | None, float | None]:
        """What the trials of one sweep have in common."""
        return self.update_sha256, self.layer, self.seed, self.max_seconds


class Verdict(NamedTuple):
    """What a sweep says of one defence.

    Attributes:
        defence: its name.
        parameter: name of the strength, empty where there is none.
        leaks_all: the last strength of the grid at which everything still leaked, and whether there is one: a defence
            without parameter has the strength None.
        stops_all: the first strength from which on nothing leaked, and whether there is one.
        is_falling: whether smaller strengths are the stronger ones.
    """

    defence: str
    parameter: str
    leaks_all: tuple[bool, float | None]
    stops_all: tuple[bool, float | None]
    is_falling: bool


def sweep(
    update: Update,
    *,
    seed: int = 0,
    max_seconds: float = 10.0,
    defences: Iterable[Defence] = tuple(DEFENCES.values()),
    done: Sequence[Trial] = (),
    on_trial: Callable[[list[Trial]], None] = lambda trials: None,
) -> list[Trial]:
    """Try every defence, from its weakest strength on, against the reconstruction of the first layer.

    Args:
        update: any kind, as the client would have sent it without a defence.
        seed: of the defences' noise and of the searches.
        max_seconds: time budget of each search.
        defences: rows of the table.
        done: trials of an earlier run, which are not repeated.
        on_trial: called with all trials so far after each new one.

    Returns:
        The trials, those of ``done`` first; a defence's grid ends once `ENOUGH` strengths in a row left nothing.

    Raises:
        UpdateError: the update has no layer that can be inverted, or a defence cannot be applied to it.
        SweepError: ``done`` belongs to another update, seed or budget.
        ValueError: a budget that is not positive.
    """
    config = ReconstructConfig(max_seconds=max_seconds)
    layer = update.layer().name
    observation = update.observation(layer)
    rank = factorize(observation.weight_grad, rounding=observation.rounding).rank
    run = (update.sha256, layer, seed, max_seconds)
    if any(trial.run != run for trial in done):
        raise SweepError("its trials are of another update, seed or --max-seconds; repeat those or give another --out.")
    trials = list(done)
    for defence in defences:
        of_defence: list[Trial] = []
        for strength in defence.grid:
            known = [t for t in trials if (t.defence, t.strength) == (defence.name, strength)]
            trial = known[0] if known else _try(update, defence, strength, rank, run, config)
            of_defence.append(trial)
            if not known:
                trials.append(trial)
                on_trial(trials)
            if len(of_defence) >= ENOUGH and not any(trial.leaked for trial in of_defence[-ENOUGH:]):
                break
    return trials


def _try(
    update: Update,
    defence: Defence,
    strength: float | None,
    rank: int,
    run: tuple[str, str, int, float],
    config: ReconstructConfig,
) -> Trial:
    sha256, layer, seed, max_seconds = run
    defend_key, search_key = jax.random.split(jax.random.key(seed))
    defended = defence(update, strength, defend_key)
    result = _attack(defended, layer, search_key, config)
    return Trial(
        defence=defence.name,
        parameter=defence.parameter,
        strength=strength,
        certified=0 if isinstance(result, str) else int(result.certificate.exact.sum()),
        approximate=0 if isinstance(result, str) else int(result.certificate.approximate.sum()),
        recovered=None,
        batch_size=rank,
        status=result if isinstance(result, str) else result.status.name,
        relative_change=relative_change(update, defended),
        update_sha256=sha256,
        layer=layer,
        seed=seed,
        max_seconds=max_seconds,
    )


def _attack(update: Update, layer: str, key: jax.Array, config: ReconstructConfig) -> Result | str:
    """The reconstruction, or why the update cannot be read: withheld biases are a defence like any other."""
    try:
        observation = update.observation(layer)
    except UpdateError as error:
        return str(error)
    above, next_weight_grad = update.network(layer), update.next_weight_grad(layer)
    return reconstruct(observation, key, config, model=above, next_weight_grad=next_weight_grad)


def verdicts(trials: Iterable[Trial]) -> list[Verdict]:
    """What the trials say of each defence, in their order."""
    by_defence: dict[str, list[Trial]] = {}
    for trial in trials:
        by_defence.setdefault(trial.defence, []).append(trial)
    return [_verdict(grid) for grid in by_defence.values()]


def _verdict(grid: Sequence[Trial]) -> Verdict:
    """Of the trials of one defence, from weak to strong."""
    all_leaked = [trial.strength for trial in grid if trial.leaked >= trial.batch_size]
    last_leak = max((place for place, trial in enumerate(grid) if trial.leaked), default=-1)
    first, last = grid[0].strength, grid[-1].strength
    stopped = [trial.strength for trial in grid[last_leak + 1 :]]
    return Verdict(
        defence=grid[0].defence,
        parameter=grid[0].parameter,
        leaks_all=(bool(all_leaked), all_leaked[-1] if all_leaked else None),
        stops_all=(bool(stopped), stopped[0] if stopped else None),
        is_falling=first is not None and last is not None and last < first,
    )


def write_trials(path: str | os.PathLike[str], trials: Iterable[Trial]) -> None:
    """Write the trials as a JSON list, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps([dataclasses.asdict(trial) for trial in trials], indent=2) + "\n")


def read_trials(path: str | os.PathLike[str]) -> list[Trial]:
    """Read what `write_trials` wrote; an empty list where there is no file.

    Raises:
        SweepError: the file is damaged.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        return [_trial(entry) for entry in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise SweepError(f"{path} holds no trials of a sweep ({error}); delete it or give another --out.") from error


def _trial(entry: Mapping[str, Any]) -> Trial:
    trial = Trial(**entry)
    counts = (trial.certified, trial.approximate, trial.batch_size)
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError(f"{trial.defence} leaked {counts}; expected counts")
    return trial
