"""Reports of the folders that an audit wrote: of one reconstruction, or of each of many with a page over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spear_jax.audit import record
from spear_jax.audit.folder import read_summary
from spear_jax.audit.graph_record import is_graphs
from spear_jax.audit.text_record import is_text
from spear_jax.client.tables import column_names
from spear_jax.client.truth import Truth
from spear_jax.errors import RecordError
from spear_jax.report.graph_folder import make_graph_report
from spear_jax.report.index import write_index
from spear_jax.report.scores import score
from spear_jax.report.text_folder import make_text_report
from spear_jax.report.trials import trials_of
from spear_jax.report.write import write_report
from spear_jax.tensor_files import make_folder


def make_report(folder: Path, truth: Path | None, out: Path | None = None) -> tuple[Path, Path | None]:
    """Report of a reconstruction folder, beside the originals where a truth is given.

    Returns:
        Paths of the page and of the contact sheet, None for what is no image.
    """
    if is_text(folder):
        return make_text_report(folder, truth, out), None
    if is_graphs(folder):
        return make_graph_report(folder, truth, out), None
    found = record.read_reconstruction(folder)
    make_folder(folder if out is None else out)
    private = None if truth is None else Truth.load(truth)
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
        trials=trials_of(folder, found.record),
        normalization=found.normalization,
        image_shape=found.image_shape,
        columns=column_names(private.columns) if private is not None and private.columns else None,
        truth_images=private.images if private is not None and is_image else None,
        evaluation_json=evaluation,
    )


def make_reports(folder: Path, out: Path) -> dict[str, Any]:
    """Report of each reconstruction that a summary names, in a folder of its own, and the page over them."""
    summary = read_summary(folder)
    make_folder(out)
    pages: dict[str, str] = {}
    for entry in summary["updates"]:
        if entry["status"] is None:
            continue
        try:
            page, _ = make_report(folder / entry["folder"], None, out / entry["folder"])
            pages[entry["update"]] = page.relative_to(out).as_posix()
        except RecordError as error:
            entry["sentence"] = str(error)
    index = write_index(out, summary, pages)
    return {"page": str(index), "pages": {name: str(out / page) for name, page in pages.items()}}
