"""Every kind of page in a real browser: it asks for nothing, complains of nothing, and is seen, read and printed whole.

The oracle is Chromium itself; pages that are wrong in each way show that the checks can fail.
"""

import functools
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.helpers.browser import DESKTOP, PHONE, find_chromium, opened
from tests.helpers.pages import MANY, PAGES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium is on the PATH; install one to open the pages"),
]
# Sides of A4 in points.
A4 = (595.28, 841.89)
# Samples of each page that is searched by what its certificate says, in the order of the menu.
STATES = {
    "photos": [MANY, MANY - 3, 1, 2],
    "table": [MANY, MANY - 2, 1, 1],
    "text": [MANY, MANY - 3, 3],
    "graphs": [MANY, MANY - 3, 2, 1],
    "folder": [MANY, MANY - 3, 1, 2],
}

BROKEN_PICTURES = "Array.from(document.images).filter((one) => !(one.complete && one.naturalWidth > 0)).length"
UNSAID_PICTURES = """Array.from(document.querySelectorAll("img, svg"))
  .filter((one) => !(one.getAttribute("alt") || one.getAttribute("aria-label"))).length"""
UNSAID_FIELDS = """Array.from(document.querySelectorAll("input, select"))
  .filter((one) => !one.labels.length).length"""
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
CUT = """Array.from(document.querySelectorAll("tr, .card, figure, li"))
  .filter((one) => getComputedStyle(one).breakInside !== "avoid").length"""
VISIBLE = """Array.from(document.querySelectorAll("[data-state]")).filter((one) => one.checkVisibility()).length"""
# Words whose contrast with the colour behind them is below 4.5, by the formula of WCAG 2.
FAINT = """(() => {
  const parts = (colour) => (colour.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((one) => one / 255)
      .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor, alpha = parts(colour)[3];
      if (alpha === undefined || alpha > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const one = words.currentNode.parentElement, style = getComputedStyle(one);
    if (!words.currentNode.data.trim() || ["SCRIPT", "STYLE", "title"].includes(one.tagName)) continue;
    const drawn = one.tagName === "text";
    const paper = drawn ? getComputedStyle(one.previousElementSibling).fill : behind(one);
    const [low, high] = [light(drawn ? style.fill : style.color), light(paper)].sort((a, b) => a - b);
    if ((high + 0.05) / (low + 0.05) < 4.5) faint.push(words.currentNode.data.trim());
  }
  return faint;
})()"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with opened(find_chromium(), tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The path of each page by its name, each made once."""
    return functools.cache(lambda name: PAGES[name](tmp_path_factory.mktemp("page") / name))


def faults(tab, path, width=DESKTOP):
    """What is wrong with a page at this width, by name."""
    tab.open(path, width)
    found = {
        "requests": [one for one in tab.requests if not one.startswith(("file:", "data:"))],
        "pictures": tab.value(BROKEN_PICTURES),
        "alternatives": tab.value(UNSAID_PICTURES),
        "labels": tab.value(UNSAID_FIELDS),
        "overflow": max(tab.value(OVERFLOW), 0),
        "faint": tab.value(FAINT),
        "errors": tab.errors,
    }
    return {name: one for name, one in found.items() if one}


def sheets(pdf):
    """Width and height of each sheet of a PDF, in points."""
    boxes = re.findall(rb"/MediaBox \[([\d. ]+)\]", pdf)
    return [tuple(map(float, box.split()))[2:] for box in boxes]


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_fault(tab, page, name, width):
    assert faults(tab, page(name), width) == {}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_prints_on_a4_and_cuts_nothing(tab, page, name):
    tab.open(page(name))
    printed = sheets(tab.pdf())
    assert len(printed) >= 2
    for sheet in printed:
        assert sheet == pytest.approx(A4, abs=1)
    tab.as_printed()
    try:
        assert tab.value(CUT) == 0
    finally:
        tab.as_printed(False)
    assert tab.value(CUT) > 0


