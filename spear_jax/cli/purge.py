"""``spear-jax purge``: what was recovered is removed, and the record of it stays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from spear_jax.audit.purge import find_recovered
from spear_jax.audit.purge import purge as remove
from spear_jax.cli.output import emit
from spear_jax.errors import SpearError


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("purge")(purge)


def purge(
    folder: Annotated[Path, typer.Argument(help="Folder that spear-jax audit or reconstruct wrote.", metavar="FOLDER")],
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; needs --yes.")] = False,
) -> None:
    """Remove what was recovered below a folder.

    Inputs, states, texts, pages and pictures, and the update that audit made of two model files; records stay with
    counts, certificates and cost. Updates that were recorded are not touched.
    """
    found = find_recovered(folder)
    content = {
        "folder": str(folder),
        "removed": [str(file) for file in found.files],
        "records": [str(file) for file in found.records],
    }
    if not found.files and not found.records:
        emit(content, as_json, lambda: typer.echo(f"{folder} holds nothing that was recovered; nothing was removed."))
        return
    _ask(content, is_sure=is_sure, as_json=as_json)
    remove(found)
    emit(content, as_json, lambda: _tell(content))


def _ask(content: dict[str, Any], *, is_sure: bool, as_json: bool) -> None:
    """Go on only where a person agrees, or did with ``--yes``."""
    if is_sure:
        return
    if as_json or not sys.stdin.isatty():
        raise SpearError("purge removes files and nobody can be asked here; give --yes.")
    for file in content["removed"]:
        typer.echo(f"  {file}")
    many = f"{len(content['removed'])} files, and what {len(content['records'])} records hold of them"
    if not typer.confirm(f"Remove {many}?"):
        raise SpearError("nothing was removed.")


def _tell(content: dict[str, Any]) -> None:
    for file in content["removed"]:
        typer.echo(f"removed: {file}")
    for file in content["records"]:
        typer.echo(f"kept without what was recovered: {file}")
