"""From colours and a pooled vector to all graphs that one input graph may be."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spear_jax.attacks.graphs.assembly import MOST_MEMBERS, assemble
from spear_jax.attacks.graphs.certificate import Candidates
from spear_jax.attacks.graphs.counts import MOST_NODES, Weighed, counts_of
from spear_jax.attacks.graphs.levels import Level
from spear_jax.attacks.graphs.ranking import Ranking
from spear_jax.graphs.features import Features
from spear_jax.graphs.graph import Graph, invariant, is_isomorphic
from spear_jax.stages import stage

# Graphs with several times the smallest number of nodes are listed up to so many nodes, so many of each size.
MOST_LISTED, MOST_OF_MULTIPLE = 30, 24
# Counts of colours that are assembled, of one number of nodes.
MOST_VECTORS = 200


class Setting(NamedTuple):
    """What is the same for every graph of a batch.

    Attributes:
        features: what is public of them.
        rows: (r, columns) rows of features that levels number.
        is_mean: whether the pool is a mean.
        rank: key by which members are sorted.
    """

    features: Features
    rows: np.ndarray
    is_mean: bool
    rank: Ranking


@stage("graphs: assembly")
def find_members(setting: Setting, level: Level, weighed: Weighed) -> Candidates:
    """All graphs whose colours have some counts, the likeliest first; no members where none can be put together.

    Args:
        setting: of the batch.
        level: colours of the highest level.
        weighed: counts by groups of colours with equal states, for the smallest number of nodes.
    """
    smallest, members, is_cut = int(weighed.sums.sum()), [], False
    largest = setting.features.max_nodes or MOST_NODES
    multiple = 0
    while smallest * (multiple + 1) <= (min(largest, MOST_LISTED) if members else largest):
        multiple += 1
        if multiple > 1 and not setting.is_mean:
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
        found = assemble(level, vector, setting.rows, setting.features.is_connected, most)
        is_cut = is_cut or found.is_cut
        for graph in found.graphs:
            alike = known.setdefault(invariant(graph), [])
            if not any(is_isomorphic(graph, other) for other in alike):
                alike.append(graph)
    return [graph for alike in known.values() for graph in alike], is_cut
