"""``spear-jax merge``: one reconstruction from the shards of a search."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import jax
import typer

from spear_jax.audit import record, resume
from spear_jax.cli import options
from spear_jax.cli.output import EXIT_COMPLETE, EXIT_INCOMPLETE, emit
from spear_jax.cli.reconstruct import run, tell
from spear_jax.config import ReconstructConfig
from spear_jax.update.bundle import load_update

# Of the shards' options, those that decide what they found; devices and budgets are this machine's own.
CHOSEN = ("method", "rank", "num_examples", "sampler", "round_size")


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("merge")(merge)


def merge(
    shards: Annotated[
        list[Path],
        typer.Argument(help="Folders that reconstruct --shard i/N wrote.", metavar="FOLDERS", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("recon"),
    update_file: Annotated[
        Path | None, typer.Option("--update", help="The update bundle, where it moved since the shards ran.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Make one reconstruction of the shards of a search.

    Pools the directions that they found, selects, reconstructs and certifies; nothing new is drawn.
    """
    if out.resolve() in [shard.resolve() for shard in shards]:
        raise resume.CheckpointError(f"--out {out} is one of the shards; give another folder.")
    first = record.read_reconstruction(shards[0]).record
    path = Path(first["update"]) if update_file is None else update_file
    if update_file is None and not path.exists():
        raise resume.CheckpointError(f"{path}, the update of {shards[0]}, is not there; say where by --update.")
    update = load_update(path, layout=first.get("layout"))
    config = ReconstructConfig(**{name: first["config"][name] for name in CHOSEN})
    observation = update.observation(first["layer"])
    key = jax.random.key(first["seed"])
    state = resume.merge_states([shard / record.STATE for shard in shards], resume.identity(observation, key, config))
    # A spent budget: what the shards found is judged, nothing new is drawn.
    spent = dataclasses.replace(config, max_candidates=max(state.candidates, 1))
    result, content = run(update, path, out, spent, layer=first["layer"], seed=first["seed"], start=state)
    emit(content, as_json, lambda: tell(content, out))
    raise typer.Exit(EXIT_COMPLETE if result.status.is_complete else EXIT_INCOMPLETE)
