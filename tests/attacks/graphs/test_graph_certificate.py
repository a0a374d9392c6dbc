"""The certificate of graphs: what has another gradient is refused, and what shares it is never called exact."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import molecules as m


def on_device(params):
    return {name: jnp.asarray(tensor) for name, tensor in params.items()}


def corrupted(graph, rng):
    """The graph with an edge moved, a node's row exchanged for another's, or a node dropped."""
    from spear_jax.graphs.graph import Graph

    rows, edges = graph.rows.copy(), graph.edges.tolist()
    what = rng.integers(3)
    if what == 0:
        free = [[i, j] for i in range(len(rows)) for j in range(i + 1, len(rows)) if [i, j] not in edges]
        edges[rng.integers(len(edges))] = free[rng.integers(len(free))]
    elif what == 1:
        rows[rng.integers(len(rows))] = rows[rng.integers(len(rows))]
    else:
        gone = int(rng.integers(len(rows)))
        edges = [[i - (i > gone), j - (j > gone)] for i, j in edges if gone not in (i, j)]
        rows = np.delete(rows, gone, axis=0)
    return Graph(rows, np.array(edges))


def shares(graph):
    from spear_jax.graphs.graph import colour_counts

    return {colour: count / graph.num_nodes for colour, count in colour_counts([graph], 2).items()}


@pytest.mark.parametrize(
    ("kind", "name"), [("gcn", "caffeine"), pytest.param("sage", "cholesterol", marks=pytest.mark.slow)]
)
def test_a_wrong_graph_is_certified_only_where_its_colours_agree(kind, name):
    from spear_jax.attacks.graphs.certificate import reproduce

    private = m.chosen(name)
    architecture, params = m.network(kind)
    observation, device = m.observed(architecture, params, private), on_device(params)
    assert reproduce(observation, device, private.graphs).is_exact
    rng, agreeing = np.random.default_rng(0), 0
    for _ in range(60):
        wrong = corrupted(private.graphs[0], rng)
        agrees = shares(wrong) == shares(private.graphs[0])
        agreeing += agrees
        assert reproduce(observation, device, [wrong]).is_exact == agrees
    assert agreeing < 60


def test_a_mean_does_not_tell_a_ring_from_one_of_half_its_size():
    """A ring of equal nodes has one colour, so that any number of nodes fits; none is exact, the true one is listed."""
    from spear_jax.attacks.graphs.pipeline import reconstruct
    from spear_jax.graphs.graph import Graph

    private = m.chosen("caffeine")
    row = private.graphs[0].rows[np.flatnonzero(private.graphs[0].degrees == 2)[0]]
    ring = Graph(np.tile(row, (6, 1)), np.array([(i, (i + 1) % 6) for i in range(6)]))
    private = private._replace(graphs=(ring,))
    architecture, params = m.network("gcn")
    result = reconstruct(m.observed(architecture, params, private))
    (one,) = result.classes
    assert one.is_certified
    assert one.may_be_larger
    assert not one.exact
    assert one.nodes[0] == 3
    assert m.is_in(ring, one)


def test_a_bound_on_nodes_and_connected_graphs_make_one_exact():
    """Lidocaine is alone among connected graphs of fewer than twice its nodes."""
    from spear_jax.attacks.graphs.pipeline import reconstruct

    private = m.chosen("lidocaine")
    architecture, params = m.network("gin")
    known = {"is_connected": True, "max_nodes": 33}
    for changes, is_exact in (({}, False), (known, True), (known | {"max_nodes": 34}, False)):
        features = dataclasses.replace(private.features, **changes)
        result = reconstruct(m.observed(architecture, params, private, features))
        assert m.is_true(result, private)
        assert result.classes[0].exact == is_exact


def test_two_graphs_behind_one_output_are_not_certified():
    from spear_jax.attacks.graphs.pipeline import reconstruct

    private = m.chosen("metformin", "glucose")
    architecture, params = m.network("gin")
    result = reconstruct(m.observed(architecture, params, private, m.listed(private)))
    assert not any(one.is_certified for one in result.classes)
    assert "cannot be told apart" in result.reason


@pytest.mark.slow
def test_equal_graphs_of_a_batch_count_as_one():
    from spear_jax.attacks.graphs.pipeline import reconstruct

    private = m.chosen("metformin", "metformin", "glucose")
    architecture, params = m.network("gin", tasks=4)
    result = reconstruct(m.observed(architecture, params, private, m.listed(private)))
    certified = [one for one in result.classes if one.is_certified]
    assert len(certified) in (0, 2)
    assert all(any(m.is_in(graph, one) for graph in private.graphs) for one in certified)


def test_noise_leaves_nothing_certified():
    from spear_jax.attacks.graphs.pipeline import reconstruct

    private = m.chosen("metformin")
    architecture, params = m.network("gcn")
    observation = m.observed(architecture, params, private)
    rng = np.random.default_rng(0)
    noisy = {
        name: gradient + 1e-3 * np.sqrt(np.mean(gradient**2)) * rng.normal(size=gradient.shape)
        for name, gradient in observation.gradients.items()
    }
    result = reconstruct(dataclasses.replace(observation, gradients=noisy))
    assert not any(one.is_certified or one.exact for one in result.classes)
    assert not result.rows_exact.any()


def test_labels_with_equal_weights_are_told_by_the_gradient_alone():
    """Two labels of one image: states do not tell which node has which, the first weight's gradient does."""
    from spear_jax.attacks.graphs.pipeline import reconstruct

    private = m.chosen("metformin")
    architecture, params = m.network("gcn")
    weight = params["convs.0.weight"].copy()
    hydrogens = private.features.columns_of("hydrogens")
    weight[:, hydrogens] = weight[:, hydrogens][:, :1]
    result = reconstruct(m.observed(architecture, params | {"convs.0.weight": weight}, private))
    for one in result.classes:
        assert not one.is_certified or m.is_in(private.graphs[0], one)
        assert not one.exact or one.size == 1


