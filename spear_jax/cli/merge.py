"""``spear-jax merge``: one reconstruction from the shards of a search."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import jax
import typer

from spear_jax import checkpoint, record
from spear_jax.bundle import load_update
from spear_jax.cli import options
from spear_jax.cli.output import EXIT_COMPLETE, EXIT_INCOMPLETE, emit
from spear_jax.cli.reconstruct import run, tell
from spear_jax.config import ReconstructConfig


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("merge")(merge)


def merge(
    shards: Annotated[
        list[Path], typer.Argument(help="Folders that reconstruct --shard i/N wrote.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("recon"),
    update_file: Annotated[
        Path | None, typer.Option("--update", help="The update bundle, where it moved since the shards ran.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Pool the directions that the shards of one search found, select, reconstruct and certify; draws nothing."""
    if out in shards:
        raise checkpoint.CheckpointError(f"--out {out} is one of the shards; give another folder.")
    first = record.read_reconstruction(shards[0]).record
    path = Path(first["update"]) if update_file is None else update_file
    update = load_update(path)
    fields = {field.name for field in dataclasses.fields(ReconstructConfig)}
    config = ReconstructConfig(**{name: value for name, value in first["config"].items() if name in fields - {"shard"}})
    observation = update.observation(first["layer"])
    key = jax.random.key(first["seed"])
    state = checkpoint.merge_states(
        [shard / record.STATE for shard in shards], checkpoint.identity(observation, key, config)
    )
    # A spent budget: what the shards found is judged, nothing new is drawn.
    spent = dataclasses.replace(config, max_candidates=max(state.candidates, 1))
    result, content = run(update, path, out, spent, layer=first["layer"], seed=first["seed"], start=state)
    emit(content, as_json, lambda: tell(content, out))
    raise typer.Exit(EXIT_COMPLETE if result.status.is_complete else EXIT_INCOMPLETE)
