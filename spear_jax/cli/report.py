"""``spear-jax report``: a page and a contact sheet of a reconstruction, or of each of many with a page over them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spear_jax.audit import record
from spear_jax.audit.folder import SUMMARY
from spear_jax.cli import options
from spear_jax.cli.output import emit
from spear_jax.errors import SpearError
from spear_jax.report.folder import make_report, make_reports
from spear_jax.report.redacted import make_redacted_report, make_redacted_reports


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("report")(report)


def report(
    folder: options.Folder,
    truth: options.Truth = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for index.html and contact.png; the same by default.")
    ] = None,
    redact: Annotated[
        bool,
        typer.Option("--redact", help="A page to pass on: counts and certificates, nothing recovered; needs --out."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Make a page of a reconstruction.

    index.html says what leaked, how sure that is, what it cost and which defence stops it; contact.png shows images.
    Of the reconstructions of a folder of updates: one page each, and index.html over all of them.
    """
    if redact:
        _report_redacted(folder, truth, out, as_json=as_json)
        return
    if (folder / SUMMARY).is_file() and not (folder / record.RECORD).exists():
        if truth is not None:
            raise SpearError(f"{folder} holds many reconstructions and --truth is of one; give the folder of that one.")
        pages = make_reports(folder, folder if out is None else out)
        emit(pages, as_json, lambda: typer.echo(f"Written: {pages['page']} and {len(pages['pages'])} pages below it"))
        return
    index, contact = make_report(folder, truth, out)
    content = {"page": str(index), "contact_sheet": None if contact is None else str(contact)}
    emit(content, as_json, lambda: typer.echo("Written: " + ", ".join(str(p) for p in (index, contact) if p)))


def _report_redacted(folder: Path, truth: Path | None, out: Path | None, *, as_json: bool) -> None:
    """The pages without what was recovered."""
    if truth is not None:
        raise SpearError("--truth shows the originals and --redact nothing of the kind; leave one of them out.")
    if out is None:
        raise SpearError(f"--redact needs --out, a folder of its own for the page: {folder} holds what was recovered.")
    if (folder / SUMMARY).is_file() and not (folder / record.RECORD).exists():
        pages = make_redacted_reports(folder, out)
        said = f"Written: {pages['page']} and {len(pages['pages'])} pages below it"
    else:
        pages = {"page": str(make_redacted_report(folder, out)), "contact_sheet": None}
        said = f"Written: {pages['page']}"
    emit(pages, as_json, lambda: typer.echo(f"{said}, without anything that was recovered"))
