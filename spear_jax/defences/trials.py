"""Trials of defences against one update, what they say of each, and the file that holds them.

Nothing here runs an attack: a report reads trials that a sweep wrote.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spear_jax.errors import SpearError, SweepError
from spear_jax.tensor_files import atomic_path

TRIALS = "defences.json"


class Run(NamedTuple):
    """What the trials of one sweep have in common, as the fields of `Trial` say."""

    update_sha256: str | None
    layer: str | None
    seed: int | None
    max_seconds: float | None


@dataclasses.dataclass(frozen=True)
class Trial:
    """One defence at one strength, and what the attack still got; the fields with defaults say where that is from.

    Attributes:
        defence: name in `DEFENCES`.
        parameter: name of the strength, empty where there is none.
        strength: the parameter; None where there is none.
        certified: samples certified exact; of text, sequences.
        approximate: samples certified with a larger expected error; of text none is.
        recognisable: samples certified without the defence that the attack still shows, certified or not, with an error
            below a tenth of the inputs' range (20 dB), of text as `spear_jax.audit.text_sweep.recognisable` says; None
            where nothing was certified without the defence.
        batch_size: rank of the gradient before the defence, the batch size as the server would see it; of text the
            sequences that are certified without the defence.
        status: how the reconstruction ended, or the sentence by which the update was refused, or by which the defence
            was, which then hides nothing.
        relative_change: norm of what the defence changed over the norm of the update; None where the defence could not
            be applied.
        update_sha256: of the update before the defence.
        layer: that was inverted; None of text.
        seed: of the defence's noise and of the search.
        max_seconds: time budget of the search; None of text, which is not searched at random.
    """

    defence: str
    parameter: str
    strength: float | None
    certified: int
    approximate: int
    recognisable: int | None
    batch_size: int
    status: str | None = None
    relative_change: float | None = None
    update_sha256: str | None = None
    layer: str | None = None
    seed: int | None = None
    max_seconds: float | None = None

    @property
    def leaked(self) -> int:
        """Samples that the attack got: exactly, with an error bar, or so that one would know them again."""
        return max(self.certified + self.approximate, self.recognisable or 0)

    @property
    def run(self) -> Run:
        """What the trials of one sweep have in common."""
        return Run(self.update_sha256, self.layer, self.seed, self.max_seconds)


class Bound(NamedTuple):
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


def bounds(trials: Iterable[Trial]) -> list[Bound]:
    """What the trials say of each defence, in their order."""
    by_defence: dict[str, list[Trial]] = {}
    for trial in trials:
        by_defence.setdefault(trial.defence, []).append(trial)
    return [_bound(grid) for grid in by_defence.values()]


def _bound(grid: Sequence[Trial]) -> Bound:
    """Of the trials of one defence, from weak to strong."""
    all_leaked = [trial.strength for trial in grid if trial.leaked >= trial.batch_size]
    last_leak = max((place for place, trial in enumerate(grid) if trial.leaked), default=-1)
    first, last = grid[0].strength, grid[-1].strength
    stopped = [trial.strength for trial in grid[last_leak + 1 :]]
    return Bound(
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
    known: dict[str, Any] = {"recognisable": None} | {key: it for key, it in entry.items() if key != "recovered"}
    trial = Trial(**known)
    counts = (trial.certified, trial.approximate, trial.batch_size)
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise SpearError(f"{trial.defence} leaked {counts}; expected counts")
    return trial
