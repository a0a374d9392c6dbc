"""From neighbourhoods and the layer behind the pool to all graphs that each input graph may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from spear_jax.attacks.graphs import reasons
from spear_jax.attacks.graphs.assembly import MOST_MEMBERS, assemble
from spear_jax.attacks.graphs.batches import tell_apart
from spear_jax.attacks.graphs.certificate import Candidates
from spear_jax.attacks.graphs.colours import MOST_COLOURS, count_colours, find_colours
from spear_jax.attacks.graphs.counts import MOST_NODES, MOST_WEIGHED, Weighed, counts_of, weigh
from spear_jax.attacks.graphs.levels import Level, Model, pooled_states
from spear_jax.attacks.graphs.pooled import Pooled
from spear_jax.attacks.graphs.ranking import Ranking
from spear_jax.attacks.graphs.views import View, sieving
from spear_jax.graphs.graph import Graph, invariant, is_isomorphic
from spear_jax.graphs.observation import GraphObservation
from spear_jax.stages import stage

# Graphs with several times the smallest number of nodes are listed up to so many nodes, so many of each size.
MOST_LISTED, MOST_OF_MULTIPLE = 30, 24
# Counts of colours that are assembled, of one number of nodes.
MOST_VECTORS = 200


class Setting(NamedTuple):
    """What is the same for every graph of a batch.

    Attributes:
        observation: what came back.
        model: the network.
        views: of all levels.
        rank: key by which members are sorted.
    """

    observation: GraphObservation
    model: Model
    views: Sequence[View]
    rank: Ranking

    @property
    def is_mean(self) -> bool:
        """Whether the pool is a mean, so that numbers of nodes are known up to a factor."""
        return self.observation.architecture.pool == "mean"


class Found(NamedTuple):
    """Graphs of a batch, and what is missing.

    Attributes:
        graphs: for each input graph what it may be, those left out of which none was put together.
        reason: a sentence where any is missing, else empty.
    """

    graphs: list[Candidates]
    reason: str


def find_candidates(setting: Setting, stars: Level, pooled: Pooled) -> Found:
    """All graphs that each input graph may be.

    Views sieve the colours first. One that shows fewer directions than there are colours leaves some out, so that where
    no counts fit, all colours are taken.

    Args:
        setting: of the batch.
        stars: level 1.
        pooled: the layer behind the pool.
    """
    found = Found([], "")
    for is_sieved in (True, False):
        level, number, is_same = _highest(setting, stars, is_sieved)
        if level is None:
            return found if found.reason else Found([], reasons.too_many_colours(number))
        found = _counted(setting, level, pooled) if len(level) else found
        if found.graphs or is_same:
            break
    return found if found.graphs or found.reason else Found([], reasons.no_counts(len(stars), len(pooled.bias)))


def _highest(setting: Setting, stars: Level, is_sieved: bool) -> tuple[Level | None, int, bool]:
    """Colours of the highest level, None where there are too many; their number; whether nothing sieved them."""
    level, architecture, is_same = stars, setting.observation.architecture, True
    for layer in range(1, architecture.layers):
        number = count_colours(level)
        if number > MOST_COLOURS:
            return None, number, is_same
        telling = sieving(architecture, setting.views, layer + 1) if is_sieved else []
        is_same = is_same and not telling
        level = find_colours(setting.model, layer, level, telling)
    return (level if len(level) <= MOST_WEIGHED else None), len(level), is_same


def _counted(setting: Setting, level: Level, pooled: Pooled) -> Found:
    """Graphs of colours of the highest level: one, or several that the outputs tell apart."""
    states = pooled_states(setting.model, level)
    if pooled.found.rank == 1:
        weighed = weigh(level, states, pooled, setting.is_mean)
        if weighed is None:
            return Found([], "")
        return _together([find_members(setting, level, weighed)])
    told = tell_apart(level, states, pooled, setting.is_mean)
    if len(told) > pooled.found.rank:
        return Found([], reasons.not_apart(len(told), pooled.found.rank))
    graphs = []
    for one in told:
        weighed = weigh(level, states, one, setting.is_mean)
        graphs.append(Candidates([], False) if weighed is None else find_members(setting, level, weighed))
    return _together(graphs)


def _together(graphs: list[Candidates]) -> Found:
    """Those that were put together, and a sentence on the others."""
    there = [graph for graph in graphs if graph.members]
    missing = len(graphs) - len(there)
    if not there:
        return Found([], "")
    return Found(there, reasons.not_assembled(missing, len(graphs)) if missing else "")


@stage("graphs: assembly")
def find_members(setting: Setting, level: Level, weighed: Weighed) -> Candidates:
    """All graphs whose colours have some counts, the likeliest first; no members where none can be put together.

    Args:
        setting: of the batch.
        level: colours of the highest level.
        weighed: counts by groups of colours with equal states, for the smallest number of nodes.
    """
    smallest, members, is_cut = int(weighed.sums.sum()), [], False
    largest = setting.observation.features.max_nodes or MOST_NODES
    for multiple in range(1, largest // smallest + 1 if setting.is_mean else 2):
        if members and smallest * multiple > MOST_LISTED:
            break
        most = MOST_OF_MULTIPLE if members else MOST_MEMBERS
        found, is_short = _of_size(setting, level, weighed, multiple, most)
        is_cut = is_cut or (is_short and not members)  # of larger ones a class never claims to list all
        members += found
    members.sort(key=setting.rank)
    return Candidates(members, is_cut)


def _of_size(setting: Setting, level: Level, weighed: Weighed, multiple: int, most: int) -> tuple[list[Graph], bool]:
    """Graphs with a multiple of the smallest number of nodes, and whether there may be more of them."""
    counts = counts_of(weighed, level, multiple)
    known: dict[bytes, list[Graph]] = {}
    is_cut = not counts.is_complete or len(counts.vectors) > MOST_VECTORS
    for vector in counts.vectors[:MOST_VECTORS]:
        found = assemble(level, vector, setting.model.features, setting.observation.features.is_connected, most)
        is_cut = is_cut or found.is_cut
        for graph in found.graphs:
            alike = known.setdefault(invariant(graph), [])
            if not any(is_isomorphic(graph, other) for other in alike):
                alike.append(graph)
    return [graph for alike in known.values() for graph in alike], is_cut
