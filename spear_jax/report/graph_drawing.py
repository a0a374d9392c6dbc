"""Drawings of small graphs as inline SVG: nodes by the first category of their features, all of them in a tooltip.

Nothing that comes from a file reaches the page unescaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from spear_jax.report.graph_layout import layout

# Pixels: an edge, a node's radius, and the room around a drawing.
EDGE, RADIUS, MARGIN = 34.0, 9.5, 16.0
LINE = "#9aa4b1"
# Letters of a label that fit a node.
MOST_LETTERS = 3
# Usual colours of the commonest atoms; any other label takes one of the second list by its letters.
_KNOWN = {
    "C": "#3f4752", "N": "#2f5fc4", "O": "#c2322c", "S": "#9a7400", "F": "#2c8a3d", "Cl": "#2c8a3d", "Br": "#8c3b16",
    "I": "#6a2fa0", "P": "#b3620a",
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
    lines = "".join(
        f'<line x1="{places[i, 0]:.1f}" y1="{places[i, 1]:.1f}" x2="{places[j, 0]:.1f}" y2="{places[j, 1]:.1f}"/>'
        for i, j in edges
    )
    nodes = "".join(
        _node(place, label, details[number] if details else label)
        for number, (place, label) in enumerate(zip(places, labels, strict=True))
    )
    frame = f'viewBox="0 0 {width:.1f} {height:.1f}" style="width:{width:.0f}px" preserveAspectRatio="xMidYMid meet"'
    return (
        f'<svg class="graph" role="img" aria-label="{escape(title)}" {frame}>'
        f'<g stroke="{LINE}" stroke-width="2.2">{lines}</g>{_TEXT}{nodes}</g></svg>'
    )


def _node(place: np.ndarray, label: str, detail: str) -> str:
    x, y = place
    shown = label if len(label) <= MOST_LETTERS else label[: MOST_LETTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return (
        f'<g><title>{escape(detail)}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}" fill="{colour(label)}"/>'
        f'<text x="{x:.1f}" y="{y:.1f}" dy="0.35em" fill="#fff">{escape(shown)}</text></g>'
    )


def colour(label: str) -> str:
    """The colour of a label, the same on every page."""
    return _KNOWN.get(label) or _OTHERS[sum(map(ord, label)) % len(_OTHERS)]


# How nodes are written, in the drawing itself so that it can be taken out of the page.
_TEXT = (
    '<g font-family="system-ui, DejaVu Sans, Arial, sans-serif" font-size="10" font-weight="600" text-anchor="middle">'
)

STYLE = ".graph { display: block; max-width: 100%; height: auto; margin: 4px auto; }\n"