@pytest.mark.parametrize("name", STATES)
def test_samples_are_searched_and_filtered(tab, page, name):
    tab.open(page(name))
    show = (
        "(() => {{ const form = document.querySelector('.finder'); form.elements.words.value = {!r};"
        " form.elements.state.selectedIndex = {}; form.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
    )
    found = []
    for place in range(len(STATES[name])):
        tab.value(show.format("", place))
        found.append(tab.value(VISIBLE))
        assert tab.value("document.querySelector('output').textContent") == f"{found[-1]} of {MANY} shown"
    assert found == STATES[name]
    tab.value(show.format("no such word", 0))
    assert tab.value(VISIBLE) == 0
    tab.as_printed()
    try:
        assert tab.value(VISIBLE) == MANY
    finally:
        tab.as_printed(False)
    one = {"photos": "Sample 12", "table": "Sample 12", "text": " 4412,", "graphs": "Graph 12:", "folder": "client-12"}
    tab.value(show.format(one[name].upper(), 0))
    assert tab.value(VISIBLE) == 1


@pytest.mark.parametrize("name", STATES)
def test_keys_reach_the_search_first_and_then_the_filter(tab, page, name):
    tab.open(page(name))
    reached = []
    while "state" not in reached and len(reached) < 6:
        tab.press("Tab")
        reached.append(tab.value("document.activeElement.name || document.activeElement.className"))
    assert reached[-2:] == ["words", "state"]


WRONG = {
    "errors": "<script>console.error('no')</script>",
    "requests": "<script>fetch('http://127.0.0.1:9/x').catch(() => 0)</script>",
    "pictures": "<img alt='a picture' src='data:image/png;base64,AAAA'>",
    "alternatives": "<svg></svg>",
    "labels": "<input>",
    "overflow": "<div style='width:3000px'>wide</div>",
    "faint": "<p style='color:#777'>faint <b style='background:#eee'>words</b></p>",
}


@pytest.mark.parametrize("fault", WRONG)
def test_each_fault_is_seen(tab, tmp_path, fault):
    """What fails to load is told by the browser as an error too."""
    (tmp_path / "page.html").write_text(f"<!doctype html><title>wrong</title><p>words</p>{WRONG[fault]}")
    found = faults(tab, tmp_path / "page.html")
    assert fault in found
    assert set(found) <= {fault, "errors"}


def test_a_thrown_exception_is_an_error(tab, tmp_path):
    (tmp_path / "page.html").write_text("<!doctype html><script>throw new Error('no')</script>")
    assert set(faults(tab, tmp_path / "page.html")) == {"errors"}


@pytest.fixture
def listener():
    """Address of a server, and the paths that it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize("name", PAGES)
def test_what_slips_into_a_page_is_neither_run_nor_fetched(tab, page, name, tmp_path, listener):
    """The second wall: were something not escaped, the page's own policy would still hold the browser back."""
    address, asked = listener
    slipped = f"<script>document.title = 'run'</script><img alt='x' src='{address}/picture'>"
    for policy, is_held in (("Content-Security-Policy", True), ("nothing", False)):
        html = page(name).read_text().replace("Content-Security-Policy", policy).replace("<h1>", f"{slipped}<h1>")
        (tmp_path / "page.html").write_text(html)
        found = faults(tab, tmp_path / "page.html")
        assert (tab.value("document.title") != "run") == is_held
        assert any("Content Security Policy" in error for error in found.get("errors", [])) == is_held
        assert asked == ([] if is_held else ["/picture"])


def test_paper_of_another_size_is_told_from_a4(tab, tmp_path):
    (tmp_path / "page.html").write_text("<!doctype html><style>@page { size: letter }</style><p>words</p>")
    tab.open(tmp_path / "page.html")
    assert sheets(tab.pdf()) == [(612, 792)]
