"""The page over the pages: what leaked from each of many updates, client by client and round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path, PurePosixPath
from string import Template
from typing import Any
from urllib.parse import quote

from spear_jax.report.html import document, wide_table
from spear_jax.report.values import DASH, number, text
from spear_jax.status import Status

CLIENT_HEADER = ("Update", "Batch rank", "Certified", "Approximate", "Status", "Seconds", "What was found")
ROUND_HEADER = ("Round", "Updates", "Whole", "Certified", "Approximate", "Seconds")


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
    headline = _headline(summary)
    body = _BODY.substitute(
        headline=escape(headline),
        tone="good" if summary["whole"] == summary["total"] else "part",
        sentence=escape(summary["sentence"]),
        source=escape(text(summary["folder"])),
        rounds=wide_table(ROUND_HEADER, _round_rows(updates), "rounds"),
        clients=wide_table(
            CLIENT_HEADER, [_client_row(entry, pages.get(entry["update"])) for entry in updates], "clients"
        ),
    )
    index = Path(out_dir) / "index.html"
    index.write_text(document(headline, body, _INDEX_STYLE), encoding="utf-8", errors="surrogateescape")
    return index


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
    return [[escape(name), *_totals(entries)] for name, entries in groups]


def _totals(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    total = lambda name: sum(entry[name] or 0 for entry in entries)
    whole = sum(_tone(entry) == "ok" for entry in entries)
    return [number(n) for n in (len(entries), whole, total("certified"), total("approximate"))] + [
        f"{total('seconds'):.1f}"
    ]


def _client_row(entry: Mapping[str, Any], page: str | None) -> list[str]:
    name = escape(entry["folder"])
    link = name if page is None else f'<a href="{escape(quote(page, errors="surrogateescape"))}">{name}</a>'
    counts = [text(entry[key]) for key in ("batch_size", "certified", "approximate")]
    status = f'<span class="{_tone(entry)}"><span class="badge">{escape(_status(entry))}</span></span>'
    seconds = DASH if entry["seconds"] is None else f"{entry['seconds']:.1f}"
    return [link, *counts, status, seconds, escape(text(entry["sentence"]))]


def _status(entry: Mapping[str, Any]) -> str:
    return "not inverted" if entry["status"] is None else entry["status"].lower().replace("_", " ")


def _tone(entry: Mapping[str, Any]) -> str:
    """As the cards of samples are marked: ``ok`` certified whole, ``near`` something was found, ``open`` nothing."""
    if entry["status"] is None:
        return "open"
    if Status[entry["status"]].is_complete:
        return "ok"
    return "near" if entry["certified"] or entry["approximate"] else "open"


_INDEX_STYLE = """
a { color: var(--near); }
.rounds { max-width: 760px; }
.clients th { overflow-wrap: normal; }
.clients td:first-child { min-width: 22ch; }
.clients td:last-child { color: var(--quiet); min-width: 38ch; }
"""

_BODY = Template("""<p class="kicker">Gradient inversion audit of the updates in $source</p>
<div class="lead $tone">
<h1>$headline</h1>
<p>$sentence</p>
<p class="note">Each update was inverted by itself; its page says how, how sure that is and what would have stopped
it.</p>
</div>
<h2>Round by round</h2>
$rounds
<h2>Update by update</h2>
$clients
""")
