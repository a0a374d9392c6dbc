"""The page of one reconstruction, filled section by section.

Everything that comes from a file is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from spear_jax.audit.plain_words import in_plain_words
from spear_jax.defences.trials import Trial
from spear_jax.report import sections
from spear_jax.report.html import document
from spear_jax.report.trials import how_to_try, sweep_html
from spear_jax.report.values import text


def render_page(
    record: Mapping[str, Any],
    *,
    headline: str,
    is_complete: bool,
    samples_html: str,
    notes: Iterable[str],
    num_by_network: int,
    trials: Sequence[Trial],
) -> str:
    """The whole page.

    Args:
        record: the dictionary of ``result.json``, with any key missing.
        headline: the first sentence, plain text.
        is_complete: whether everything was certified exact, which decides how the headline is marked.
        samples_html: what is shown of the samples, already HTML.
        notes: sentences below the headline, plain text.
        num_by_network: samples that the layers above confirm, each on its own.
        trials: of defences against this update, possibly none.
    """
    tables = {name: _fact_table(rows) for name, rows in sections.facts(record).items()}
    body = _BODY.substitute(
        tables,
        headline=escape(headline),
        tone="good" if is_complete else "part",
        message=_paragraphs(
            [in_plain_words(record, trials), *([text(record["message"])] if record.get("message") else [])]
        ),
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in notes),
        threat=_paragraphs([sections.threat_model(record)]),
        samples=samples_html,
        certification=_paragraphs(sections.certification(record, num_by_network)),
        noise=_paragraphs(sections.noise(record)),
        defences=sweep_html(trials, how_to_try(record)),
        limits="".join(f"<li><b>{escape(name)}.</b> {escape(why)}</li>" for name, why in sections.limits(record)),
    )
    return document(headline, body)


def _paragraphs(sentences: Iterable[str]) -> str:
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def _fact_table(rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts">{body}</table>'


_BODY = Template("""<p class="kicker">Gradient inversion audit of one federated-learning update</p>
<div class="lead $tone">
<h1>$headline</h1>
$message
$notes
</div>
<h2>Threat model</h2>
$threat
<h2>The samples</h2>
$samples
<h2>How it was certified</h2>
$certification
$certified
<h2>What it cost</h2>
$cost
<h2>The update and its noise</h2>
$noise
$observed
<h2>Which defence would have stopped it</h2>
$defences
<h3>What stops this attack in general</h3>
<ul>$limits</ul>
<h2>To repeat it</h2>
$repeat
""")
