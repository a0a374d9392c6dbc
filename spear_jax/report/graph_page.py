"""The page of one reconstruction of graphs: every member of every class is drawn, with what is certified of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spear_jax.audit.graph_record import verdict
from spear_jax.report import graph_sections
from spear_jax.report.graph_drawing import draw
from spear_jax.report.graph_values import certificate_sentence, class_sentence, headline
from spear_jax.report.template import render
from spear_jax.report.values import comparison, mapping, number, opening, text

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
    classes, truth = record["graphs"], originals or {"members": [], "graphs": []}
    right = [*truth["members"], *[[]] * len(classes)]
    return render(
        "graphs.html",
        headline=headline(record),
        is_whole=bool(classes) and all(one["exact"] for one in classes),
        sentences=opening(record),
        notes=[certificate_sentence(record), *([comparison(originals["summary"])] if originals else [])],
        num_samples=len(classes),
        classes=[_class(record, one, right[place]) for place, one in enumerate(classes)],
        parts=_parts(record),
        originals=[
            {"name": one["name"], "is_found": one["in_class"], "drawing": _drawing(record, one, one["name"])}
            for one in truth["graphs"]
        ],
        originals_width=_room(truth["graphs"]),
        threat_model=graph_sections.threat_model(record),
        certification=graph_sections.certification(record),
        view_header=graph_sections.VIEW_HEADER,
        views=graph_sections.view_rows(record),
        limits=record.get("limits") or [],
        defence_header=graph_sections.DEFENCE_HEADER,
        defences=graph_sections.defences(),
        tables=graph_sections.facts(record),
    )


def _class(record: Mapping[str, Any], one: Mapping[str, Any], right: Sequence[int]) -> dict[str, Any]:
    """One graph of the batch, with all members of its class."""
    members = one["members"]
    return {
        "tone": "open" if not one["certified"] else "ok" if one["exact"] else "near",
        "verdict": verdict(one),
        "sentence": class_sentence(one),
        "width": _room(members),
        "cards": [_card(record, one, place, place in right) for place in range(len(members[:MOST_MEMBERS]))],
        "num_more": len(members) - MOST_MEMBERS,
    }


def _card(record: Mapping[str, Any], one: Mapping[str, Any], place: int, is_original: bool) -> dict[str, Any]:
    """A member: its drawing, and how sure it is."""
    member, size = one["members"][place], len(one["members"])
    known = f"{len(member['nodes'])} nodes, {len(member['edges'])} edges"
    known += ", listed first: a guess" if one["certified"] and size > 1 and place == 0 else ""
    drawing = _drawing(record, member, f"graph of {known}")
    return {"drawing": drawing, "badge": _badge(one, place), "known": known, "is_original": is_original}


def _badge(one: Mapping[str, Any], place: int) -> str:
    size = len(one["members"])
    if not one["certified"]:
        return "not certified"
    if one["exact"]:
        return "exact"
    return "the only one of its size" if size == 1 else f"{place + 1} of {size}"


def _room(members: Sequence[Mapping[str, Any]]) -> int:
    """Width of a card, by the largest graph that it holds."""
    return 480 if max((len(member["nodes"]) for member in members), default=0) >= WIDE else 300


def _drawing(record: Mapping[str, Any], graph: Mapping[str, Any], title: str) -> str:
    names = _blocks(record)
    # A node is drawn with its first block's label, and with nothing where there are no blocks.
    labels = [text(node[0]) if names else "" for node in graph["nodes"]]
    details = [_detail(node, names) for node in graph["nodes"]]
    return draw(labels, [(int(i), int(j)) for i, j in graph["edges"]], details, title)


def _blocks(record: Mapping[str, Any]) -> list[str]:
    """Names of the blocks of features."""
    return [str(mapping(block).get("name")) for block in mapping(record.get("features")).get("blocks") or []]


def _detail(node: Sequence[Any], names: Sequence[str]) -> str:
    if names:
        return ", ".join(f"{name} {text(label)}" for name, label in zip(names, node, strict=True))
    return " ".join(number(value) for value in node[:20]) + (" ..." if len(node) > 20 else "")


def _parts(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Neighbourhoods and rows where no graph holds them."""
    rows, stars, names = record["rows"], record["stars"], _blocks(record)
    if record["graphs"] or not rows:
        return None
    return {
        "stars": [_star(record, star) for star in stars["list"][:MOST_STARS]],
        "num_stars": len(stars["list"]),
        "is_certified": stars["certified"],
        "header": (*(names or ("row",)), ""),
        "rows": [_row(one, names) for one in rows[:MOST_ROWS]],
        "num_more": len(rows) - MOST_ROWS,
    }


def _row(one: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """A row of features, its badge last."""
    tone, words = ("ok", "certified") if one["certified"] else ("open", "not certified")
    values = map(text, one["row"]) if names else [_detail(one["row"], [])]
    return [*values, {"tone": tone, "words": words}]


def _star(record: Mapping[str, Any], star: Sequence[Any]) -> str:
    centre, neighbours = star
    nodes = [record["rows"][centre]["row"], *(record["rows"][row]["row"] for row in neighbours)]
    edges = [[0, place] for place in range(1, len(nodes))]
    return _drawing(record, {"nodes": nodes, "edges": edges}, "a node and its neighbours")
