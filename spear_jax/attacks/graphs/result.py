"""What the attack on a graph network returns: classes of graphs, nodes' rows, how far each can be relied on."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from spear_jax.graphs.graph import Graph
from spear_jax.status import Status


class Star(NamedTuple):
    """A node and its neighbours, by their rows.

    Attributes:
        centre: number of its row in `GraphResult.rows`.
        neighbours: numbers of the neighbours' rows, in rising order, one for each neighbour.
    """

    centre: int
    neighbours: tuple[int, ...]


class ViewSize(NamedTuple):
    """How many directions the gradients show of what one linear layer reads.

    Attributes:
        name: of the layer's tensors, canonical, without ``.weight``.
        level: of the colours that it reads: 0 for rows, 1 for neighbourhoods, and so on.
        rank: directions above the noise.
        width: length of what the layer reads.
    """

    name: str
    level: int
    rank: int
    width: int


class Reproduction(NamedTuple):
    """How far the gradient of a batch of graphs, computed again, is from what came back.

    Attributes:
        residual: norm of what is left of all gradients over their norm.
        limit: of the residual, up to which rounding explains it.
    """

    residual: float
    limit: float

    @property
    def is_exact(self) -> bool:
        """Whether the graphs explain all that came back."""
        return bool(self.residual <= self.limit)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class GraphClass:
    """The graphs that one input graph may be: all have exactly the gradient that came back.

    Attributes:
        members: the graphs that were found, no two isomorphic, the likeliest first: a guess by the ranking.
        is_certified: whether the gradient of a batch of such members is what came back and colours that it counts
            agree.
        is_cut: whether the search for further members was cut at a limit, so that there may be more.
        may_be_larger: whether graphs with several times as many nodes, which are not listed, have the gradient too: a
            mean over nodes does not tell.
        exact: whether the class is certified and has one member, and nothing else fits.
    """

    members: tuple[Graph, ...]
    is_certified: bool
    is_cut: bool
    may_be_larger: bool
    exact: bool

    @property
    def size(self) -> int:
        """Number of members found; a lower bound where the search was cut."""
        return len(self.members)

    @property
    def nodes(self) -> tuple[int, ...]:
        """Different numbers of nodes among the members, in rising order."""
        return tuple(sorted({graph.num_nodes for graph in self.members}))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class GraphResult:
    """A reconstruction of the graphs behind an update.

    Attributes:
        classes: for each input graph, in arbitrary order, the graphs that it may be; empty where none were assembled.
        rows: (k, columns) float64, different rows of nodes that fit the gradients.
        rows_exact: (k,) bool, whether each is certified to be there.
        stars: neighbourhoods that fit the gradients.
        stars_exact: whether these are certified to be all that are there.
        reproduction: of the first member of each class, None where no graphs were assembled.
        status: how it ended; ``status.value`` is a sentence.
        reason: the same with its numbers, one sentence.
        views: what the gradients show.
        seconds: wall-clock seconds by stage.
    """

    classes: tuple[GraphClass, ...] = ()
    rows: np.ndarray
    rows_exact: np.ndarray
    stars: tuple[Star, ...] = ()
    stars_exact: bool = False
    reproduction: Reproduction | None = None
    status: Status
    reason: str
    views: tuple[ViewSize, ...]
    seconds: dict[str, Any]

    @property
    def num_graphs(self) -> int:
        """Graphs of the batch that were assembled."""
        return len(self.classes)

    @property
    def num_certified(self) -> int:
        """Graphs of the batch that are certified up to their class."""
        return sum(one.is_certified for one in self.classes)
