"""``spear-jax report``: a page and a contact sheet of a reconstruction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spear_jax import record
from spear_jax.cli import options
from spear_jax.cli.evaluate import score
from spear_jax.cli.output import emit, make_folder
from spear_jax.report import write_report
from spear_jax.sweep import TRIALS, Trial, read_trials
from spear_jax.tables import column_names
from spear_jax.truth import Truth as TruthFile


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("report")(report)


def report(
    folder: options.Folder,
    truth: options.Truth = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for index.html and contact.png; the same by default.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Make a page of a reconstruction.

    index.html says what leaked, how sure that is, what it cost and which defence stops it; contact.png shows it.
    """
    index, contact = make_report(folder, truth, out)
    content = {"page": str(index), "contact_sheet": None if contact is None else str(contact)}
    emit(content, as_json, lambda: typer.echo("Written: " + ", ".join(str(p) for p in (index, contact) if p)))


def make_report(folder: Path, truth: Path | None, out: Path | None = None) -> tuple[Path, Path | None]:
    """Report of a reconstruction folder, beside the originals where a truth is given."""
    found = record.read_reconstruction(folder)
    make_folder(folder if out is None else out)
    private = None if truth is None else TruthFile.load(truth)
    evaluation = None if private is None else score(found, private).to_json()
    is_image = found.image_shape is not None
    return write_report(
        folder if out is None else out,
        found.record,
        found.inputs,
        found.exact,
        found.matching,
        approximate=found.approximate,
        error=found.error,
        labels=found.labels,
        trials=_trials(folder, found.record),
        normalization=found.normalization,
        image_shape=found.image_shape,
        columns=column_names(private.columns) if private is not None and private.columns else None,
        truth_images=private.images if private is not None and is_image else None,
        evaluation_json=evaluation,
    )


def _trials(folder: Path, content: dict[str, Any]) -> list[Trial]:
    """The trials of defences in the folder that are of this update."""
    return [trial for trial in read_trials(folder / TRIALS) if trial.update_sha256 in (None, content["update_sha256"])]
