"""Draws architecture.svg, the way of an update file through the rooms: `python docs/draw_architecture.py`."""

from pathlib import Path

WIDTH, HEIGHT, BOX, ROW = 900, 380, 62, 100
# Name, what it does, column, row, whether it knows the private side.
ROOMS = (
    ("integrations/", "recorders: Flower, NVFlare", 0, 0, False),
    ("update/readers/", "model files before and after", 0, 1, False),
    ("client/", "a simulated client, and the truth", 0, 2, True),
    ("update/", "a bundle as observations", 1, 1, False),
    ("attacks/", "dense, text, graphs: certified", 2, 1, False),
    ("audit/", "state, record, defences tried", 3, 1, False),
    ("report/", "the page to hand on", 3, 0, False),
    ("evaluate", "against the truth, simulated only", 3, 2, True),
)
ARROWS = ((0, 3), (1, 3), (2, 3), (3, 4), (4, 5), (5, 6), (5, 7), (2, 7))
COLUMN, LEFT, TOP, WIDE = 224, 14, 40, 198


def place(room):
    """The corner of a room's box."""
    return LEFT + COLUMN * room[2], TOP + ROW * room[3]


def box(room):
    """A room: a box, its name and what it does."""
    x, y = place(room)
    style = 'fill="#fff4e5" stroke="#b45309" stroke-dasharray="5 3"' if room[4] else 'fill="#eef2ff" stroke="#3949ab"'
    middle = x + WIDE / 2
    return (
        f'<rect x="{x}" y="{y}" width="{WIDE}" height="{BOX}" rx="6" {style}/>'
        f'<text x="{middle}" y="{y + 26}" font-weight="bold" font-size="15">{room[0]}</text>'
        f'<text x="{middle}" y="{y + 46}" font-size="12">{room[1]}</text>'
    )


def arrow(start, end):
    """From one room to another: along the row, along the column, or below all."""
    (x, y), (u, v) = place(ROOMS[start]), place(ROOMS[end])
    if x == u:
        down = v > y
        way = f"M{x + WIDE / 2},{y + BOX * down} L{u + WIDE / 2},{v + BOX * (not down)}"
    else:
        way = f"M{x + WIDE},{y + BOX / 2} L{u},{v + BOX / 2}"
    return f'<path d="{way}" fill="none" stroke="#444" stroke-width="1.5" marker-end="url(#tip)"/>'


def drawing():
    """The picture as SVG."""
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#444"/></marker></defs>'
    )
    words = (
        f'<text x="{LEFT}" y="20" text-anchor="start" font-size="13">An update file travels from left to right; dashed '
        "rooms know the private side, and nothing between an update and its record imports them.</text>"
        f'<text x="{LEFT}" y="{HEIGHT - 34}" text-anchor="start" font-size="13">Below all of it, imported by every '
        "room: types, observation, config, status, errors, numerics, factorization, row_space, language/, "
        "graphs/.</text>"
        f'<text x="{LEFT}" y="{HEIGHT - 14}" text-anchor="start" font-size="13">Above all of it: cli/ (options in, one '
        "call, sentences out) and bench/ (rates of this machine). The truth goes to evaluate alone.</text>"
    )
    parts = [tip, words, *(arrow(*ends) for ends in ARROWS), *map(box, ROOMS)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'text-anchor="middle"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    Path(__file__).with_name("architecture.svg").write_text(drawing())
