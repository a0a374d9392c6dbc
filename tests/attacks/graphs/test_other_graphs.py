"""Graphs that are not molecules: what shares a gradient for other reasons than colours is never certified wrongly."""

import jax
import numpy as np
import pytest


def ring(size, marked=()):
    return [int(node in marked) for node in range(size)], [(node, (node + 1) % size) for node in range(size)]


def chain(size, alone=0):
    return [0] * (size + alone), [(node, node + 1) for node in range(size - 1)]


def features(kinds, max_degree, has_degree=False, **claims):
    from spear_jax.graphs.features import Block, Features

    blocks = [Block("kind", tuple("abc"[:kinds]))]
    if has_degree:
        blocks.append(Block("degree", tuple(map(str, range(max_degree + 1)))))
    return Features(blocks=tuple(blocks), degree="degree" if has_degree else None, max_degree=max_degree, **claims)


def graph_of(shape, known):
    """A graph of kinds and edges, its rows as some features have them."""
    from spear_jax.graphs.graph import Graph

    kinds, edges = shape
    edges = np.array(edges, int).reshape(-1, 2)
    rows = np.eye(len(known.blocks[0].labels))[kinds]
    if known.degree:
        degrees = np.bincount(edges.ravel(), minlength=len(kinds))
        rows = np.concatenate([rows, np.eye(len(known.blocks[1].labels))[degrees]], axis=1)
    return Graph(rows, edges)


def network(known, width=16, lift=None, bare=(), **options):
    """Architecture and normal weights; biases of the first convolution lifted, those of some tensors left out."""
    from spear_jax.graphs.architecture import Architecture, shapes

    architecture = Architecture(columns=known.columns, widths=(width, width), **options)
    rng, params = np.random.default_rng(0), {}
    for name, shape in shapes(architecture).items():
        params[name] = rng.normal(size=shape) * (np.sqrt(2 / sum(shape)) if len(shape) == 2 else 0.3)
        if name.startswith("convs.0.") and name.endswith("bias"):
            params[name] += lift or 0.0
    params = {name: np.zeros(()) if name.endswith("eps") else tensor for name, tensor in params.items()}
    return architecture, {name: tensor for name, tensor in params.items() if name not in bare}


def reconstructed(architecture, params, graphs, known, labels=None, dtype="float64"):
    from spear_jax.attacks.graphs.pipeline import reconstruct
    from spear_jax.graphs.layers import as_batch, loss_gradients
    from spear_jax.graphs.observation import GraphObservation

    params = {name: tensor.astype(dtype) for name, tensor in params.items()}
    labels = np.ones((len(graphs), architecture.tasks)) if labels is None else labels
    device = {name: jax.numpy.asarray(tensor) for name, tensor in params.items()}
    found = loss_gradients(architecture, device, as_batch(graphs, np.dtype(dtype)), jax.numpy.asarray(labels, dtype))
    gradients = {name: np.asarray(gradient) for name, gradient in found.items() if not name.endswith(".eps")}
    return reconstruct(GraphObservation(architecture=architecture, features=known, params=params, gradients=gradients))


def says_so(result, graphs):
    """Whether each certified class has a true graph, or says that it lists not all."""
    from spear_jax.graphs.graph import is_isomorphic

    return all(
        one.is_cut
        or one.may_be_larger
        or any(is_isomorphic(graph, member) for graph in graphs for member in one.members)
        for one in result.classes
        if one.is_certified
    ) and not any(one.exact and one.is_cut for one in result.classes)


@pytest.mark.parametrize("kind", ["gcn", "gin"])
def test_a_node_that_no_other_may_be_joined_to(kind):
    known = features(2, 2, has_degree=True)
    graph = graph_of(([0], []), known)
    architecture, params = network(known, kind=kind, pool="sum")
    result = reconstructed(architecture, params, [graph], known)
    assert says_so(result, [graph])
    assert any(one.is_certified for one in result.classes)


def test_neighbourhoods_without_an_activation_are_not_said_to_be_all():
    """A chain of four and six single nodes have the sums of four pairs, squares of degrees and all."""
    known = features(1, 4)
    options = {"kind": "gin", "pool": "sum", "mlp_layers": 1}
    chosen = graph_of(chain(4, alone=6), known)
    architecture, params = network(known, is_activated=(False, False), bare=("convs.1.mlp.0.bias",), **options)
    result = reconstructed(architecture, params, [chosen], known)
    assert says_so(result, [chosen])
    assert not any(one.exact for one in result.classes)
    assert not result.stars_exact


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_units_that_are_active_everywhere_are_no_activation(activation):
    known = features(1, 4)
    options = {"kind": "gin", "pool": "sum", "mlp_layers": 1, "activation": activation}
    chosen = graph_of(chain(4, alone=6), known)
    architecture, params = network(known, lift=3.0, bare=("convs.1.mlp.0.bias",), **options)
    params["convs.1.mlp.0.weight"] = np.abs(params["convs.1.mlp.0.weight"])
    result = reconstructed(architecture, params, [chosen], known)
    assert says_so(result, [chosen])
    assert not any(one.exact for one in result.classes)


def test_with_an_activation_pairs_are_the_only_ones():
    known = features(1, 2)
    pairs = graph_of(([0] * 4, [(0, 1), (2, 3)]), known)
    architecture, params = network(known, kind="gin", pool="sum", mlp_layers=2, activation="silu")
    result = reconstructed(architecture, params, [pairs], known)
    assert [one.exact for one in result.classes] == [True]
    assert says_so(result, [pairs])


