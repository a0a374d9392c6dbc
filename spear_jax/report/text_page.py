"""The page of one reconstruction of text: what is certified, traces apart from it, and what would have stopped it.

Everything that comes from a file is escaped here; control characters in text are written out before that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from spear_jax.audit.plain_words import in_plain_words
from spear_jax.audit.text_record import escaped, spoken
from spear_jax.defences.trials import Trial
from spear_jax.report import text_sections
from spear_jax.report.html import document, wide_table
from spear_jax.report.text_values import certificate_sentence, is_reproduced
from spear_jax.report.trials import sweep_html
from spear_jax.report.values import mapping, number, text

# Traces and tokens beyond these are in the record.
MOST_TRACES, MOST_TOKENS = 100, 500


def render_text_page(
    record: Mapping[str, Any], originals: Mapping[str, Any] | None = None, trials: Sequence[Trial] = ()
) -> str:
    """The whole page.

    Args:
        record: the dictionary of ``result.json``.
        originals: ``summary``, and ``texts`` as pairs of a true sequence and whether it came back exactly; None where
            the truth is not known, as it never is to the server.
        trials: of defences against this update, possibly none.
    """
    tables = {name: _fact_table(rows) for name, rows in text_sections.facts(record).items()}
    headline = text_sections.headline(record)
    body = _BODY.substitute(
        tables,
        headline=escape(headline),
        tone="good" if is_reproduced(record) else "part",
        message=_paragraphs(
            [in_plain_words(record, trials), *([text(record["message"])] if record.get("message") else [])]
        ),
        notes=_notes(record, originals),
        threat=_paragraphs([text_sections.threat_model(record)]),
        certified=_certified(record),
        traces=_traces(record),
        tokens=_tokens(record),
        originals=_originals(originals),
        certification=_paragraphs(text_sections.certification(record)),
        views=wide_table(text_sections.VIEW_HEADER, (map(escape, row) for row in text_sections.view_rows(record))),
        defences=sweep_html(trials, text_sections.not_tried(record), "sequences")
        + (_paragraphs([text_sections.RECOGNISABLE]) if trials else ""),
        measures=wide_table(
            text_sections.MEASURE_HEADER,
            (map(escape, row) for row in text_sections.measures(record)),
            "measures",
        ),
    )
    return document(headline, body, _STYLE)


def _notes(record: Mapping[str, Any], originals: Mapping[str, Any] | None) -> str:
    notes = [certificate_sentence(record)]
    if originals is not None:
        notes.append(
            f"Originals and scores are for comparison only; the attack did not see them. {originals['summary']}"
        )
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _certified(record: Mapping[str, Any]) -> str:
    """The certified sequences, one card each."""
    found = [one for one in record["sequences"] if one["exact"]]
    if not found:
        return "<p>None. What follows below is not certified.</p>" if _open(record) else "<p>None.</p>"
    return '<ol class="texts">' + "".join(f'<li class="card ok">{_card(one)}</li>' for one in found) + "</ol>"


def _card(one: Mapping[str, Any]) -> str:
    """One certified sequence: its text and what is known with it."""
    copies = one.get("copies")
    known = [f"{number(len(one['tokens']))} tokens"]
    known += [] if one.get("label") is None else [f"class {number(one['label'])}"]
    known += [f"{number(copies)} times in the batch"] if isinstance(copies, int) and copies > 1 else []
    known += [] if copies else ["how often it was there is not known"]
    footer = f'<span class="badge">certified</span> {escape(", ".join(known))}'
    return f'<p class="said">{escape(spoken(dict(one)))}</p><footer>{footer}</footer>'


def _open(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for one in record["sequences"] if not one["exact"]] + list(record["traces"])


def _traces(record: Mapping[str, Any]) -> str:
    """Sequences and beginnings that are not certified, in a section of their own; nothing where there are none."""
    found = _open(record)
    if not found:
        return ""
    shown = "".join(
        f'<li class="card open"><p class="said">{escape(spoken(dict(one)))}</p>'
        f'<footer><span class="badge">trace</span> not certified</footer></li>'
        for one in found[:MOST_TRACES]
    )
    more = len(found) - MOST_TRACES
    rest = f"<p>{number(more)} more are in result.json.</p>" if more > 0 else ""
    return _TRACES + f'<ul class="texts">{shown}</ul>{rest}</section>'


def _tokens(record: Mapping[str, Any]) -> str:
    """The distinct tokens where no certified sequence holds them, as it does not those of other rounds."""
    tokens = mapping(record.get("tokens"))
    ids, rounds = tokens.get("ids") or [], tokens.get("rounds", 1)
    if not ids or (rounds == 1 and any(one["exact"] for one in record["sequences"])):
        return ""
    tone, words = ("ok", "certified") if tokens.get("certified") else ("open", "not certified")
    spelled = [escaped(word) for word in tokens["texts"]] if tokens.get("texts") else [str(token) for token in ids]
    chips = " ".join(f"<code>{escape(word)}</code>" for word in spelled[:MOST_TOKENS])
    badge = f'<span class="badge">{words}</span>'
    title = f"<h2>The distinct tokens, {number(len(ids))} of them</h2>"
    if rounds != 1:
        title += _paragraphs([text_sections.several_rounds(rounds)])
    return f'{title}<div class="card {tone} tokens"><p>{chips}</p><footer>{badge}</footer></div>'


def _originals(originals: Mapping[str, Any] | None) -> str:
    if originals is None:
        return ""
    rows = [
        (f'<span class="{"ok" if is_exact else "open"}"><span class="badge">{mark}</span></span>', escape(escaped(one)))
        for one, is_exact in originals["texts"]
        for mark in ("exact" if is_exact else "not exact",)
    ]
    return "<h2>The originals</h2>" + wide_table(("Came back", "Text"), rows, "originals")


def _paragraphs(sentences: Iterable[str]) -> str:
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def _fact_table(rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts">{body}</table>'


_TRACES = """<section class="traces">
<h2>Traces, not certified</h2>
<p>What fits all that the gradients show without being confirmed by them. Some of it may have been in the batch; none of
it should be quoted as if it had been.</p>
"""

_STYLE = """
.texts { list-style: none; padding: 0; max-width: none; margin: 0; display: grid; gap: 10px; }
.texts .said { font: 16px/1.5 Georgia, "DejaVu Serif", serif; max-width: none; margin: 0; overflow-wrap: anywhere; }
.traces { margin-top: 44px; border-top: 1px dashed var(--warn); }
.traces h2 { margin-top: 20px; color: var(--warn); }
.traces .said { color: var(--quiet); font-style: italic; }
.tokens code { background: var(--soft); border-radius: 3px; padding: 0 4px; line-height: 1.9; overflow-wrap: anywhere;
  white-space: pre-wrap; }
.tokens p { max-width: none; }
.measures td:first-child { min-width: 22ch; font-weight: 600; }
.measures th { white-space: nowrap; }
.measures td:last-child { white-space: nowrap; color: var(--quiet); }
.originals td:first-child { width: 14ch; }
"""

_BODY = Template("""<p class="kicker">Gradient inversion audit of one update of a language model</p>
<div class="lead $tone">
<h1>$headline</h1>
$message
$notes
</div>
<h2>Certified text</h2>
$certified
$tokens
$traces
$originals
<h2>Threat model</h2>
$threat
<h2>How text is certified</h2>
$certification
<h2>What the gradients show</h2>
<p>Each linear layer's gradient has its rows in the span of what the layer read. A direction is one dimension of that
span above the noise.</p>
$views
<h2>The update</h2>
$observed
<h2>Which defence would have stopped it</h2>
$defences
<h2>What stops this attack in general</h2>
<p>What is measured was measured on tokens, with other batches and a model of 135 million parameters (SmolLM2); the rest
follows from how the attack works.</p>
$measures
<h2>To repeat it</h2>
$repeat
""")
