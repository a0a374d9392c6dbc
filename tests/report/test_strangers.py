"""Names that strangers choose: whatever file, client, column, token or atom is called, a page reads it as words."""

import functools
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from tests.helpers import pages
from tests.helpers.pages import MANY

WORDS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "</style></title><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% include 'finder.js' %}",
    "<!-- ",
)
VOID = {"meta", "img", "input", "line", "circle"}


class Parsed(HTMLParser):
    """Elements and attributes of a page as a browser reads them, and its words and attributes' values as one text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.links, self.scripts, self.words, self._open = [], set(), [], [], [], []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes |= {(tag, name) for name, _ in attributes}
        self.words += [value for _, value in attributes if value]
        self.links += [value for name, value in attributes if name in ("href", "src", "action", "xlink:href")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, words):
        (self.scripts if self._open and self._open[-1] == "script" else self.words).append(words)

    def handle_comment(self, words):
        raise AssertionError(f"a comment: {words}")


def poisoned(value, words):
    """A record in which every text is these words."""
    if isinstance(value, dict):
        return {name: poisoned(entry, words) for name, entry in value.items()}
    if isinstance(value, list):
        return [poisoned(entry, words) for entry in value]
    return words if isinstance(value, str) else value


def table(folder, words):
    from spear_jax.report.write import write_report

    rows, exact = np.ones((MANY, 3)), np.arange(MANY) > 0
    scores = {"assignment": list(range(MANY)), "summary": words}
    record = poisoned(pages.dense_record(), words) | {"config": {words: words}, "versions": {words: words}}
    return write_report(folder, record, rows, exact, exact * 1.0, columns=[words] * 3, evaluation_json=scores)[0]


def text(folder, words):
    from spear_jax.report.template import write_page
    from spear_jax.report.text_page import render_text_page

    one = {"tokens": [3, 1], "text": words, "label": None, "copies": 1}
    sequences = [one | {"exact": True}] * MANY + [one | {"exact": False}]
    tokens = {"ids": [1, 2], "texts": [words, words], "certified": True, "rounds": 2}
    record = poisoned(pages.text_record(), words) | {"sequences": sequences, "traces": [one], "tokens": tokens}
    return write_page(folder, render_text_page(record, {"summary": words, "texts": [(words, True), (words, False)]}))


@functools.cache
def graph_record():
    with tempfile.TemporaryDirectory() as folder:
        record = pages.graph_record(Path(folder))
    return record | {"graphs": record["graphs"][-4:]}


def graphs(folder, words):
    """Atoms, blocks, molecules."""
    from spear_jax.report.graph_page import render_graph_page
    from spear_jax.report.template import write_page

    record = poisoned(graph_record(), words) | {"limits": [words]}
    true = record["graphs"][0]["members"][0] | {"name": words, "in_class": True}
    originals = {"summary": words, "members": [], "graphs": [true]}
    return write_page(folder, render_graph_page(record, originals))


def rows_of_nodes(folder, words):
    """What is shown where no graph was assembled."""
    from spear_jax.report.graph_page import render_graph_page
    from spear_jax.report.template import write_page

    record = poisoned(graph_record(), words) | {"graphs": []}
    stars = {"list": [[0, [1, 2]]], "certified": True}
    return write_page(folder, render_graph_page(record | {"stars": stars}))


def clients(folder, words):
    """Files, folders and refusals."""
    from spear_jax.report.index import write_index

    folder.mkdir()
    entry = {
        "update": words, "folder": words, "status": "EXACT", "batch_size": 4, "certified": 4, "approximate": 0,
        "seconds": 1.0, "sentence": words,
    }  # fmt: skip
    updates = [entry] * MANY + [entry | {"update": "other/one", "status": None}]
    summary = {"updates": updates, "whole": 1, "total": 2, "certified": 4, "folder": words, "sentence": words}
    return write_index(folder, summary, {words: f"{words}/index.html"})


def redacted(folder, words):
    from spear_jax.report.redacted import render_redacted_page
    from spear_jax.report.template import write_page

    return write_page(folder, render_redacted_page(poisoned(pages.dense_record(), words)))


MAKERS = (table, text, graphs, rows_of_nodes, clients, redacted)


def built(parsed):
    """What a browser would build of a page, but for the words in it."""
    return parsed.tags, parsed.attributes, parsed.scripts


@pytest.mark.parametrize("make", MAKERS)
def test_a_page_is_built_the_same_whatever_things_are_called(make, tmp_path):
    plain = Parsed(make(tmp_path / "plain", "name").read_text())
    for number, words in enumerate(WORDS):
        found = Parsed(make(tmp_path / str(number), words).read_text())
        assert built(found) == built(plain), words
        assert sum(words in one for one in found.words) >= 5
        for link in found.links:
            assert urlsplit(link).scheme in ("", "data")
            assert not link.startswith("/")
        if make is clients:
            assert {unquote(link) for link in found.links} == {f"{words}/index.html"}


@pytest.mark.parametrize("make", MAKERS)
def test_without_escaping_the_same_check_fails(make, tmp_path, monkeypatch):
    from spear_jax.report import template

    plain = Parsed(make(tmp_path / "plain", "name").read_text())
    open_door = template.environment().overlay(autoescape=False)
    monkeypatch.setattr(template, "environment", lambda: open_door)
    for number, words in enumerate(WORDS[:2]):
        try:
            found = Parsed(make(tmp_path / str(number), words).read_text())
        except AssertionError:
            continue
        assert built(found) != built(plain)


def test_titles_are_words(tmp_path):
    """Of a page as of a drawing."""
    from spear_jax.report.graph_drawing import draw
    from spear_jax.report.template import render

    values = {"kicker": "", "is_whole": False, "sentences": [], "notes": [], "num_samples": 0, "tables": {}}
    sweep = {"said": "", "header": [], "rows": [], "more": []}
    for words in WORDS:
        page = Parsed(render("redacted.html", headline=words, sweep=sweep, **values))
        assert page.words.count(words) == 2
        assert page.tags.count("script") == page.tags.count("img") == 0
        drawing = Parsed(draw([words], [], [words], words))
        assert drawing.tags == ["svg", "g", "g", "g", "title", "circle", "text"]
        assert drawing.words.count(words) == 2
