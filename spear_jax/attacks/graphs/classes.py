"""From neighbourhoods and the layer behind the pool to all graphs that each input graph may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from spear_jax.attacks.graphs import reasons
from spear_jax.attacks.graphs.assembly import MOST_MEMBERS, assemble
from spear_jax.attacks.graphs.batches import tell_apart
from spear_jax.attacks.graphs.certificate import Candidates
from spear_jax.attacks.graphs.colours import MOST_COLOURS, count_colours, find_colours
from spear_jax.attacks.graphs.counts import MOST_NODES, MOST_WEIGHED, Weighed, certain_rows, counts_of, weigh
from spear_jax.attacks.graphs.evidence import gather_evidence
from spear_jax.attacks.graphs.levels import Level, Model, pooled_states
from spear_jax.attacks.graphs.pooled import Pooled
from spear_jax.attacks.graphs.ranking import Ranking
from spear_jax.attacks.graphs.traceless import may_be_traceless
from spear_jax.attacks.graphs.views import View, is_bent, sieving
from spear_jax.graphs.graph import Graph, invariant, is_isomorphic
from spear_jax.graphs.observation import GraphObservation
from spear_jax.stages import stage

# Graphs with more than the fewest nodes are listed up to so many nodes, of so many numbers of nodes, so many of each.
MOST_LISTED, MOST_SIZES, MOST_OF_SIZE = 30, 4, 24
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
        levels, number, is_same = _highest(setting, stars, is_sieved)
        if number > (MOST_WEIGHED if len(levels) == setting.observation.architecture.layers else MOST_COLOURS):
            return found if found.graphs or found.reason else Found([], reasons.too_many_colours(number))
        more = _counted(setting, levels, pooled) if number else found
        found = more if len(more.graphs) >= len(found.graphs) else found
        if len(found.graphs) == pooled.found.rank or is_same:
            break
    if len(found.graphs) < pooled.found.rank and not found.reason:
        missing = reasons.not_told(len(found.graphs), pooled.found.rank)
        few = reasons.no_counts(len(stars), len(pooled.bias))
        return found._replace(reason=missing if found.graphs else few)
    return found


def _highest(setting: Setting, stars: Level, is_sieved: bool) -> tuple[list[Level], int, bool]:
    """Levels from the first up to the highest, or as far as colours are not too many.

    Returns:
        the levels, the number of colours of the last one or of the one that was too large, whether nothing sieved them.
    """
    levels, architecture, is_same = [stars], setting.observation.architecture, True
    for layer in range(1, architecture.layers):
        number = count_colours(levels[-1])
        if number > MOST_COLOURS:
            return levels, number, is_same
        telling = (
            sieving(architecture, setting.views, layer + 1) if is_sieved and is_bent(architecture, layer + 1) else []
        )
        is_same = is_same and not telling
        levels.append(find_colours(setting.model, layer, levels[-1], telling))
    return levels, len(levels[-1]), is_same


def _counted(setting: Setting, levels: Sequence[Level], pooled: Pooled) -> Found:
    """Graphs of colours of the highest level: one, or several that the outputs tell apart."""
    level = levels[-1]
    states = pooled_states(setting.model, level)
    if pooled.found.rank == 1:
        evidence = None
        if len(levels) > 1:
            evidence = gather_evidence(setting.observation, setting.model, levels[-2], level, pooled)
        told, extra = [pooled], [evidence]
    else:
        told = tell_apart(level, states, pooled, setting.is_mean)
        extra = [None] * len(told)
    if len(told) > pooled.found.rank:
        return Found([], reasons.not_apart(len(told), pooled.found.rank))
    graphs = []
    for one, evidence in zip(told, extra, strict=True):
        weighed = weigh(level, states, one, setting.is_mean, evidence)
        graphs.append(Candidates([], False) if weighed is None else find_members(setting, level, weighed))
    if may_be_traceless(setting.model, setting.observation.features, states):
        graphs = [graph._replace(is_cut=True) for graph in graphs]
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
    """All graphs whose colours have counts that fit, the likeliest first; no members where none can be put together.

    Args:
        setting: of the batch.
        level: colours of the highest level.
        weighed: shares of these colours.
    """
    members, is_cut, sizes = [], False, 0
    for nodes in _sizes(setting):
        if sizes == MOST_SIZES or (members and nodes > max(MOST_LISTED, members[0].num_nodes)):
            break
        found, is_short = _of_size(setting, level, weighed, nodes, MOST_OF_SIZE if members else MOST_MEMBERS)
        sizes += bool(found)
        is_cut = is_cut or (is_short and not members)  # of larger ones a class never claims to list all
        members += found
    members.sort(key=setting.rank)
    return Candidates(members, is_cut, certain_rows(weighed, level))


def _sizes(setting: Setting) -> range:
    """Numbers of nodes that are tried; 1 where the pool is a sum, which tells."""
    largest = setting.observation.features.max_nodes or MOST_NODES
    return range(1, largest + 1) if setting.is_mean else range(1, 2)


def _of_size(setting: Setting, level: Level, weighed: Weighed, nodes: int, most: int) -> tuple[list[Graph], bool]:
    """Graphs with a number of nodes, and whether there may be more of them."""
    counts = counts_of(weighed, level, nodes)
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
