"""One graph: from its neighbourhoods to counts of colours of the highest level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from spear_jax.attacks.graphs.colours import MOST_COLOURS, count_colours, find_colours
from spear_jax.attacks.graphs.counts import MOST_WEIGHED, Weighed, weigh
from spear_jax.attacks.graphs.levels import Level, Model, pooled_states
from spear_jax.attacks.graphs.pooled import Pooled
from spear_jax.attacks.graphs.views import View


class Coloured(NamedTuple):
    """Colours of the highest level, and how often they are there.

    Attributes:
        level: of them; None where there are too many to look through.
        weighed: None where no counts fit.
        number: of colours that were, or would have to be, looked through.
    """

    level: Level | None
    weighed: Weighed | None
    number: int


def colour(model: Model, stars: Level, views: Sequence[View], pooled: Pooled) -> Coloured:
    """Colours of the highest level with counts that give the pooled vector.

    Views sieve them first. A view that shows fewer directions than there are colours leaves some out, so that where no
    counts fit, all colours are taken.

    Args:
        model: the network.
        stars: level 1.
        views: of all levels.
        pooled: vector, of one graph.
    """
    best = Coloured(None, None, 0)
    for is_sieved in (True, False):
        level, number, is_same = stars, len(stars), True
        for layer in range(1, model.architecture.layers):
            number = count_colours(level)
            if number > MOST_COLOURS:
                return Coloured(None, None, number)
            telling = sieving(model, views, layer + 1) if is_sieved else []
            is_same = is_same and not telling
            level = find_colours(model, layer, level, telling)
        if len(level) <= MOST_WEIGHED and len(level):
            weighed = weigh(level, pooled_states(model, level), pooled, model.architecture.pool == "mean")
            best = Coloured(level, weighed, number)
        else:
            best = Coloured(None, None, len(level))
        if best.weighed is not None or is_same:
            break
    return best


def sieving(model: Model, views: Sequence[View], level: int) -> list[View]:
    """Views of a level that tell its colours apart: those that read them as they are, where there are such."""
    found = [view for view in views if view.level == level and view.rank < 0.97 * len(view.found.space.scale)]
    if model.architecture.kind != "gin":
        return found
    return [view for view in found if view.reads != "states"] or found
