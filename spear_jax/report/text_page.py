"""The page of one reconstruction of text: what is certified, traces apart from it, and what would have stopped it.

Control characters in text are written out before it is filled in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spear_jax.audit.text_record import escaped, spoken
from spear_jax.defences.trials import Trial
from spear_jax.report import text_sections
from spear_jax.report.template import render
from spear_jax.report.text_values import certificate_sentence, is_reproduced
from spear_jax.report.trials import sweep
from spear_jax.report.values import comparison, mapping, number, opening

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
    certified = [one for one in record["sequences"] if one["exact"]]
    traces = [one for one in record["sequences"] if not one["exact"]] + list(record["traces"])
    return render(
        "text.html",
        headline=text_sections.headline(record),
        is_whole=is_reproduced(record),
        sentences=opening(record, trials),
        notes=[certificate_sentence(record), *([comparison(originals["summary"])] if originals else [])],
        num_samples=len(certified) + len(traces[:MOST_TRACES]),
        certified=[(spoken(dict(one)), _known(one)) for one in certified],
        traces=[spoken(dict(one)) for one in traces[:MOST_TRACES]],
        num_more=len(traces) - MOST_TRACES,
        tokens=_tokens(record),
        originals=[_original(*one) for one in originals["texts"]] if originals else [],
        threat_model=text_sections.threat_model(record),
        certification=text_sections.certification(record),
        view_header=text_sections.VIEW_HEADER,
        views=text_sections.view_rows(record),
        sweep=sweep(trials, text_sections.not_tried(record), "sequences"),
        measure_header=text_sections.MEASURE_HEADER,
        measures=text_sections.measures(record),
        tables=text_sections.facts(record),
    )


def _known(one: Mapping[str, Any]) -> str:
    """What is known of a certified sequence beside its text."""
    copies = one.get("copies")
    known = [f"{number(len(one['tokens']))} tokens"]
    known += [] if one.get("label") is None else [f"class {number(one['label'])}"]
    known += [f"{number(copies)} times in the batch"] if isinstance(copies, int) and copies > 1 else []
    known += [] if copies else ["how often it was there is not known"]
    return ", ".join(known)


def _tokens(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The distinct tokens where no certified sequence holds them, as it does not those of other rounds."""
    tokens = mapping(record.get("tokens"))
    ids, rounds = tokens.get("ids") or [], tokens.get("rounds", 1)
    if not ids or (rounds == 1 and any(one["exact"] for one in record["sequences"])):
        return None
    spelled = [escaped(word) for word in tokens["texts"]] if tokens.get("texts") else [str(token) for token in ids]
    return {
        "count": number(len(ids)),
        "words": spelled[:MOST_TOKENS],
        "is_certified": bool(tokens.get("certified")),
        "notes": [] if rounds == 1 else [text_sections.several_rounds(rounds)],
    }


def _original(words: str, is_exact: bool) -> tuple[dict[str, str], str]:
    """A row of the originals."""
    tone, verdict = ("ok", "exact") if is_exact else ("open", "not exact")
    return {"tone": tone, "words": verdict}, escaped(words)
