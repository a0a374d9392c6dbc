"""Defences against every update that was audited: a file of trials beside each record, which is gone on with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spear_jax.audit.sweep import sweep
from spear_jax.audit.text_sweep import text_sweep
from spear_jax.defences.trials import TRIALS, Trial, read_trials, write_trials
from spear_jax.errors import SpearError, SweepError
from spear_jax.tensor_files import make_folder
from spear_jax.update.bundle import Update
from spear_jax.update.text_update import TextUpdate

OnTrial = Callable[[Trial], None]
Read = Callable[[Path], Update | TextUpdate]


def sweep_into(
    folder: Path,
    update: Update | TextUpdate,
    *,
    seed: int = 0,
    max_seconds: float = 10.0,
    on_trial: OnTrial = lambda trial: None,
) -> list[Trial]:
    """Try every defence against an update, keeping the trials in a folder; those that it holds are not repeated.

    Args:
        folder: for the file of trials, which is whole after each.
        update: of dense layers, or of a language model.
        seed: of the defences' noise and of the searches.
        max_seconds: time budget of each search; of text there is none.
        on_trial: called with each new one.

    Raises:
        SweepError: the folder holds trials of another update, seed or budget.
        SpearError: the update cannot be inverted.
    """
    make_folder(folder)
    path = folder / TRIALS

    def kept(trials: list[Trial]) -> None:
        write_trials(path, trials)
        on_trial(trials[-1])

    done = read_trials(path)
    try:
        if isinstance(update, TextUpdate):
            return text_sweep(update, seed=seed, done=done, on_trial=kept)
        return sweep(update, seed=seed, max_seconds=max_seconds, done=done, on_trial=kept)
    except SweepError as error:
        raise SweepError(f"{path} cannot be gone on with: {error}") from error


def defend_each(
    places: Sequence[tuple[str, Path, Path]], read: Read, on_update: Callable[[str], OnTrial], **options: Any
) -> dict[str, str | None]:
    """Try every defence against each of many updates.

    Args:
        places: name, file and folder of each.
        read: the update of a file.
        on_update: called with a name before its trials; what it returns is called with each new one.
        options: of `sweep_into`.

    Returns:
        By name, None where the defences were tried, or the sentence that says why they were not.

    Raises:
        SweepError: a folder holds trials of another update, seed or budget.
    """
    tried: dict[str, str | None] = {}
    for name, file, folder in places:
        try:
            sweep_into(folder, read(file), on_trial=on_update(name), **options)
            tried[name] = None
        except SweepError:
            raise
        except SpearError as error:
            tried[name] = str(error)
    return tried
