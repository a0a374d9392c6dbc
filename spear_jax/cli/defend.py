"""``spear-jax defend``: a client's update after a defence, for audits of what the defence leaves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from spear_jax.bundle import UpdateError, load_update, save_update
from spear_jax.cli import options
from spear_jax.cli.output import emit, make_folder, table
from spear_jax.defences import DEFENCES, by_name
from spear_jax.descent import relative_change

HEADER = ("defence", "parameter", "meaning", "grid for a sweep")


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("defend")(defend)


def defend(
    update_file: Annotated[
        Path | None, typer.Argument(help="Update bundle, .safetensors or .npz.", metavar="UPDATE", show_default=False)
    ] = None,
    defence: Annotated[str | None, typer.Option(help="Name of the defence; --list prints them.")] = None,
    strength: Annotated[float | None, typer.Option(help="Its parameter, where it has one.")] = None,
    seed: options.Seed = 0,
    out: Annotated[Path, typer.Option(help="Update bundle to write.")] = Path("defended.safetensors"),
    list_them: Annotated[bool, typer.Option("--list", help="Print the defences and their parameters.")] = False,
    as_json: options.Json = False,
) -> None:
    """Change an update as a defence would.

    As the client would do before sending it.

    For audits: the noise of a seed that is known protects nobody. Defences add up when applied one after the other.
    """
    if list_them:
        rows = [_row(name) for name in DEFENCES]
        emit({"defences": rows}, as_json, lambda: _tell_table(rows))
        return
    if update_file is None or defence is None:
        missing = "an update" if update_file is None else "--defence"
        raise UpdateError(f"{missing} is missing: spear-jax defend UPDATE --defence NAME; --list prints the names.")
    chosen = by_name(defence)
    if out.resolve() == update_file.resolve():
        raise UpdateError(f"--out is {out}, the update itself; give another file.")
    make_folder(out.parent)
    update = load_update(update_file)
    defended = chosen(update, strength, jax.random.key(seed))
    save_update(defended, out)
    record: dict[str, Any] = {
        "update": str(update_file),
        "out": str(out),
        "name": defence,
        "strength": strength,
        "seed": seed,
        "defence": defended.metadata["defence"],
        "relative_change": relative_change(update, defended),
        "sha256": defended.sha256,
    }
    sentence = f"{out}: {record['defence']}, which changed the update by {record['relative_change']:.2g} of its norm."
    emit(record, as_json, lambda: typer.echo(sentence))


def _row(name: str) -> dict[str, Any]:
    row = dataclasses.asdict(DEFENCES[name])
    del row["function"]
    return row


def _tell_table(rows: list[dict[str, Any]]) -> None:
    grid = lambda row: " ".join(f"{strength:g}" for strength in row["grid"] if strength is not None)
    cells = [(row["name"], row["parameter"] or "-", row["meaning"], grid(row) or "-") for row in rows]
    table(cells, header=HEADER)
