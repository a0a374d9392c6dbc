"""Stages of the attack on graphs by themselves, against planted answers and enumeration by force."""

import itertools

import numpy as np
import pytest


def level_of(graphs, height=2):
    """Colours of a level of some graphs, as the attack numbers them, and those of each graph's nodes."""
    from spear_jax.attacks.graphs.levels import NONE, Level

    rows = np.unique(np.concatenate([graph.rows for graph in graphs]), axis=0)
    number = {row.tobytes(): place for place, row in enumerate(rows)}
    nodes = [[number[row.tobytes()] for row in graph.rows] for graph in graphs]
    level = Level(np.arange(len(rows)), np.zeros((len(rows), 0), int), np.zeros(0), np.arange(len(rows)), rows)
    for _ in range(height):
        named = [
            [(own[i], tuple(sorted(own[j] for j in near))) for i, near in enumerate(graph.neighbours())]
            for graph, own in zip(graphs, nodes, strict=True)
        ]
        colours = sorted({colour for some in named for colour in some})
        place = {colour: i for i, colour in enumerate(colours)}
        nodes = [[place[colour] for colour in some] for some in named]
        slots = np.full((len(colours), 6), NONE)
        for i, (_, near) in enumerate(colours):
            slots[i, : len(near)] = near
        own = np.array([own for own, _ in colours])
        states = np.random.default_rng(height).normal(size=(len(colours), 40))
        level = Level(own, slots, (slots != NONE).sum(axis=1), level.rows[own], states)
    return level, nodes, rows


def pooled_of(vector, rank=1):
    from spear_jax.attacks.graphs.pooled import Pooled
    from spear_jax.row_space import row_space

    found = row_space(np.outer([1.0, 2.0], vector), np.dtype("float64"))
    return Pooled(vector, 1e-16, found, np.array([1.0, 2.0]), np.outer([1.0, 2.0], vector))


def path_and_ring():
    from spear_jax.graphs.graph import Graph

    kinds = np.eye(2)[[0, 1, 0, 0, 1, 0]]
    ring = Graph(kinds, np.array([(i, (i + 1) % 6) for i in range(6)]))
    return ring, Graph(kinds, np.array([(i, i + 1) for i in range(5)]))


def graphs_with_colours(graph):
    """All graphs with the colours of level 2 that a graph has, by force over all edges."""
    from spear_jax.graphs.graph import Graph, colour_counts, is_isomorphic

    expected, found = colour_counts([graph], 2), []
    pairs = list(itertools.combinations(range(graph.num_nodes), 2))
    for edges in itertools.combinations(pairs, len(graph.edges)):
        other = Graph(graph.rows, np.array(edges))
        if colour_counts([other], 2) == expected and not any(is_isomorphic(other, one) for one in found):
            found.append(other)
    return found


@pytest.mark.parametrize("place", [0, 1])
def test_assembly_lists_all_graphs_of_given_colours_and_no_others(place):
    from spear_jax.attacks.graphs.assembly import assemble
    from spear_jax.graphs.graph import is_isomorphic

    graph = path_and_ring()[place]
    level, (nodes,), rows = level_of([graph])
    counts = np.bincount(nodes, minlength=len(level))
    expected = graphs_with_colours(graph)
    found = assemble(level, counts, rows, False)
    assert not found.is_cut
    assert len(found.graphs) == len(expected)
    assert all(any(is_isomorphic(one, other) for other in expected) for one in found.graphs)
    connected = assemble(level, counts, rows, True).graphs
    assert len(connected) == sum(one.is_connected for one in expected)


def test_assembly_says_that_it_was_cut():
    from spear_jax.attacks.graphs.assembly import assemble
    from spear_jax.graphs.graph import Graph

    ring = Graph(np.ones((12, 1)), np.array([(i, (i + 1) % 12) for i in range(12)]))
    level, (nodes,), rows = level_of([ring])
    counts = np.bincount(nodes, minlength=len(level))
    whole = assemble(level, counts, rows, False)
    assert sorted(sorted(map(len, one.components())) for one in whole.graphs) == [
        [3, 3, 3, 3], [3, 3, 6], [3, 4, 5], [3, 9], [4, 4, 4], [4, 8], [5, 7], [6, 6], [12]
    ]  # fmt: skip
    assert not whole.is_cut
    assert assemble(level, counts, rows, False, most=2).is_cut


