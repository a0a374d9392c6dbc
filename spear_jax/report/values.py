"""How the report writes values: numbers for people, a dash for what a record lacks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from spear_jax.audit.plain_words import in_plain_words
from spear_jax.defences.trials import Trial

DASH = "\N{EN DASH}"
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def number(value: Any) -> str:
    """A number as people write it: 27 000 000 is 2.7 x 10^7, infinity its sign, anything else its text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return DASH if math.isnan(value) else "\N{INFINITY}"
    if value == 0 or (value == int(value) and abs(value) < 1e6):
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    power = str(int(exponent)).translate(_SUPERSCRIPT)
    return f"{mantissa} \N{MULTIPLICATION SIGN} 10{power}"


def share(value: Any) -> str:
    """A share in [0, 1] that reads 1 only where it is 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return text(value)
    return "1" if value == 1 else f"{min(value, 0.9999):.4f}"


def count_of(count: Any, total: Any) -> str:
    """``3 of 4``; a dash where nothing is known."""
    return DASH if count is None else f"{number(count)} of {number(total)}"


def opening(record: Mapping[str, Any], trials: Sequence[Trial] = ()) -> list[str]:
    """The first paragraphs of any page: the record in plain words, and how the attack ended."""
    return [in_plain_words(record, trials), *([text(record["message"])] if record.get("message") else [])]


def comparison(summary: str | None) -> str:
    """What stands over originals, with their scores in a sentence."""
    told = "Originals and scores are for comparison only; the attack did not see them."
    return f"{told} {summary}" if summary else told


def said(record: Mapping[str, Any]) -> list[str]:
    """What a record says of the batch as a whole, in sentences: of its certificate, and why it is not whole."""
    notes, findings = (record.get(name) if isinstance(record.get(name), list) else [] for name in ("notes", "findings"))
    sentences = [mapping(finding).get("sentence") for finding in findings or []]
    return [sentence for sentence in (*(notes or []), *sentences) if isinstance(sentence, str)]


def copies(counts: Any, reported: Any) -> str:
    """How many of the client's samples the inputs stand for, equal ones being merged; a dash where nobody counted.

    Args:
        counts: how often each input was in the batch, None in it where that is not certain.
        reported: samples that the client said it had.
    """
    if not isinstance(counts, list | tuple):
        return DASH
    known = [count for count in counts if count is not None]
    merged = sum(count > 1 for count in known)
    return f"{count_of(sum(known), reported)} reported samples accounted for, {merged} inputs more than once"


def devices(stats: Mapping[str, Any]) -> str:
    """How many of which kind."""
    kind = text(stats.get("device_kind"))
    return kind if stats.get("devices") is None else f"{number(stats['devices'])} \N{MULTIPLICATION SIGN} {kind}"


def text(value: Any) -> str:
    """Plain text of a JSON value; a dash for what is missing."""
    if value is None or value == "" or value == {} or value == []:
        return DASH
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return " ".join(text(entry) for entry in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def shape(value: Any) -> str:
    """``400 × 1,728``."""
    if isinstance(value, list | tuple) and value:
        return " \N{MULTIPLICATION SIGN} ".join(number(size) for size in value)
    return text(value)


def seconds(by_stage: Mapping[str, Any]) -> str:
    """Seconds by stage and in total."""
    known = {name: time for name, time in by_stage.items() if isinstance(time, int | float)}
    if not known:
        return DASH
    total = {} if "total" in known else {"total": sum(known.values())}
    return ", ".join(f"{name} {time:.2f}" for name, time in (known | total).items())


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def returned_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of a table of facts: what came back of a model, by tensors, and how the attack ended."""
    seen = mapping(record.get("observed"))
    return [
        ("Sent as", text([part for part in (seen.get("kind"), seen.get("dtype")) if part])),
        ("Rounded to half precision before that", text(seen.get("half"))),
        ("Tensors that came back", number(seen.get("tensors"))),
        ("of these without a change", number(seen.get("untrained"))),
        ("Learning rate", number(seen.get("lr"))),
        ("Batch size as the client reports it", number(record.get("num_examples"))),
        ("Status", text(record.get("status"))),
        ("Seconds", seconds(mapping(record.get("seconds")))),
    ]


def repeat_rows(record: Mapping[str, Any], command: str) -> list[tuple[str, str]]:
    """Rows of a table of facts: what it takes to repeat a reconstruction."""
    return [
        ("Command", command),
        ("SHA-256 of the update", text(record.get("update_sha256"))),
        ("Versions", text(mapping(record.get("versions")))),
    ]
