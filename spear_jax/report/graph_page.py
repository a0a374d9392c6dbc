"""The page of one reconstruction of graphs: every member of every class is drawn, with what is certified of it.

Everything that comes from a file is escaped here or where it is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from spear_jax.audit.graph_record import verdict
from spear_jax.audit.plain_words import in_plain_words
from spear_jax.report import graph_sections
from spear_jax.report.graph_drawing import STYLE, draw
from spear_jax.report.graph_values import certificate_sentence, class_sentence, headline
from spear_jax.report.html import document, wide_table
from spear_jax.report.values import mapping, number, text

# Members, neighbourhoods and rows beyond these are in the record.
MOST_MEMBERS, MOST_STARS, MOST_ROWS = 100, 60, 200
# Nodes from which a drawing takes more room.
WIDE = 26


def render_graph_page(record: Mapping[str, Any], originals: Mapping[str, Any] | None = None) -> str:
    """The whole page.

    Args:
        record: the dictionary of ``result.json``.
        originals: ``summary``, ``members``: by class the places of members that are true graphs, and ``graphs``: true
            graphs as in a file of graphs with ``name``, and whether each is in a class; None where the truth is not
            known, as it never is to the server.
    """
    tables = {name: _fact_table(rows) for name, rows in graph_sections.facts(record).items()}
    said = headline(record)
    is_exact = bool(record["graphs"]) and all(one["exact"] for one in record["graphs"])
    body = _BODY.substitute(
        tables,
        headline=escape(said),
        tone="good" if is_exact else "part",
        message=_paragraphs([in_plain_words(record), *([text(record["message"])] if record.get("message") else [])]),
        notes=_notes(record, originals),
        classes=_classes(record, originals),
        parts=_parts(record),
        originals=_originals(record, originals),
        threat=_paragraphs([graph_sections.threat_model(record)]),
        certification=_paragraphs(graph_sections.certification(record)),
        views=wide_table(graph_sections.VIEW_HEADER, (map(escape, row) for row in graph_sections.view_rows(record))),
        limits="".join(f"<p>{escape(str(limit))}</p>" for limit in record.get("limits") or []),
        defences=wide_table(
            graph_sections.DEFENCE_HEADER, (map(escape, row) for row in graph_sections.defences()), "measures"
        ),
    )
    return document(said, body, STYLE + _STYLE)


def _notes(record: Mapping[str, Any], originals: Mapping[str, Any] | None) -> str:
    notes = [certificate_sentence(record)]
    if originals is not None:
        notes.append(
            f"Originals and scores are for comparison only; the attack did not see them. {originals['summary']}"
        )
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _classes(record: Mapping[str, Any], originals: Mapping[str, Any] | None) -> str:
    """One section a graph of the batch, with all members of its class."""
    if not record["graphs"]:
        return "<p>None were assembled.</p>"
    right = [[]] * len(record["graphs"]) if originals is None else originals["members"]
    return "".join(
        _class(record, one, place, right[place] if place < len(right) else [])
        for place, one in enumerate(record["graphs"])
    )


def _class(record: Mapping[str, Any], one: Mapping[str, Any], place: int, right: Sequence[int]) -> str:
    members = one["members"]
    cards = "".join(
        _card(record, one, number_of, number_of in right) for number_of in range(min(len(members), MOST_MEMBERS))
    )
    more = len(members) - MOST_MEMBERS
    rest = f"<p>{number(more)} more are in result.json.</p>" if more > 0 else ""
    return (
        f"<section><h3>Graph {place + 1}: {escape(verdict(one))}</h3><p>{escape(class_sentence(one))}</p>"
        f'<div class="cards graphs" style="--card: {_room(members)}px">{cards}</div>{rest}</section>'
    )


def _card(record: Mapping[str, Any], one: Mapping[str, Any], place: int, is_right: bool) -> str:
    """A member: its drawing, and how sure it is."""
    member, size = one["members"][place], len(one["members"])
    tone, badge = ("ok", "exact") if one["exact"] else ("near", f"{place + 1} of {size}")
    if not one["certified"]:
        tone, badge = "open", "not certified"
    elif not one["exact"] and size == 1:
        badge = "the only one of its size"
    known = f"{len(member['nodes'])} nodes, {len(member['edges'])} edges"
    known += ", listed first: a guess" if one["certified"] and size > 1 and place == 0 else ""
    truth = ' <span class="ok"><span class="badge">the original</span></span>' if is_right else ""
    return (
        f'<div class="card {tone}">{_drawing(record, member, f"graph of {known}")}'
        f'<footer><span class="badge">{escape(badge)}</span> {escape(known)}{truth}</footer></div>'
    )


def _room(members: Sequence[Mapping[str, Any]]) -> int:
    """Width of a card, by the largest graph that it holds."""
    return 480 if max((len(member["nodes"]) for member in members), default=0) >= WIDE else 300


def _drawing(record: Mapping[str, Any], graph: Mapping[str, Any], title: str) -> str:
    features = mapping(record.get("features"))
    names = [str(mapping(block).get("name")) for block in features.get("blocks") or []]
    labels = [_label(node, names) for node in graph["nodes"]]
    details = [_detail(node, names) for node in graph["nodes"]]
    return draw(labels, [(int(i), int(j)) for i, j in graph["edges"]], details, title)


def _label(node: Sequence[Any], names: Sequence[str]) -> str:
    """What a node is drawn with: its first block's label, and nothing where there are no blocks."""
    return text(node[0]) if names else ""


