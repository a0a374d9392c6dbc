"""The page over the pages: what leaked from each of many updates, client by client and round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from spear_jax.report.template import render, write_page
from spear_jax.report.values import DASH, number, text
from spear_jax.status import Status

CLIENT_HEADER = ("Update", "Batch rank", "Certified", "Approximate", "Status", "Seconds", "What was found")
ROUND_HEADER = ("Round", "Updates", "Whole", "Certified", "Approximate", "Seconds")
_EACH = "Each update was inverted by itself; its page says how, how sure that is and what would have stopped it."


def write_index(out_dir: str | Path, summary: Mapping[str, Any], pages: Mapping[str, str]) -> Path:
    """Write ``index.html`` over the pages of many reconstructions: self-contained but for the links to them.

    Args:
        out_dir: a folder that exists.
        summary: the dictionary of ``summary.json``.
        pages: by the name of an update, the path of its page relative to the folder; those without have no link.

    Returns:
        Path of the page.
    """
    updates = summary["updates"]
    page = render(
        "index.html",
        headline=_headline(summary),
        is_whole=summary["whole"] == summary["total"],
        sentences=[summary["sentence"]],
        notes=[_EACH],
        num_samples=len(updates),
        source=text(summary["folder"]),
        round_header=ROUND_HEADER,
        rounds=_round_rows(updates),
        client_header=CLIENT_HEADER,
        clients=[_client_row(entry, pages.get(entry["update"])) for entry in updates],
        states=[_tone(entry) for entry in updates],
    )
    return write_page(Path(out_dir), page)


def _headline(summary: Mapping[str, Any]) -> str:
    samples = summary["certified"]
    return (
        f"{number(samples)} {'sample' if samples == 1 else 'samples'} of {number(summary['total'])} client updates "
        "reconstructed and certified without ground truth"
    )


def _round_rows(updates: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row for each folder of updates, in their order, and one for all where there are several."""
    rounds: dict[str, list[Mapping[str, Any]]] = {}
    for entry in updates:
        rounds.setdefault(str(PurePosixPath(entry["update"]).parent).removeprefix("."), []).append(entry)
    groups = [(name or DASH, entries) for name, entries in rounds.items()]
    groups += [("all", updates)] if len(groups) > 1 else []
    return [[name, *_totals(entries)] for name, entries in groups]


def _totals(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    total = lambda name: sum(entry[name] or 0 for entry in entries)
    whole = sum(_tone(entry) == "ok" for entry in entries)
    return [number(n) for n in (len(entries), whole, total("certified"), total("approximate"))] + [
        f"{total('seconds'):.1f}"
    ]


def _client_row(entry: Mapping[str, Any], page: str | None) -> list[Any]:
    name = entry["folder"]
    link = name if page is None else {"href": quote(page, errors="surrogateescape"), "words": name}
    counts = [text(entry[key]) for key in ("batch_size", "certified", "approximate")]
    seconds = DASH if entry["seconds"] is None else f"{entry['seconds']:.1f}"
    return [link, *counts, {"tone": _tone(entry), "words": _status(entry)}, seconds, text(entry["sentence"])]


def _status(entry: Mapping[str, Any]) -> str:
    return "not inverted" if entry["status"] is None else entry["status"].lower().replace("_", " ")


def _tone(entry: Mapping[str, Any]) -> str:
    """As the cards of samples are marked: ``ok`` certified whole, ``near`` something was found, ``open`` nothing."""
    if entry["status"] is None:
        return "open"
    if Status[entry["status"]].is_complete:
        return "ok"
    return "near" if entry["certified"] or entry["approximate"] else "open"
