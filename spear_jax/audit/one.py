"""One update into a folder: its arrays, its record, and the state of a search that goes on where it was stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from spear_jax.attacks.dense.copies import count_copies
from spear_jax.attacks.dense.outcome import Progress, SearchState
from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.audit import record, resume
from spear_jax.audit.diagnose import why_not
from spear_jax.audit.record import Audited
from spear_jax.config import ReconstructConfig
from spear_jax.errors import CheckpointError
from spear_jax.tensor_files import make_folder
from spear_jax.types import Result
from spear_jax.update.bundle import Update

OnRound = Callable[[Progress], None]


class Options(NamedTuple):
    """What holds for every update of an audit.

    Attributes:
        config: of the reconstruction.
        layer: name of the layer to invert; None for the first.
        layout: ``"in_out"`` or ``"out_in"``, how kernels lie; None where the bias decides.
        seed: of the search's key.
        resume: whether to go on from the state in the folder, if there is one, and to keep what is finished.
        fresh: whether to discard an unfinished search in the folder.
    """

    config: ReconstructConfig = ReconstructConfig()
    layer: str | None = None
    layout: str | None = None
    seed: int = 0
    resume: bool = False
    fresh: bool = False


class Source(NamedTuple):
    """An update and the file that it was read from."""

    update: Update
    path: Path


def audit_one(
    source: Source,
    out: Path,
    options: Options,
    *,
    start: SearchState | None = None,
    on_round: OnRound | None = None,
) -> dict[str, Any]:
    """Reconstruct one layer of an update into a folder; the state is saved after every round.

    Args:
        source: the update.
        out: folder for state, arrays and record.
        options: of the audit; ``config`` is taken as it is.
        start: state to start from instead of the folder's.
        on_round: called after each round, on the first process.

    Returns:
        The record, as written.

    Raises:
        CheckpointError: the folder holds an unfinished search and neither resume nor fresh was asked for, or a state of
            something else.
    """
    update, config = source.update, options.config
    layer = update.layer(options.layer)
    observation, key = update.observation(layer.name), jax.random.key(options.seed)
    above = what_is_above(update, layer.name)
    config = with_activation(config, update, layer.name)
    saved = _Saved(out / record.STATE, resume.identity(observation, key, config, **above), on_round)
    start = saved.taken_up(options) if start is None else start
    make_folder(out)
    result = reconstruct(observation, key, config, **above, state=start, on_round=saved)
    audited = Audited(update, layer, source.path, config, options.seed)
    content = record.make_record(result, audited, _copies(result, audited), why_not(update, layer, result))
    if jax.process_index() == 0:
        # What was made of an earlier reconstruction in this folder is no longer true of it.
        for stale in record.DERIVED:
            (out / stale).unlink(missing_ok=True)
        record.write_reconstruction(out, result, content)
        saved.finish(start)
    return content


def with_activation(config: ReconstructConfig, update: Update, layer_name: str | None) -> ReconstructConfig:
    """The configuration with the activation that the update names behind a layer, where none was asked for."""
    told = config.activation or update.activation_behind(layer_name)
    return dataclasses.replace(config, activation=told)


def what_is_above(update: Update, layer_name: str | None) -> dict[str, Any]:
    """What an update says of the layers above one layer, as arguments of `reconstruct`."""
    return {
        "model": update.network(layer_name),
        "next_weight_grad": update.next_weight_grad(layer_name),
        "layers_above": update.layers_above(layer_name),
    }


class _Saved:
    """The state of a search on disk, replaced after each round, on the first process."""

    def __init__(self, path: Path, belongs_to: dict[str, str], on_round: OnRound | None) -> None:
        self._path, self._belongs_to, self._on_round = path, belongs_to, on_round
        self._last: SearchState | None = None

    def __call__(self, progress: Progress) -> None:
        """Save the state of a round, then tell who asked."""
        self._last = progress.state
        if jax.process_index() == 0:
            resume.save_state(self._path, progress.state, self._belongs_to, finished=False)
            if self._on_round is not None:
                self._on_round(progress)

    def taken_up(self, options: Options) -> SearchState | None:
        """The state to go on with, None for the start."""
        if options.resume and self._path.exists():
            return resume.load_state(self._path, self._belongs_to)
        if not options.fresh and resume.is_unfinished(self._path):
            raise CheckpointError(
                f"{self._path.parent} holds an unfinished search; pass --resume to go on with it, or --fresh to "
                "discard it."
            )
        return None

    def finish(self, start: SearchState | None) -> None:
        """Say that the search ended, with the last state there was."""
        state = self._last or start
        if state is not None:
            resume.save_state(self._path, state, self._belongs_to, finished=True)


def _copies(result: Result, audited: Audited) -> list[int | None] | None:
    """How often each input was in the batch, None where that is not certain; only asked where the client reported more.

    A batch of as many samples as directions has no copies, and in a large model counting them takes long. The client's
    loss is a mean over the samples that it reported, or their sum: whichever counts that many.
    """
    update, layer, num_examples = audited.update, audited.layer.name, audited.config.num_examples
    network, is_whole = update.network(layer), bool(np.isfinite(result.inputs).all())
    if network is None or update.local_steps > 1 or num_examples is None or not is_whole:
        return None
    if num_examples <= result.batch_size:
        return None
    counted = result.certificate.mean_of
    if counted.all() and _adds_up(counted, num_examples):
        return counted.tolist()
    for divisor in (num_examples, 1, None):
        copies = count_copies(update.observation(layer), network, result, batch_size=divisor)
        counts = np.where(copies.is_certain, copies.counts.sum(axis=1), 0)
        if copies.is_certain.any() and _adds_up(counts, num_examples):
            return [int(count) or None for count in counts]
    return [None for _ in range(result.batch_size)]


def _adds_up(counts: np.ndarray, total: int) -> bool:
    """Whether counts, 0 where one is not known, can be those of so many samples: unknown ones count at least one."""
    least = int(counts.sum() + np.sum(counts == 0))
    return least == total if counts.all() else least <= total
