"""Drawings of graphs: paths are as long as the graph says, every node has its place, and nothing is markup."""

import numpy as np
import pytest


def bundled(name):
    from spear_jax.client.graph_batch import demo_molecules

    every = demo_molecules()
    return every.graphs[every.names.index(name)]


@pytest.mark.parametrize("name", ["caffeine", "cholesterol", "atorvastatin", "imatinib", "morphine"])
def test_nodes_keep_apart_and_edges_have_one_length(name):
    from spear_jax.report.graph_layout import layout

    graph = bundled(name)
    places = layout(graph.num_nodes, [tuple(edge) for edge in graph.edges.tolist()])
    lengths = np.linalg.norm(places[graph.edges[:, 0]] - places[graph.edges[:, 1]], axis=1)
    assert 0.4 < lengths.min()
    assert lengths.max() < 1.6
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)[np.triu_indices(graph.num_nodes, 1)]
    assert apart.min() > 0.25
    assert places.min() >= 0


def test_a_path_is_drawn_straight():
    from spear_jax.report.graph_layout import layout

    places = layout(6, [(i, i + 1) for i in range(5)])
    np.testing.assert_allclose(np.ptp(places, axis=0), [5, 0], atol=0.05)


def test_stress_falls_below_that_of_the_start_and_of_a_wrong_graph():
    from spear_jax.report.graph_layout import layout, stress
    from tests.helpers.graph_records import rewired

    graph = bundled("cholesterol")
    edges = [tuple(edge) for edge in graph.edges.tolist()]
    places = layout(graph.num_nodes, edges)
    own, other = (paths(one) for one in (graph, rewired(graph, 4)))
    generator = np.random.default_rng(0)
    assert stress(places, own) < 0.3 * stress(5 * generator.normal(size=places.shape), own)
    assert stress(places, own) < 0.5 * stress(places, other)


def paths(graph):
    """Shortest paths by repeated products, another way than the module's."""
    reached, found = np.eye(graph.num_nodes), np.full((graph.num_nodes, graph.num_nodes), np.inf)
    for steps in range(graph.num_nodes):
        found[(reached > 0) & np.isinf(found)] = steps
        reached = reached @ (graph.adjacency() + np.eye(graph.num_nodes)) > 0
        reached = reached.astype(float)
    return found


def test_components_stand_beside_one_another():
    from spear_jax.report.graph_layout import layout

    places = layout(5, [(0, 1), (1, 2), (3, 4)])
    assert places[:3, 0].max() < places[3:, 0].min()
    assert layout(1, []).tolist() == [[0, 0]]
    assert layout(0, []).shape == (0, 2)


def test_a_drawing_is_the_same_each_time_and_escapes_what_it_is_given():
    from spear_jax.report.graph_drawing import draw

    labels, edges = ["<b>", "N", "Cl"], [(0, 1), (1, 2)]
    first = draw(labels, edges, ["a & b", "<i>", '"'], "<title>")
    assert first == draw(labels, edges, ["a & b", "<i>", '"'], "<title>")
    assert first.count("<circle") == 3
    assert first.count("<line") == 2
    for raw in ("<b>", "<i>", "<title>&", "a & b"):
        assert raw not in first.replace("<title>", "", 3)
    assert "&lt;b&gt;" in first
    assert "a &amp; b" in first


def test_labels_that_are_long_are_shortened():
    from spear_jax.report.graph_drawing import draw

    svg = draw(["carbon"], [], ["type carbon"])
    assert ">ca\N{HORIZONTAL ELLIPSIS}</text>" in svg
    assert "<title>type carbon</title>" in svg
