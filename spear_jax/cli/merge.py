"""``spear-jax merge``: one reconstruction from the shards of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spear_jax.audit.path import is_whole
from spear_jax.audit.shards import merge_shards
from spear_jax.cli import options
from spear_jax.cli.output import EXIT_COMPLETE, EXIT_INCOMPLETE, SearchReporter, emit
from spear_jax.cli.reconstruct import tell


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
    with SearchReporter() as reporter:
        content = merge_shards(shards, out, update_file=update_file, on_round=reporter)
    emit(content, as_json, lambda: tell(content, out))
    raise typer.Exit(EXIT_COMPLETE if is_whole(content) else EXIT_INCOMPLETE)