def test_counts_are_those_that_were_planted_and_no_others():
    from spear_jax.attacks.graphs.counts import counts_of, weigh

    graphs = path_and_ring()
    level, nodes, _ = level_of(graphs)
    planted = np.bincount(nodes[1], minlength=len(level))
    vector = planted @ level.states / planted.sum()
    weighed = weigh(level, level.states, pooled_of(vector), True)
    assert weighed.is_complete
    sizes = {n: counts_of(weighed, level, n).vectors for n in range(1, 13)}
    assert {n for n, vectors in sizes.items() if vectors} == {6, 12}
    assert [vector.tolist() for vector in sizes[6]] == [planted.tolist()]
    assert weigh(level, level.states, pooled_of(vector + 1e-6 * np.random.default_rng(0).normal(size=40)), True) is None


def test_colours_that_add_up_alike_are_all_listed():
    """Where two colours' states have the mean of another two, no gradient tells which pair is there."""
    from spear_jax.attacks.graphs.counts import counts_of, weigh

    level, (nodes,), _ = level_of([path_and_ring()[1]])
    states = level.states.copy()
    twice = level.at(np.tile(np.arange(len(level)), 2))
    planted = np.bincount(nodes, minlength=len(level))
    weighed = weigh(twice, twice.states, pooled_of(planted @ states), False)
    vectors = counts_of(weighed, twice).vectors
    assert all(np.array_equal(vector[: len(level)] + vector[len(level) :], planted) for vector in vectors)
    assert len(vectors) == np.prod(planted[planted > 0] + 1)
    assert len({vector.tobytes() for vector in vectors}) == len(vectors)


def test_rows_by_blocks_are_those_of_all_rows_that_fit():
    from spear_jax.attacks.graphs.rows import find_rows
    from spear_jax.attacks.graphs.views import make_views
    from tests.helpers import molecules as m

    private = m.chosen("aspirin")
    architecture, params = m.network("gcn", width=60)
    observation = m.observed(architecture, params, private)
    view = make_views(observation)[0]
    found = {row.tobytes() for row in find_rows(observation, view)}
    basis = np.linalg.svd(observation.gradients["convs.0.weight"])[2][: view.rank]
    expected, blocks = set(), [np.eye(len(block.labels)) for block in private.features.blocks]
    live = [block[np.any(basis, axis=0)[private.features.columns_of(one.name)]]
            for block, one in zip(blocks, private.features.blocks, strict=True)]  # fmt: skip
    for parts in itertools.product(*live):
        row = np.concatenate(parts)
        if np.linalg.norm(row - (row @ basis.T) @ basis) < 1e-9:
            expected.add(row.tobytes())
    assert {row.tobytes() for row in private.graphs[0].rows} <= found
    assert found == expected


def test_a_ranking_prefers_rings_of_six():
    from spear_jax.attacks.graphs.ranking import by_rings, smallest_rings
    from spear_jax.graphs.features import Block, Features
    from spear_jax.graphs.graph import Graph

    def ring(size):
        return Graph(np.tile([0.0, 1.0], (size, 1)), np.array([(i, (i + 1) % size) for i in range(size)]))

    rank = by_rings(Features(blocks=(Block("aromatic", ("no", "yes")),)))
    assert [one.num_nodes for one in sorted((ring(size) for size in range(3, 9)), key=rank)[:2]] == [6, 5]
    assert smallest_rings(ring(5)) == [5] * 5
    chain = Graph(np.tile([1.0, 0.0], (3, 1)), np.array([(0, 1), (1, 2)]))
    assert smallest_rings(chain) == [0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_graphs_of_a_batch_are_corners(seed):
    from spear_jax.attacks.graphs.batches import tell_apart
    from spear_jax.attacks.graphs.pooled import Pooled
    from spear_jax.row_space import row_space

    graphs = path_and_ring()
    level, nodes, _ = level_of(graphs)
    rng = np.random.default_rng(seed)
    shares = np.stack([np.bincount(own, minlength=len(level)) / len(own) for own in nodes])
    by_output = rng.normal(size=(4, 2))
    weight = by_output @ shares @ level.states
    mean = weight.T @ by_output.sum(axis=1)
    pooled = Pooled(mean, 1e-16, row_space(weight, np.dtype("float64")), by_output.sum(axis=1), weight)
    found = np.stack([one.vector for one in tell_apart(level, level.states, pooled, True)])
    expected = shares @ level.states
    distance = np.linalg.norm(found[:, None] - expected, axis=2)
    assert len(found) == 2
    assert sorted(distance.argmin(axis=0)) == [0, 1]
    assert distance.min(axis=0).max() < 1e-9
