"""One reconstruction from the shards of a search that several machines drew, each its own rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from spear_jax.audit import record, resume
from spear_jax.audit.one import OnRound, Options, Source, audit_one, what_is_above
from spear_jax.config import ReconstructConfig
from spear_jax.errors import CheckpointError
from spear_jax.update.bundle_file import load_update

# Of the shards' options, those that decide what they found; devices and budgets are this machine's own.
CHOSEN = ("method", "rank", "num_examples", "sampler", "round_size", "activation")


def merge_shards(
    shards: Sequence[Path], out: Path, *, update_file: Path | None = None, on_round: OnRound | None = None
) -> dict[str, Any]:
    """Pool the directions that shards found, select, reconstruct and certify; nothing new is drawn.

    Args:
        shards: folders that ``spear-jax reconstruct --shard i/N`` wrote.
        out: folder to write.
        update_file: the update bundle, where it moved since the shards ran.
        on_round: called after each round, of which the dictionary method may have some left.

    Returns:
        The record, as written.

    Raises:
        CheckpointError: shards of different searches, one given twice, or an update that is not there.
        RecordError: a folder without a finished reconstruction.
    """
    if out.resolve() in [shard.resolve() for shard in shards]:
        raise CheckpointError(f"--out {out} is one of the shards; give another folder.")
    first = record.read_reconstruction(shards[0]).record
    path = Path(first["update"]) if update_file is None else update_file
    if update_file is None and not path.exists():
        raise CheckpointError(f"{path}, the update of {shards[0]}, is not there; say where by --update.")
    update = load_update(path, layout=first.get("layout"))
    config = ReconstructConfig(**{name: first["config"][name] for name in CHOSEN if name in first["config"]})
    layer = first["layer"]
    belongs_to = resume.identity(
        update.observation(layer),
        jax.random.key(first["seed"]),
        config,
        **what_is_above(update, layer),
    )
    state = resume.merge_states([shard / record.STATE for shard in shards], belongs_to)
    # A spent budget: what the shards found is judged, nothing new is drawn.
    spent = dataclasses.replace(config, max_candidates=max(state.candidates, 1))
    return audit_one(
        Source(update, path), out, Options(spent, layer, seed=first["seed"]), start=state, on_round=on_round
    )