def _detail(node: Sequence[Any], names: Sequence[str]) -> str:
    if names:
        return ", ".join(f"{name} {text(label)}" for name, label in zip(names, node, strict=True))
    return " ".join(number(value) for value in node[:20]) + (" ..." if len(node) > 20 else "")


def _parts(record: Mapping[str, Any]) -> str:
    """Neighbourhoods and rows where no graph holds them."""
    rows, stars = record["rows"], record["stars"]
    if record["graphs"] or not rows:
        return ""
    names = [str(mapping(block).get("name")) for block in mapping(record.get("features")).get("blocks") or []]
    shown = ""
    if stars["list"]:
        sure = "certified to be all that are there" if stars["certified"] else "not certified"
        cards = "".join(f'<div class="card">{_star(record, star)}</div>' for star in stars["list"][:MOST_STARS])
        shown += (
            f"<h2>Neighbourhoods</h2><p>{number(len(stars['list']))} nodes with their neighbours fit the gradients, "
            f"{sure}"
            + (f"; the first {MOST_STARS} are drawn" if len(stars["list"]) > MOST_STARS else "")
            + f'.</p><div class="cards stars">{cards}</div>'
        )
    table = wide_table(
        (*(names or ("row",)), ""),
        (
            [*(escape(text(label)) for label in (one["row"] if names else [_detail(one["row"], [])])), _sure(one)]
            for one in rows[:MOST_ROWS]
        ),
    )
    more = len(rows) - MOST_ROWS
    rest = f"<p>{number(more)} more are in result.json.</p>" if more > 0 else ""
    return shown + f"<h2>Rows of nodes</h2><p>Each fits the first layer's gradient.</p>{table}{rest}"


def _sure(one: Mapping[str, Any]) -> str:
    tone, word = ("ok", "certified") if one["certified"] else ("open", "not certified")
    return f'<span class="{tone}"><span class="badge">{word}</span></span>'


def _star(record: Mapping[str, Any], star: Sequence[Any]) -> str:
    centre, neighbours = star
    nodes = [record["rows"][centre]["row"], *(record["rows"][row]["row"] for row in neighbours)]
    edges = [[0, place] for place in range(1, len(nodes))]
    return _drawing(record, {"nodes": nodes, "edges": edges}, "a node and its neighbours")


def _originals(record: Mapping[str, Any], originals: Mapping[str, Any] | None) -> str:
    if originals is None:
        return ""
    cards = "".join(
        f'<div class="card {"ok" if one["in_class"] else "open"}">'
        f"<header><b>{escape(one['name'])}</b></header>{_drawing(record, one, one['name'])}"
        f'<footer><span class="badge">{"in its class" if one["in_class"] else "not found"}</span></footer></div>'
        for one in originals["graphs"]
    )
    room = _room(originals["graphs"])
    return f'<h2>The originals</h2><div class="cards graphs" style="--card: {room}px">{cards}</div>'


def _paragraphs(sentences: Iterable[str]) -> str:
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def _fact_table(rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts">{body}</table>'


_STYLE = """
.cards.graphs { margin-bottom: 28px; }
.cards.stars { --card: 150px; }
.graphs .card { display: flex; flex-direction: column; justify-content: space-between; }
.measures td:first-child { min-width: 22ch; font-weight: 600; }
.measures th { white-space: nowrap; }
.measures td:last-child { white-space: nowrap; color: var(--quiet); }
"""

_BODY = Template("""<p class="kicker">Gradient inversion audit of one update of a graph network</p>
<div class="lead $tone">
<h1>$headline</h1>
$message
$notes
</div>
<h2>The graphs</h2>
$classes
$parts
$originals
<h2>Threat model</h2>
$threat
<h2>What a gradient tells, and how it is certified</h2>
$certification
<h2>What the gradients show</h2>
<p>Each layer's gradient has its rows in the span of what the layer read. A direction is one dimension of that span
above the noise.</p>
$views
$limits
<h2>The update</h2>
$observed
<h2>Which defence would have stopped it</h2>
<p>None was tried on this update. What is measured was measured on 30 well-known molecules and networks of random
weights or of one small training task; the rest follows from how the attack works.</p>
$defences
<h2>To repeat it</h2>
$repeat
""")
