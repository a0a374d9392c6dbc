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


class _Found(NamedTuple):
    """What a record says, whatever its family.

    Attributes:
        noun: of one sample, and of several.
        certified: samples that are certified.
        approximate: samples that are confirmed with larger errors.
        total: samples that the update shows, or that the client reports where these are more; 0 where nobody knows.
        is_reported: whether the client reported the total.
        surely: what certified means, a sentence.
    """

    noun: tuple[str, str]
    certified: int
    approximate: int
    total: int
    is_reported: bool
    surely: str


def in_plain_words(record: Mapping[str, Any], trials: Sequence[Trial] = ()) -> str:
    """One paragraph that says what an update gave away.

    Args:
        record: the dictionary of ``result.json``, of any family, whole or without what was recovered.
        trials: of defences against this update, possibly none.

    Returns:
        Sentences: what was found, of how many, how sure that is, and which defence would have stopped it.
    """
    found = _found(record)
    return " ".join([_what(found), *_how_sure(found), _what_stops_it(found, trials)])


def _found(record: Mapping[str, Any]) -> _Found:
    reported = record.get("num_examples")
    certified, approximate = _count(record, "certified"), _count(record, "approximate")
    if record.get("family") == text_record.FAMILY:
        noun, seen = ("text", "texts"), _count(record, "num_sequences")
        sure = "A certified text is word for word what this client trained on: its own gradient is what came back."
    elif record.get("family") == graph_record.FAMILY:
        noun, seen = ("graph", "graphs"), _count(record, "num_graphs")
        sure = "A certified graph has exactly the gradient that came back; where others have it too, they are listed."
    else:
        noun, seen = ("record", "records"), _count(record, "batch_size")
        sure = (
            "A certified record is what this client trained on, value for value up to rounding: the update itself "
            "confirms it, and nobody had to know the original."
        )
    is_reported = isinstance(reported, int) and not isinstance(reported, bool) and reported >= max(seen, certified)
    total = reported if is_reported and isinstance(reported, int) else max(seen, certified + approximate)
    return _Found(noun, certified, approximate, total, is_reported, sure)


def _count(record: Mapping[str, Any], name: str) -> int:
    value = record.get(name)
    return value if isinstance(value, int) else 0


def _what(found: _Found) -> str:
    one, several = found.noun
    if not found.certified and not found.approximate:
        count = f" any of the {found.total} {several}" if found.total > 1 else f" any {one}"
        return f"From this one update alone, the server could not recover{count} with certainty."
    whose = "that this client trained on" if found.is_reported else "that can be told apart in this update"
    of = f"of the {found.total} {several if found.total != 1 else one} {whose}"
    got = found.certified or found.approximate
    count = "all" if got == found.total and got > 1 else str(got)
    how = "exactly" if found.certified else "approximately"
    more = f" and {found.approximate} more approximately" if found.certified and found.approximate else ""
    return f"From this one update alone, the server recovered {how} {count}{more} {of}."


def _how_sure(found: _Found) -> list[str]:
    said = [found.surely] if found.certified else []
    if found.approximate:
        said.append("What is approximate is confirmed too, with an error that the page states.")
    if not said:
        said.append("That is no proof of safety: a longer search, or another attack, may find more.")
    return said


def _what_stops_it(found: _Found, trials: Sequence[Trial]) -> str:
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