def test_single_nodes_whose_units_are_all_dead_may_be_there():
    """Behind a sum they add nothing, so that with any number of them the gradient is the same."""
    known = features(1, 1)
    graph = graph_of(([0] * 4, [(0, 1)]), known)
    architecture, params = network(known, kind="graphconv", pool="sum")
    params = {name: tensor for name, tensor in params.items() if not (name.startswith("convs") and "bias" in name)}
    params["convs.0.own.weight"] = -np.abs(params["convs.0.own.weight"])
    params["convs.0.neighbours.weight"] = 3 * np.abs(params["convs.0.neighbours.weight"])
    result = reconstructed(architecture, params, [graph], known)
    assert says_so(result, [graph])
    assert not any(one.exact for one in result.classes)


def test_a_row_of_zeros_is_possible_in_every_row_space():
    from spear_jax.graphs.features import Block, Features
    from spear_jax.graphs.graph import Graph, is_isomorphic

    known = Features(blocks=(Block("marked", ("yes",), may_be_empty=True),), max_degree=2)
    graph = Graph(np.array([[1.0], [0.0], [0.0]]), np.array([(0, 1), (1, 2)]))
    architecture, params = network(known, kind="gin", width=32, pool="sum", activation="silu")
    result = reconstructed(architecture, params, [graph], known)
    assert any(not row.any() for row in result.rows)
    assert any(is_isomorphic(graph, member) for one in result.classes for member in one.members)


@pytest.mark.parametrize("pool", ["mean", "sum"])
def test_graphs_of_a_batch_that_share_their_colours_are_not_told_apart(pool):
    """A ring of eight with a mark has the colours of one of five and of a ring without: a batch of these would do."""
    known = features(2, 2, has_degree=True, max_nodes=9, is_connected=True)
    graphs = [graph_of(ring(8, (0,)), known), graph_of(ring(6), known)]
    architecture, params = network(known, width=48, kind="gcn", pool=pool, tasks=3, activation="silu")
    labels = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    result = reconstructed(architecture, params, graphs, known, labels)
    assert says_so(result, graphs)
    assert not any(one.exact for one in result.classes)


@pytest.mark.parametrize("loss", ["bce", "cross entropy", "mse"])
def test_labels_tell_a_batch_apart_where_they_are_whole(loss):
    known = features(2, 2, has_degree=True, max_nodes=9, is_connected=True)
    graphs = [graph_of(([0, 1], [(0, 1)]), known), graph_of(ring(5, (0,)), known)]
    architecture, params = network(known, width=48, kind="gcn", tasks=3, activation="silu", loss=loss)
    labels = np.array([[0.0, 1.0, np.nan], [1.0, 0.0, 1.0]]) if loss == "bce" else np.eye(3)[:2]
    result = reconstructed(architecture, params, graphs, known, labels)
    assert says_so(result, graphs)
    assert sum(one.is_certified for one in result.classes) == (0 if loss == "mse" else 2)


@pytest.mark.parametrize("seed", range(4))
def test_single_nodes_behind_one_output_are_no_graph_of_a_hundred_nodes(seed):
    """In float32 some fraction of 400 lies near any share that a batch of two happens to have."""
    known = features(2, 2, has_degree=True)
    graphs = [graph_of(([0], []), known), graph_of(([1], []), known)]
    architecture, params = network(known, width=48, kind="gcn", activation="silu")
    params["readout.0.bias"] = np.array([0.1 * seed])
    result = reconstructed(architecture, params, graphs, known, np.zeros((2, 1)), dtype="float32")
    assert not any(one.is_certified for one in result.classes)


@pytest.mark.parametrize(("dtype", "scale", "is_told"), [("float32", 1e-4, False), ("float64", 1.0, True)])
def test_a_graph_in_two_parts_is_a_batch_of_both_where_outputs_agree(dtype, scale, is_told):
    known = features(2, 2, has_degree=True)
    apart, both = [graph_of(([kind], []), known) for kind in (0, 1)], graph_of(([0, 1], []), known)
    architecture, params = network(known, width=48, kind="gcn", activation="silu")
    params |= {name: scale * params[name] for name in ("readout.0.weight", "readout.0.bias")}
    for graphs in (apart, [both]):
        result = reconstructed(architecture, params, graphs, known, np.zeros((len(graphs), 1)), dtype=dtype)
        certified = [one for one in result.classes if one.is_certified]
        assert bool(certified) == (is_told and len(graphs) == 1)
        assert is_told or "its parts as a batch" in result.reason


def test_an_edge_to_a_node_beyond_all_numbers_is_refused(tmp_path):
    import json

    from spear_jax.client.graph_batch import read_graphs
    from spear_jax.errors import DataError

    content = {
        "features": {"blocks": [{"name": "kind", "labels": ["a", "b"]}]},
        "graphs": [{"nodes": [["a"], ["b"]], "edges": [[0, 10**30]]}],
    }
    path = tmp_path / "graphs.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="expected two nodes from 0 to 1"):
        read_graphs(path)
    content["graphs"][0]["edges"] = [[0, 1]]
    path.write_text(json.dumps(content))
    assert read_graphs(path).graphs[0].num_nodes == 2
