"""``spear-jax defend``: a client's update after a defence, or a sweep over all of them, for audits."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from spear_jax.audit.defended import sweep_into
from spear_jax.audit.text_one import Returned, read_returned, read_sent
from spear_jax.cli import options
from spear_jax.cli.family import refuse_others, require_family
from spear_jax.cli.output import emit, table
from spear_jax.defences import DEFENCES, by_name
from spear_jax.defences.alter import relative_change
from spear_jax.defences.trials import TRIALS, Trial, bounds, read_trials
from spear_jax.errors import UpdateError
from spear_jax.tensor_files import make_folder
from spear_jax.update.bundle import Update
from spear_jax.update.bundle_file import load_update, save_update
from spear_jax.update.text_file import save_text_update
from spear_jax.update.text_update import TextUpdate

# What goes with --model.
TEXT = (
    "update_file", "model", "adapter", "kind", "lr", "defence", "strength", "seed", "out", "is_sweep", "list_them",
    "as_json",
)  # fmt: skip
DEFENDED, SWEPT, MAX_SECONDS = Path("defended.safetensors"), Path("recon"), 10.0
HEADER = ("defence", "parameter", "meaning", "grid for a sweep")


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("defend")(defend)


def defend(
    context: options.Context,
    update_file: Annotated[
        Path | None,
        typer.Argument(
            help="Update bundle, .safetensors or .npz; with --model tensors alone or PEFT's folder too.",
            metavar="UPDATE",
            show_default=False,
        ),
    ] = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    kind: options.ReturnedKind = None,
    lr: options.ReturnedRate = None,
    defence: Annotated[str | None, typer.Option(help="Name of the defence; --list prints them.")] = None,
    strength: Annotated[float | None, typer.Option(help="Its parameter, where it has one.")] = None,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(help=f"Update bundle to write, {DEFENDED} by default; with --sweep a folder, {SWEPT} by default."),
    ] = None,
    is_sweep: Annotated[
        bool, typer.Option("--sweep", help=f"Try every defence at every strength; writes {TRIALS}, resumable.")
    ] = False,
    max_seconds: Annotated[
        float | None, typer.Option(help=f"Time budget of each search of --sweep, {MAX_SECONDS:g} by default.")
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="Print the defences and their parameters.")] = False,
    as_json: options.Json = False,
) -> None:
    """Change an update as a defence would.

    As the client would do before sending it.

    With --sweep: every defence at every strength of its grid, and what the attack still gets from the first layer, or
    with --model of the text. For audits: the noise of a seed that is known protects nobody. Defences add up when
    applied one after the other.
    """
    if model is not None:
        refuse_others(context, TEXT, "--model")
    else:
        require_family(context, ("adapter", "kind", "lr"))
    read = lambda path: (
        load_update(path) if model is None else read_returned(path, read_sent(model, adapter), Returned(kind, lr))
    )
    if list_them:
        rows = [_row(name) for name in DEFENCES]
        emit({"defences": rows}, as_json, lambda: _tell_table(rows))
        return
    if is_sweep:
        if update_file is None or defence is not None or strength is not None:
            raise UpdateError(
                "--sweep tries every defence of one update: spear-jax defend UPDATE --sweep --out FOLDER."
            )
        budget = MAX_SECONDS if max_seconds is None else max_seconds
        if not 0 < budget < math.inf:
            raise UpdateError(f"--max-seconds is {budget}; expected a positive number.")
        run_sweep(update_file, read(update_file), out or SWEPT, seed, budget, as_json=as_json)
        return
    if max_seconds is not None:
        raise UpdateError("--max-seconds goes with --sweep; a single defence is applied without a search.")
    out = out or DEFENDED
    if update_file is None or defence is None:
        missing = "an update" if update_file is None else "--defence"
        raise UpdateError(f"{missing} is missing: spear-jax defend UPDATE --defence NAME; --list prints the names.")
    chosen = by_name(defence)
    if out.resolve() == update_file.resolve():
        raise UpdateError(f"--out is {out}, the update itself; give another file.")
    make_folder(out.parent)
    update: Any = read(update_file)  # of either family, and its defence too
    defended = chosen(update, strength, jax.random.key(seed))
    save_text_update(defended, out) if isinstance(defended, TextUpdate) else save_update(defended, out)
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


def run_sweep(
    update_file: Path, update: Update | TextUpdate, folder: Path, seed: int, max_seconds: float, *, as_json: bool
) -> None:
    """Try every defence, keep the trials in the folder, and say what each defence takes."""
    path = folder / TRIALS
    if done := read_trials(path):
        typer.echo(f"{path} holds {len(done)} trials, which are not repeated.", err=True)
    if isinstance(update, TextUpdate):
        typer.echo("Each trial is a reconstruction; the first one is without a defence ...", err=True)
    tell = lambda trial: typer.echo(_progress(trial), err=True)
    trials = sweep_into(folder, update, seed=seed, max_seconds=max_seconds, on_trial=tell)
    record = {"update": str(update_file), "out": str(path), "trials": [dataclasses.asdict(trial) for trial in trials]}
    emit(record, as_json, lambda: _tell_sweep(trials, path))


def _progress(trial: Trial) -> str:
    name = trial.defence if trial.strength is None else f"{trial.defence}({trial.parameter}={trial.strength:g})"
    beside = f"{trial.approximate} approximate" if trial.max_seconds is not None else f"{trial.leaked} recognisable"
    return f"{name}: {trial.certified} of {trial.batch_size} certified, {beside}"


def _tell_sweep(trials: list[Trial], path: Path) -> None:
    cell = lambda bound: ("yes" if bound[1] is None else f"{bound[1]:g}") if bound[0] else "-"
    rows = [(v.defence, v.parameter or "-", cell(v.leaks_all), cell(v.stops_all)) for v in bounds(trials)]
    table(rows, header=("defence", "parameter", "everything leaks up to", "nothing leaks from"))
    typer.echo(f"Written to {path}; spear-jax report {path.parent} puts it on the page of a reconstruction there.")


def _row(name: str) -> dict[str, Any]:
    row = dataclasses.asdict(DEFENCES[name])
    del row["function"]
    return row


def _tell_table(rows: list[dict[str, Any]]) -> None:
    grid = lambda row: " ".join(f"{strength:g}" for strength in row["grid"] if strength is not None)
    cells = [(row["name"], row["parameter"] or "-", row["meaning"], grid(row) or "-") for row in rows]
    table(cells, header=HEADER)
