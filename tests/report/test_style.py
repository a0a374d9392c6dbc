"""Colours of the pages by the formula of WCAG 2: words stand out from what is behind them by 4.5 to 1 or more."""

import re
from pathlib import Path

import pytest

STYLE = Path(__file__).parents[2] / "spear_jax/report/templates/style.css"
WHITE = "#ffffff"
# Colours of words, and every ground that they are written on.
WORDS = {
    "--ink": (WHITE, "--soft", "--warnsoft"),
    "--quiet": (WHITE, "--empty", "--warnsoft"),
    "--good": ("--goodsoft",),
    "--near": (WHITE, "--nearsoft"),
    "--warn": (WHITE,),
    WHITE: ("--warn",),
}


def contrast(one, other):
    """Of two colours ``#rrggbb``, between 1 and 21."""

    def light(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted(map(light, (one, other)))
    return (high + 0.05) / (low + 0.05)


def colours():
    return dict(re.findall(r"(--\w+):\s*(#[0-9a-f]{6})", STYLE.read_text())) | {WHITE: WHITE}


def test_contrast_is_that_of_wcag():
    assert contrast("#000000", WHITE) == pytest.approx(21)
    assert contrast("#777777", WHITE) == pytest.approx(4.478, abs=1e-3)
    assert contrast("#767676", WHITE) >= 4.5


@pytest.mark.parametrize(("words", "ground"), [(words, ground) for words, every in WORDS.items() for ground in every])
def test_words_stand_out(words, ground):
    known = colours()
    assert contrast(known[words], known[ground]) >= 4.5


def test_no_colour_of_words_is_forgotten():
    style = STYLE.read_text()
    used = re.findall(r"[{;\s]color:\s*(?:var\((--\w+)\)|(#\w+))", style)
    assert {name or {"#fff": WHITE}[colour] for name, colour in used} == set(WORDS)
    grounds = re.findall(r"background:\s*var\((--\w+)\)", style)
    assert set(grounds) == {ground for every in WORDS.values() for ground in every} - {WHITE}


def test_labels_stand_out_from_the_nodes_that_hold_them():
    from spear_jax.report.graph_drawing import colour

    for label in (*("C", "N", "O", "S", "F", "Cl", "Br", "I", "P"), *map(chr, range(97, 123))):
        assert contrast(WHITE, colour(label)) >= 4.5, label
