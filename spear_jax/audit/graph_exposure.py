"""What an update of a graph network shows before any search: directions, what is in the way, what to expect."""

from __future__ import annotations

from typing import Any, NamedTuple

from spear_jax.attacks.graphs import reasons
from spear_jax.attacks.graphs.views import View, make_views, sieving
from spear_jax.audit.graph_record import described, observed
from spear_jax.errors import SpearError
from spear_jax.update.graph_update import GraphUpdate

GRAPHS, NEIGHBOURHOODS, NODES, NOTHING = "graphs", "neighbourhoods only", "node rows only", "nothing"


class GraphExposure(NamedTuple):
    """Facts and verdict of an update.

    Attributes:
        observed: what the client sent, as in a record.
        model: kind and sizes, and what of it was taken for granted.
        views: directions that the gradients show of what each layer reads, the lowest level first.
        refusals: why no graph follows exactly, a sentence each.
        limits: what keeps whole graphs from following although something does, a sentence each.
        expected: ``"graphs"``, ``"neighbourhoods only"``, ``"node rows only"`` or ``"nothing"``.
        verdict: ``expected`` with its reason, one sentence.
    """

    observed: dict[str, Any]
    model: dict[str, Any]
    views: tuple[dict[str, Any], ...]
    refusals: tuple[str, ...]
    limits: tuple[str, ...]
    expected: str
    verdict: str


def graph_exposure(update: GraphUpdate) -> GraphExposure:
    """Facts and verdict of an update, without a search: a factorisation of each layer's gradient."""
    seen, model = observed(update), described(update)
    try:
        observation = update.observation()
    except SpearError as error:
        refusals = (update.refusals if update.gradients else ()) or (str(error),)
        return GraphExposure(seen, model, (), refusals, (), NOTHING, f"{NOTHING}: {refusals[0]}")
    views = make_views(observation)
    expected, why = _expected(update, views)
    sizes = tuple(view.size._asdict() for view in views)
    return GraphExposure(seen, model, sizes, (), update.limits, expected, f"{expected}: {why}")


def _expected(update: GraphUpdate, views: list[View]) -> tuple[str, str]:
    """What a search should find, and why, the end of a sentence."""
    rows = [view for view in views if view.level == 0]
    if not rows:
        return NOTHING, "no gradient of a layer that reads nodes' rows came back."
    if all(view.rank >= view.size.width for view in rows):
        return NOTHING, (
            f"the first layer shows {rows[0].rank} directions of {rows[0].size.width}: they fill its space, and no row "
            "is told from another."
        )
    if update.model.architecture.kind == "gat":
        return NODES, "attention mixes nodes behind the weights, which read their rows alone."
    telling = sieving(update.model.architecture, views, 1)
    if not telling:
        return NODES, (update.limits or ("no layer behind the first tells neighbourhoods apart.",))[0]
    if telling[0].rank < rows[0].rank:
        activation = update.model.architecture.activation
        return NODES, (update.limits or (reasons.capacity(telling[0], rows[0].rank, activation),))[0]
    if update.limits:
        return NEIGHBOURHOODS, update.limits[0]
    return GRAPHS, (
        f"neighbourhoods show {telling[0].rank} directions; graphs that share their counts of neighbourhoods have the "
        "same gradient and are listed together."
    )
