"""Graphs, their colours, isomorphism, features and observations: what holds and what is refused."""

import itertools

import numpy as np
import pytest


def ring(size, rows=None):
    from spear_jax.graphs.graph import Graph

    return Graph(np.ones((size, 1)) if rows is None else rows, np.array([(i, (i + 1) % size) for i in range(size)]))


def random_graph(seed, nodes=6, kinds=2):
    from spear_jax.graphs.graph import Graph

    rng = np.random.default_rng(seed)
    pairs = np.array(list(itertools.combinations(range(nodes), 2)))
    return Graph(np.eye(kinds)[rng.integers(0, kinds, nodes)], pairs[rng.random(len(pairs)) < 0.4])


def is_isomorphic_by_force(one, other):
    if one.num_nodes != other.num_nodes:
        return False
    matrix = one.adjacency()
    for order in itertools.permutations(range(one.num_nodes)):
        order = np.array(order)
        if np.array_equal(one.rows[order], other.rows) and np.array_equal(matrix[order][:, order], other.adjacency()):
            return True
    return False


@pytest.mark.parametrize("seed", range(8))
def test_isomorphism_is_what_all_permutations_say(seed):
    from spear_jax.graphs.graph import invariant, is_isomorphic, permuted

    one = random_graph(seed)
    again = permuted(one, np.random.default_rng(seed).permutation(6))
    assert is_isomorphic(one, again)
    assert invariant(one) == invariant(again)
    for other in (random_graph(seed + 100), random_graph(seed + 200)):
        assert is_isomorphic(one, other) == is_isomorphic_by_force(one, other)


def test_colours_do_not_tell_a_hexagon_from_two_triangles_but_isomorphism_does():
    from spear_jax.graphs.graph import Graph, colour_counts, is_isomorphic

    triangles = Graph(np.ones((6, 1)), np.array([(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5)]))
    assert colour_counts([ring(6)], 4) == colour_counts([triangles], 4)
    assert not is_isomorphic(ring(6), triangles)
    assert ring(6).is_connected
    assert not triangles.is_connected


def test_colours_see_as_far_as_their_level():
    from spear_jax.graphs.graph import Graph, colours

    path = Graph(np.ones((7, 1)), np.array([(i, i + 1) for i in range(6)]))
    assert [len(set(colours(path, level))) for level in range(4)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("rows", "edges", "said"),
    [
        (np.ones((0, 2)), [], "one node or more"),
        (np.full((2, 1), np.nan), [], "finite"),
        (np.ones((2, 1)), [(0, 2)], r"two nodes from 0 to 1"),
        (np.ones((2, 1)), [(1, 1)], "joined to itself"),
        (np.ones((2, 1)), [(0, 1), (1, 0)], "given twice"),
    ],
)
def test_what_is_no_graph_is_refused(rows, edges, said):
    from spear_jax.errors import SpearError
    from spear_jax.graphs.graph import Graph

    with pytest.raises(SpearError, match=said):
        Graph(rows, np.array(edges))


def test_rows_say_degrees_and_labels():
    from spear_jax.graphs.features import Block, Features

    features = Features(blocks=(Block("atom", ("C", "N")), Block("degree", ("1", "2", "4"))), degree="degree")
    rows = np.array([[1.0, 0, 0, 0, 1], [0, 1, 1, 0, 0]])
    assert features.degrees(rows).tolist() == [4, 1]
    assert features.labels(rows[0]) == {"atom": "C", "degree": "4"}
    assert features.columns == 5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "neither blocks nor possible rows"),
        ({"blocks": ("atom",), "degree": "degree"}, "none of this name"),
        ({"blocks": ("atom",), "degree": "atom"}, "a number for each label"),
        ({"blocks": ("atom",), "possible": np.eye(3)}, "describe 2 columns but the possible rows have 3"),
        ({"possible": np.ones((2, 3))}, "given twice"),
    ],
)
def test_features_that_say_nothing_are_refused(given, said):
    from spear_jax.errors import SpearError
    from spear_jax.graphs.features import Block, Features

    given = given | ({"blocks": (Block("atom", ("C", "N")),)} if "blocks" in given else {})
    with pytest.raises(SpearError, match=said):
        Features(**given)


def test_an_observation_names_the_tensor_that_is_wrong():
    from spear_jax.errors import SpearError
    from spear_jax.graphs.architecture import Architecture, shapes
    from spear_jax.graphs.features import Block, Features
    from spear_jax.graphs.observation import GraphObservation

    architecture = Architecture(kind="gcn", columns=2, widths=(4, 4))
    params = {name: np.ones(shape) for name, shape in shapes(architecture).items()}
    features = Features(blocks=(Block("atom", ("C", "N")),))
    known = {"architecture": architecture, "features": features, "params": params}
    GraphObservation(**known, gradients=params)
    for gradients, said in (
        ({}, "no tensor of the graph network"),
        ({"convs.7.weight": np.ones((4, 4))}, "convs.7.weight came back, but the model has no such tensor"),
        ({"convs.0.weight": np.ones((4, 3))}, r"convs.0.weight came back with shape \(4, 3\)"),
        ({"convs.0.weight": np.full((4, 2), np.inf)}, "convs.0.weight holds NaN"),
    ):
        with pytest.raises(SpearError, match=said):
            GraphObservation(**known, gradients=gradients)
    wide = Features(blocks=(Block("atom", ("C", "N", "O")),))
    with pytest.raises(SpearError, match="3 columns but the first convolution takes 2"):
        GraphObservation(**known | {"features": wide}, gradients=params)
    short = {name: tensor for name, tensor in params.items() if name != "convs.1.weight"}
    with pytest.raises(SpearError, match="no tensor convs.1.weight"):
        GraphObservation(**known | {"params": short}, gradients=short)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "cheb"}, "kind is 'cheb'"),
        ({"pool": "max"}, "pool is 'max'"),
        ({"readout": "node"}, "expected two or more"),
        ({"is_activated": (True,)}, "1 entries for 2 convolutions"),
        ({"activation": "swoosh"}, "activation is 'swoosh'"),
        ({"kind": "gat", "heads": 3}, "no multiples of 3 heads"),
    ],
)
def test_architectures_that_are_none_are_refused(options, said):
    from spear_jax.errors import SpearError
    from spear_jax.graphs.architecture import Architecture

    with pytest.raises(SpearError, match=said):
        Architecture(**{"kind": "gcn", "columns": 2, "widths": (4, 4)} | options)
