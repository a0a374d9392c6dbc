"""What an update of a language model shows before any search: what came back, what it tells apart, what to expect."""

from __future__ import annotations

from typing import Any, NamedTuple

from spear_jax.attacks.text.pipeline import BLOCKS
from spear_jax.attacks.text.views import View, make_views
from spear_jax.audit.text_record import observed
from spear_jax.errors import SpearError
from spear_jax.language.observation import TextObservation
from spear_jax.update.text_names import block_of
from spear_jax.update.text_update import TextUpdate

WHOLE, TOKENS, NOTHING = "whole sequences", "tokens only", "nothing"


class TextExposure(NamedTuple):
    """Facts and verdict of an update.

    Attributes:
        observed: what the client sent, as in a record.
        modules: what came back with a gradient, ``{"self_attn.q_proj": number of blocks}``.
        views: sizes of the views as a record has them, in the order in which the search uses them.
        most_tokens: distinct tokens that can be told apart at most; None where nothing can.
        most_beginnings: beginnings of sequences that can be told apart at most; None where none can.
        refusals: why no batch follows exactly, a sentence each.
        expected: ``"whole sequences"``, ``"tokens only"`` or ``"nothing"``.
        verdict: ``expected`` with its reason, one sentence.
    """

    observed: dict[str, Any]
    modules: dict[str, int]
    views: tuple[dict[str, Any], ...]
    most_tokens: int | None
    most_beginnings: int | None
    refusals: tuple[str, ...]
    expected: str
    verdict: str


def text_exposure(update: TextUpdate) -> TextExposure:
    """Facts and verdict of an update, without a search: a factorisation of each gradient of the first blocks."""
    seen = observed(update)
    try:
        observation = update.observation()
    except SpearError as error:
        reasons = update.refusals or (str(error),)
        modules = _modules(update) if update.gradients else {}
        return TextExposure(seen, modules, (), None, None, reasons, NOTHING, f"{NOTHING}: {reasons[0]}")
    views = _views(observation)
    tokens, beginnings = _most_tokens(views), _most_beginnings(views)
    expected, why = _expected(views, tokens, beginnings)
    sizes = tuple(view.size._asdict() for view in views)
    return TextExposure(seen, _modules(update), sizes, tokens, beginnings, (), expected, f"{expected}: {why}")


def _views(observation: TextObservation) -> list[View]:
    """The views that a search has; none where the first block's attention did not come back, from which it starts."""
    views = make_views(observation, range(min(BLOCKS, observation.architecture.layers)))
    return views if views and views[0].shows_tokens else []


def _modules(update: TextUpdate) -> dict[str, int]:
    """In how many blocks each kind of tensor has a gradient."""
    found: dict[str, int] = {}
    for name in update.gradients:
        block = block_of(name)
        part = name if block is None else name.split(f".{block}.", 1)[-1]
        part = part.removesuffix(".weight")
        found[part] = found.get(part, 0) + 1
    return found


def _most_tokens(views: list[View]) -> int | None:
    """Distinct tokens that the first view tells apart: what it shows, or where rows limit it, what is unique.

    Generic combinations of u rows of length d that span k < u dimensions are combinations of no others as long as
    ``u < (d + k) / 2`` (Davies and Eldar 2012).
    """
    if not views or views[0].is_full:
        return None
    first = views[0]
    return (first.width + first.rank - 1) // 2 if first.is_capped else first.rank


def _most_beginnings(views: list[View]) -> int | None:
    """Beginnings of sequences that the views behind the first one tell apart, each by itself."""
    sizes = [view.rank for view in views[1:] if not view.is_full]
    return max(sizes, default=None)


def _expected(views: list[View], tokens: int | None, beginnings: int | None) -> tuple[str, str]:
    """What a search should find, and why, the end of a sentence."""
    if not views:
        return NOTHING, (
            "no gradient of the first block's queries, keys or values came back, from which the tokens are read."
        )
    if tokens is None:
        return NOTHING, (
            f"the first block shows {views[0].rank} directions of {views[0].width}: the batch has at least as many "
            "distinct tokens, and nothing can be told apart."
        )
    later = [view for view in views[1:] if not view.is_full]
    if not later:
        return TOKENS, (
            "no other input of the first two blocks is told apart, so the order of the tokens is not seen: "
            + ("they are full." if len(views) > 1 else "their gradients did not come back.")
        )
    if all(view.is_capped for view in later):
        return TOKENS, (
            f"each input behind the first shows as many directions as its gradients have rows, {beginnings} at most; "
            f"a batch of not more than {beginnings} beginnings of sequences comes back whole."
        )
    return WHOLE, f"all {beginnings} beginnings of sequences show, and each can be told apart."
