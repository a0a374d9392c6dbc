"""The page that may be passed on: counts, certificates, sizes and cost, but nothing of what was recovered.

It is made of a record without inputs, so there is nothing that it could show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spear_jax.audit.folder import read_summary
from spear_jax.audit.without_inputs import read_without_inputs
from spear_jax.defences.trials import Trial
from spear_jax.errors import RecordError, SpearError
from spear_jax.report.index import write_index
from spear_jax.report.template import render, write_page
from spear_jax.report.trials import sweep, trials_of
from spear_jax.report.values import DASH, mapping, number, opening, said, seconds, share, text
from spear_jax.tensor_files import make_folder

KICKER = "Redacted audit of one federated-learning update: nothing that was recovered is on this page"
# What the page over the pages is told from another's by.
OVER = "Redacted: no page below shows what was recovered."


def make_redacted_report(folder: Path, out: Path) -> Path:
    """Write the page of one reconstruction without what was recovered.

    Args:
        folder: that ``spear-jax reconstruct`` wrote, purged or not.
        out: another folder for ``index.html``, which holds nothing but such pages.

    Returns:
        Path of the page.

    Raises:
        SpearError: ``out`` holds something else, or ``folder`` no record.
    """
    _check_out(folder, out)
    return _write(folder, out)


def make_redacted_reports(folder: Path, out: Path) -> dict[str, Any]:
    """Write such a page for each reconstruction that a summary names, and the page over them."""
    summary = read_summary(folder)
    _check_out(folder, out)
    make_folder(out)
    pages: dict[str, str] = {}
    for entry in summary["updates"]:
        if entry["status"] is None:
            continue
        try:
            page = _write(folder / entry["folder"], out / entry["folder"])
            pages[entry["update"]] = page.relative_to(out).as_posix()
        except RecordError as error:
            entry["sentence"] = str(error)
    summary["sentence"] += f" {OVER}"
    index = write_index(out, summary, pages)
    return {"page": str(index), "pages": {name: str(out / page) for name, page in pages.items()}}


def render_redacted_page(record: Mapping[str, Any], trials: Sequence[Trial] = ()) -> str:
    """The whole page.

    Args:
        record: without inputs, as `audit.without_inputs` gives it.
        trials: of defences against this update, possibly none.
    """
    return render(
        "redacted.html",
        kicker=KICKER,
        headline=f"{number(record.get('certified') or 0)} {_noun(record)} certified without ground truth",
        is_whole=False,
        sentences=[*opening(record, trials), *said(record)],
        notes=[],
        num_samples=0,
        tables=_facts(record),
        sweep=sweep(trials, "None was tried on this update."),
    )


def _write(folder: Path, out: Path) -> Path:
    record = read_without_inputs(folder)
    return write_page(out, render_redacted_page(record, trials_of(folder, record)))


def _check_out(folder: Path, out: Path) -> None:
    """Refuse a folder in which what was recovered may lie beside the page.

    Raises:
        SpearError: it is, or lies in, the folder of the reconstruction, or holds other files than redacted pages.
    """
    if out.resolve().is_relative_to(folder.resolve()):
        raise SpearError(
            f"--out {out} is where the recovered data lie, and --redact is for pages to pass on; give a folder outside "
            f"{folder}."
        )
    for file in sorted(out.rglob("*")):
        if file.is_file() and not _is_redacted(file):
            raise SpearError(
                f"--out {out} holds {file.relative_to(out)}, which is no redacted page; give a folder of its own."
            )


def _is_redacted(file: Path) -> bool:
    words = file.read_text(encoding="utf-8", errors="replace") if file.name == "index.html" else ""
    return KICKER in words or OVER in words


def _noun(record: Mapping[str, Any]) -> str:
    return {"text": "sequences", "graphs": "graphs"}.get(str(record.get("family")), "samples")


def _facts(record: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Tables of (name, value) by title."""
    spent = record.get("seconds") or mapping(record.get("stats")).get("seconds")
    counts = [
        ("Status", text(record.get("status"))),
        ("Samples that the update shows", _first(record, "batch_size", "num_sequences", "num_graphs")),
        ("Samples that the client reports", number(record.get("num_examples"))),
        ("Certified", number(record.get("certified"))),
        ("Approximate", number(record.get("approximate"))),
    ]
    proof = mapping(record.get("certificate"))
    sizes = [(name.replace("_", " ").capitalize(), _size(record[name])) for name in _SIZES if name in record]
    return {
        "What was found": counts,
        "Sizes": sizes,
        "Certificate": [(name.replace("_", " ").capitalize(), _proof(name, value)) for name, value in proof.items()],
        "The update": [
            ("SHA-256", text(record.get("update_sha256"))),
            ("As it was sent", text(mapping(record.get("observed")))),
            ("Seconds", seconds(mapping(spent))),
            ("Versions", text(mapping(record.get("versions")))),
        ],
    }


_SIZES = ("shape", "image_shape", "sequences", "traces", "tokens", "graphs", "rows", "stars")


def _size(value: Any) -> str:
    """Sizes of what was found: of sequences their tokens, of graphs nodes and edges of the first member."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        if "length" in value[0]:
            return f"{len(value)}, of {', '.join(number(one['length']) for one in value)} tokens"
        firsts = [one["members"][0] for one in value if one["members"]]
        return f"{len(value)}, of {', '.join(f'{nodes} nodes and {edges} edges' for nodes, edges in firsts)}"
    return _value(value)


def _value(value: Any) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else text(value)


def _proof(name: str, value: Any) -> str:
    """A number of the certificate; a share reads 1 only where it is 1."""
    return share(value) if name == "matching_score" else _value(value)


def _first(record: Mapping[str, Any], *names: str) -> str:
    return next((number(record[name]) for name in names if name in record), DASH)
