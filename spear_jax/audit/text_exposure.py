"""What an update of a language model shows before any search: what came back, what it tells apart, what to expect."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from spear_jax.attacks.text.certificate import limit
from spear_jax.attacks.text.pipeline import BLOCKS
from spear_jax.attacks.text.views import View, make_views
from spear_jax.audit.text_record import observed
from spear_jax.errors import SpearError
from spear_jax.language.observation import TextObservation
from spear_jax.language.transformer import block_params, module_names
from spear_jax.update.text_names import block_of
from spear_jax.update.text_update import TextUpdate

# Beginnings per direction of one input that a dozen blocks told together.
TOGETHER = 6
WHOLE, TOKENS, TRACES, NOTHING = "whole sequences", "tokens only", "traces, not certified", "nothing"


class TextExposure(NamedTuple):
    """Facts and verdict of an update.

    Attributes:
        observed: what the client sent, as in a record.
        modules: what came back with a gradient, ``{"self_attn.q_proj": number of blocks}``.
        views: sizes of the views as a record has them, in the order in which the search uses them.
        most_tokens: distinct tokens that can be told apart at most; None where nothing can.
        most_beginnings: beginnings of sequences that can be told apart at most; None where none can.
        refusals: why no batch follows exactly, a sentence each.
        expected: ``"whole sequences"`` or ``"tokens only"``, certified; ``"traces, not certified"``; or ``"nothing"``.
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
    expected, why = _expected(observation, views, tokens, beginnings)
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
    """Beginnings of sequences that the views behind the first one tell apart: each by itself, else all together."""
    told = [view for view in views[1:] if not view.is_full]
    if not told or not all(view.is_capped for view in told):
        return max((view.rank for view in told), default=None)
    return max(min((view.width + view.rank - 1) // 2, TOGETHER * view.rank) for view in told)


def _expected(
    observation: TextObservation, views: list[View], tokens: int | None, beginnings: int | None
) -> tuple[str, str]:
    """What a search should find, and why, the end of a sentence."""
    is_gpt2 = observation.architecture.family == "gpt2"
    if not views:
        return NOTHING, (
            "no gradient of the first block's queries, keys or values came back, from which the tokens are read."
        )
    if tokens is None:
        return NOTHING, (
            f"the first block shows {views[0].rank} directions of {views[0].width}: the batch has at least as many "
            "distinct tokens, and nothing can be told apart."
        )
    if is_gpt2 and views[0].is_capped:
        return NOTHING, (
            f"the first block shows as many directions as its gradients have rows, {views[0].rank}: behind learned "
            "positions tokens are found only where there are rows to spare."
        )
    why = _why_no_order(views[1:], is_gpt2) or _why_no_labels(observation) or _why_no_certificate(observation, views)
    if why is None and all(view.is_capped for view in views[1:] if not view.is_full):
        return WHOLE, (
            "each input behind the first shows as many directions as its gradients have rows; all blocks together told "
            f"batches of about {beginnings} beginnings of sequences apart, of more the tokens come out."
        )
    if why is None:
        return WHOLE, f"all {beginnings} beginnings of sequences show, and each can be told apart."
    alone = _why_no_tokens(views[0], is_gpt2)
    return (TOKENS, why) if alone is None else (TRACES, f"{why} {alone}")


def _why_no_tokens(first: View, is_gpt2: bool) -> str | None:
    """Why tokens are not certified by themselves, a sentence; None where they are."""
    if is_gpt2:
        return "Behind learned positions tokens alone are not certified."
    if not first.is_complete:
        return "Tokens alone are certified where gradients of the values came back, in full precision."
    if not first.is_noise_known:
        return "Behind noise tokens alone are not certified: a weak one passes for it."
    return None


def _why_no_order(later: list[View], is_gpt2: bool) -> str | None:
    """Why the views behind the first one do not show how tokens follow one another, None where they do."""
    told = [view for view in later if not view.is_full]
    if not told:
        return "no other input of the first two blocks is told apart, so the order of the tokens is not seen: " + (
            "they are full." if later else "their gradients did not come back."
        )
    if is_gpt2 and all(view.is_capped for view in told):
        most = max(view.rank for view in told)
        return (
            f"each input behind the first shows as many directions as its gradients have rows, {most} at most; "
            f"a batch of fewer than {most} beginnings of sequences comes back whole."
        )
    return None


def _why_no_labels(observation: TextObservation) -> str | None:
    """Why it is not seen how sequences end, None where it is: the last block's gradients show the labels."""
    architecture = observation.architecture
    (outward,) = module_names(architecture, architecture.layers - 1, "down")
    if f"{outward}.weight" in observation.gradients:
        return None
    if not block_params(architecture, dict(observation.gradients), architecture.layers - 1):
        return (
            "no gradient of the last block came back, from which labels are read; beginnings of sequences are found, "
            "but no sequence is certified."
        )
    return None


def _why_no_certificate(observation: TextObservation, views: list[View]) -> str | None:
    """Why the gradient of no batch agrees with what came back, None where it may: noise beyond that of rounding."""
    square = sum(float(np.sum(np.square(g, dtype=np.float64))) for g in observation.gradients.values())
    noises = [view.noise for view in views if not (view.is_full or view.is_capped)]
    noise = float(np.median(noises)) if noises and observation.is_half is None else 0.0
    if noise <= limit(observation, square):
        return None
    return (
        f"the gradients have noise of {noise:.1g} of their root mean square, more than rounding leaves, as after a "
        "defence; what fits is found, but no sequence is certified."
    )
