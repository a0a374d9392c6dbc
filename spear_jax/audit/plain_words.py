"""A record in plain words: what was found, of how many, how sure that is, and what would stop it.

For whoever answers for the data and reads nothing else of a page. The words hold no recovered value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from spear_jax.audit import graph_record, text_record
from spear_jax.defences.trials import Bound, Trial, bounds

# Defences beyond these are in the table of trials.
MOST_DEFENCES = 3
SURE_OF_TEXTS = "A certified text is word for word what this client trained on: its own gradient is what came back."
SURE_OF_GRAPHS = "A certified graph has exactly the gradient that came back; where others have it too, they are listed."
SURE_OF_RECORDS = (
    "A certified record is what this client trained on, value for value up to rounding: the update itself confirms it, "
    "and nobody had to know the original."
)
SURE_OF_APPROXIMATE = "What is approximate is confirmed too, with an error that the page states."
NO_PROOF = "That is no proof of safety: a longer search, or another attack, may find more."


class _Found(NamedTuple):
    """What a record says, whatever its family.

    Attributes:
        noun: of one sample, and of several.
        exactly: samples that are certified and no other could be.
        less: samples that are confirmed too, but not exactly.
        how: what they are instead, after "recovered".
        total: samples that the update shows, or that the client reports where these are more; 0 where nobody knows.
        is_reported: whether the client reported the total.
        sure: what that means, in sentences.
    """

    noun: tuple[str, str]
    exactly: int
    less: int
    how: str
    total: int
    is_reported: bool
    sure: list[str]


def in_plain_words(record: Mapping[str, Any], trials: Sequence[Trial] = ()) -> str:
    """One paragraph that says what an update gave away.

    Args:
        record: the dictionary of ``result.json``, of any family, whole or without what was recovered.
        trials: of defences against this update, possibly none.

    Returns:
        Sentences: what was found, of how many, how sure that is, and which defence would have stopped it.
    """
    found = _found(record)
    return " ".join([_what(found), *found.sure, _what_stops_it(trials)])


def _found(record: Mapping[str, Any]) -> _Found:
    certified = _count(record, "certified")
    if record.get("family") == text_record.FAMILY:
        noun, seen, exactly, less, how = ("text", "texts"), _count(record, "num_sequences"), certified, 0, ""
        sure = _sure_of_text(record, certified < seen or not seen)
    elif record.get("family") == graph_record.FAMILY:
        noun, seen, exactly = ("graph", "graphs"), _count(record, "num_graphs"), _count(record, "exact")
        less, how = certified - exactly, "up to other graphs with the same gradient"
        sure = [SURE_OF_GRAPHS] if certified else []
    else:
        noun, seen, exactly = ("record", "records"), _count(record, "batch_size"), certified
        less, how = _count(record, "approximate"), "approximately"
        sure = [SURE_OF_RECORDS] * bool(exactly) + [SURE_OF_APPROXIMATE] * bool(less)
    reported, found = record.get("num_examples"), exactly + less
    is_reported = isinstance(reported, int) and not isinstance(reported, bool) and reported >= max(seen, exactly)
    total = reported if is_reported and isinstance(reported, int) else max(seen, found)
    return _Found(noun, exactly, less, how, total, is_reported, sure or [NO_PROOF])


def _sure_of_text(record: Mapping[str, Any], is_open: bool) -> list[str]:
    """What is sure of texts, and of words where not every text is certified."""
    tokens = record.get("tokens") or {}
    count = tokens["count"] if "count" in tokens else len(tokens.get("ids") or ())
    said = [SURE_OF_TEXTS] if _count(record, "certified") else []
    if is_open and tokens.get("certified") and count:
        said.append(f"It is certain which {count} different tokens, words or parts of words, this client's texts hold.")
    return said


def _count(record: Mapping[str, Any], name: str) -> int:
    value = record.get(name)
    return value if isinstance(value, int) else 0


def _what(found: _Found) -> str:
    one, several = found.noun
    if not found.exactly and not found.less:
        count = f" any of the {found.total} {several} whole and" if found.total > 1 else f" any {one} whole and"
        return f"From this one update alone, the server could not recover{count} with certainty."
    whose = "that this client trained on" if found.is_reported else "that can be told apart in this update"
    of = f"of the {found.total} {several if found.total != 1 else one} {whose}"
    got = found.exactly or found.less
    count = "all" if got == found.total and got > 1 else str(got)
    how = "exactly" if found.exactly else found.how
    more = f" and {found.less} more {found.how}" if found.exactly and found.less else ""
    return f"From this one update alone, the server recovered {how} {count}{more} {of}."


def _what_stops_it(trials: Sequence[Trial]) -> str:
    tried = bounds(trials)
    stopping = [_named(bound) for bound in tried if bound.stops_all[0]]
    if not tried:
        return "Which defence would have stopped this was not tried on this update."
    if not stopping:
        return f"None of the {len(tried)} defences that were tried on this update stopped it."
    more = f", or {len(stopping) - MOST_DEFENCES} more of the table" if len(stopping) > MOST_DEFENCES else ""
    return (
        f"Of {len(tried)} defences that were tried on this update, this attack got nothing behind "
        f"{' or '.join(stopping[:MOST_DEFENCES])}{more}; each costs accuracy, which was not measured here."
    )


def _named(bound: Bound) -> str:
    strength = bound.stops_all[1]
    if not bound.parameter or strength is None:
        return bound.defence
    side = "at most" if bound.is_falling else "at least"
    return f"{bound.defence} ({bound.parameter} {side} {strength:g})"