def test_dead_units_are_refused_not_guessed():
    from spear_jax.attacks.graphs.pipeline import reconstruct
    from spear_jax.errors import SpearError

    private = m.chosen("metformin")
    architecture, params = m.network("gcn", width=16, has_conv_bias=True)
    dead = params | {"convs.1.bias": np.full(16, -100.0)}
    with pytest.raises(SpearError, match="no node reached the loss"):
        reconstruct(m.observed(architecture, dead, private))


@pytest.mark.parametrize("width", [8, *(pytest.param(width, marks=pytest.mark.slow) for width in (12, 16))])
def test_too_narrow_layers_give_rows_or_nothing(width):
    from spear_jax.attacks.graphs.pipeline import reconstruct

    private = m.chosen("morphine")
    architecture, params = m.network("gcn", width=width)
    result = reconstruct(m.observed(architecture, params, private))
    assert not any(one.is_certified for one in result.classes) or m.is_true(result, private)
    assert result.reason


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))])
def test_random_graphs_are_never_certified_wrongly(seed):
    """Graphs of three categories and any degree up to four, connected or not, with either pool."""
    from spear_jax.attacks.graphs.pipeline import reconstruct
    from spear_jax.client.graph_gradient import graph_gradient
    from spear_jax.client.graph_models import random_graph_model
    from spear_jax.graphs.architecture import Architecture
    from spear_jax.graphs.features import Block, Features
    from spear_jax.graphs.graph import Graph
    from spear_jax.graphs.observation import GraphObservation

    rng = np.random.default_rng(seed)
    nodes, edges, degrees = int(rng.integers(5, 9)), [], np.zeros(9, int)
    for i in range(nodes):
        for j in range(i + 1, nodes):
            if rng.random() < 0.4 and degrees[i] < 4 and degrees[j] < 4:
                edges.append((i, j))
                degrees[[i, j]] += 1
    category = np.eye(3)[rng.integers(0, 3, nodes)]
    graph = Graph(np.concatenate([category, np.eye(5)[degrees[:nodes]]], axis=1), np.array(edges).reshape(-1, 2))
    blocks = (Block("category", ("a", "b", "c")), Block("degree", ("0", "1", "2", "3", "4")))
    features = Features(blocks=blocks, degree="degree", max_degree=4)
    kind, pool = (("gcn", "mean"), ("gin", "sum"), ("sage", "mean"))[seed % 3]
    architecture = Architecture(kind=kind, columns=8, widths=(96, 96), pool=pool)
    params = random_graph_model(architecture, m.jax.random.key(seed), dtype="float64")
    private = m.molecules()._replace(graphs=(graph,), names=("random",), features=features)
    gradients = graph_gradient(architecture, params, private)
    result = reconstruct(
        GraphObservation(architecture=architecture, features=features, params=params, gradients=gradients)
    )
    for one in result.classes:
        assert not one.is_certified or m.is_in(graph, one)
        assert not one.exact or one.size == 1
