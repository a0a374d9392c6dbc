"""The look of every page: self-contained HTML that also prints."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from spear_jax.tensor_files import make_folder


def document(title: str, body: str, more_style: str = "") -> str:
    """A whole page.

    Args:
        title: plain text.
        body: what stands in ``main``, already HTML.
        more_style: CSS of this kind of page.
    """
    return _DOCUMENT.substitute(title=escape(title), style=STYLE + more_style, body=body)


def wide_table(header: Iterable[str], rows: Iterable[Iterable[str]], kind: str = "") -> str:
    """A table under a header.

    Args:
        header: plain text.
        rows: cells, already HTML.
        kind: a class of its own, for the page's style.
    """
    head = "".join(f"<th>{escape(title)}</th>" for title in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="{f"sweep {kind}".strip()}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def write_index(folder: Path, page: str) -> Path:
    """Write a page as ``index.html`` of a folder, which is made where it does not exist, and give its path."""
    make_folder(folder)
    index = folder / "index.html"
    index.write_text(page, encoding="utf-8", errors="surrogateescape")
    return index


STYLE = """
:root { color-scheme: light; --ink:#1c2430; --quiet:#5d6777; --line:#dfe3e8; --soft:#f5f7f9;
  --good:#1a7f4b; --goodsoft:#e8f5ee; --warn:#a84c08; --warnsoft:#fdf2e4; --near:#1f5fa8; --nearsoft:#e9f1fa; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 40px 28px 56px; }
.kicker { color: var(--quiet); font-size: 14px; letter-spacing: .02em; margin: 0 0 6px; }
h1 { font-size: 28px; line-height: 1.22; margin: 0 0 12px; letter-spacing: -.01em; text-wrap: balance; }
h2 { font-size: 20px; margin: 44px 0 12px; }
p { max-width: 76ch; margin: 0 0 10px; }
.lead { border-left: 5px solid var(--line); padding-left: 20px; }
.lead.good { border-color: var(--good); }
.lead.part { border-color: var(--warn); }
.note { color: var(--quiet); font-size: 14px; }
.cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--card)), 1fr)); }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; break-inside: avoid; }
.card.open { background: var(--warnsoft); border: 1px dashed var(--warn); }
.card header { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 4px 8px; font-size: 14px;
  margin-bottom: 8px; }
.card footer { color: var(--quiet); font-size: 13px; font-variant-numeric: tabular-nums; margin-top: 6px; }
.strip { display: flex; gap: 8px; }
figure { margin: 0; flex: 1 1 0; min-width: 0; }
figure img, .none { display: block; width: 100%; border-radius: 3px; }
img.crisp { image-rendering: pixelated; }
.none { aspect-ratio: 1; background: #e9ecf0; color: var(--quiet); font-size: 13px; display: grid;
  place-items: center; }
figcaption { color: var(--quiet); font-size: 12px; line-height: 1.3; margin-top: 3px; }
.badge { font-size: 12px; font-weight: 600; border-radius: 99px; padding: 1px 9px; white-space: nowrap; }
.ok .badge { color: var(--good); background: var(--goodsoft); }
.near .badge { color: var(--near); background: var(--nearsoft); }
.open .badge { color: #fff; background: var(--warn); }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
.facts { max-width: 860px; margin-top: 14px; }
.facts th { text-align: left; font-weight: 400; color: var(--quiet); width: 34%; padding: 5px 14px 5px 0; }
.facts td { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; padding: 5px 0; }
.facts th, .facts td { vertical-align: top; border-top: 1px solid var(--line); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 6px 14px; margin: 0; }
dt { color: var(--quiet); font-size: 12px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
dd { margin: 0; font-size: 14px; font-variant-numeric: tabular-nums; }
.sweep th { text-align: left; color: var(--quiet); font-weight: 600; }
.sweep th, .sweep td { vertical-align: top; border-top: 1px solid var(--line); padding: 5px 14px 5px 0;
  overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.sweep th { overflow-wrap: normal; }
h3 { font-size: 16px; margin: 20px 0 8px; }
ul { padding-left: 20px; max-width: 80ch; margin: 0; }
li { margin-bottom: 6px; }
@media print {
  @page { margin: 16mm; }
  body { font-size: 11pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; margin-top: 24px; }
  tr, li { break-inside: avoid; }
  .cards { gap: 8px; grid-template-columns: repeat(auto-fill, minmax(min(100%, calc(.62 * var(--card))), 1fr)); }
  p { orphans: 3; widows: 3; }
  figcaption { font-size: 6pt; }
}
"""

_DOCUMENT = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
$body</main>
</body>
</html>
""")
