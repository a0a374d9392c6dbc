"""Drawings of small graphs as inline SVG: nodes by the first category of their features, all of them in a tooltip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spear_jax.report.graph_layout import layout
from spear_jax.report.template import render

# Pixels: an edge, a node's radius, and the room around a drawing.
EDGE, RADIUS, MARGIN = 34.0, 9.5, 16.0
LINE = "#9aa4b1"
# Letters of a label that fit a node.
MOST_LETTERS = 3
# Usual colours of the commonest atoms; any other label takes one of the second list by its letters.
_KNOWN = {
    "C": "#3f4752", "N": "#2f5fc4", "O": "#c2322c", "S": "#8a6800", "F": "#277d37", "Cl": "#277d37", "Br": "#8c3b16",
    "I": "#6a2fa0", "P": "#a85a08",
}  # fmt: skip
_OTHERS = ("#1f5fa8", "#1a7f4b", "#a84c08", "#6a2fa0", "#8a1f5c", "#0f766e", "#7a5c00", "#444c5a")


def draw(labels: Sequence[str], edges: Sequence[tuple[int, int]], details: Sequence[str] = (), title: str = "") -> str:
    """A graph as one ``<svg>`` element.

    Args:
        labels: n short texts, one a node.
        edges: pairs of nodes, each once.
        details: n texts shown when a node is pointed at, or none.
        title: of the drawing, for those who do not see it.

    Returns:
        HTML, everything in it escaped.
    """
    places = layout(len(labels), edges) * EDGE + MARGIN
    width, height = (places.max(axis=0) if len(places) else np.zeros(2)) + MARGIN
    points = places.tolist()
    return render(
        "graph.svg",
        title=title,
        width=width,
        height=height,
        radius=RADIUS,
        line=LINE,
        edges=[(points[i], points[j]) for i, j in edges],
        nodes=list(zip(points, map(_shortened, labels), map(colour, labels), details or labels, strict=True)),
    )


def _shortened(label: str) -> str:
    return label if len(label) <= MOST_LETTERS else label[: MOST_LETTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"


def colour(label: str) -> str:
    """The colour of a label, the same on every page."""
    return _KNOWN.get(label) or _OTHERS[sum(map(ord, label)) % len(_OTHERS)]
