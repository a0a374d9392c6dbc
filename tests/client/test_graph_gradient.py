"""The gradient of a client with graphs is that of a loss written in NumPy, and an update holds nothing private."""

import json

import jax
import numpy as np
import pytest

GRAPHS = ("caffeine", "nicotine")


def chosen(names=GRAPHS):
    from spear_jax.client.graph_batch import demo_molecules

    every = demo_molecules()
    return every.chosen(np.array([every.names.index(name) for name in names]))


def network(kind="gcn", **changes):
    from spear_jax.client.graph_models import random_graph_model
    from spear_jax.graphs.architecture import Architecture

    sizes = {"columns": 45, "widths": (8, 6), "tasks": 2, "heads": 2 if kind == "gat" else 1}
    architecture = Architecture(kind=kind, **sizes | changes)
    return architecture, random_graph_model(architecture, jax.random.key(1), dtype="float64")


def gcn_loss(params, graphs, labels):
    """Mean binary cross-entropy of a GCN with a mean pool, after Kipf and Welling (2017)."""
    losses = []
    for graph, label in zip(graphs, labels, strict=True):
        adjacency = graph.adjacency() + np.eye(graph.num_nodes)
        scale = np.diag(adjacency.sum(axis=1) ** -0.5)
        states = graph.rows
        for layer in range(2):
            states = scale @ adjacency @ scale @ states @ params[f"convs.{layer}.weight"].T
            states = np.maximum(states + params[f"convs.{layer}.bias"], 0)
        logits = params["readout.0.weight"] @ states.mean(axis=0) + params["readout.0.bias"]
        losses.append(np.logaddexp(0, logits) - label * logits)
    return float(np.mean(losses))


def test_the_gradient_is_that_of_finite_differences():
    from spear_jax.client.graph_batch import targets
    from spear_jax.client.graph_gradient import graph_gradient

    architecture, params = network()
    private = chosen()
    labels = targets(private, architecture, seed=3)
    gradients = graph_gradient(architecture, params, private, seed=3)
    generator, step = np.random.default_rng(0), 1e-6
    for name, gradient in gradients.items():
        for _ in range(6):
            place = tuple(generator.integers(size) for size in gradient.shape)
            sides = []
            for sign in (1, -1):
                moved = {key: tensor.copy() for key, tensor in params.items()}
                moved[name][place] += sign * step
                sides.append(gcn_loss(moved, private.graphs, labels))
            assert gradient[place] == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-8), name


@pytest.mark.parametrize("kind", ["gcn", "gin", "sage", "graphconv", "gat"])
def test_the_gradient_does_not_depend_on_the_order_of_nodes_or_graphs(kind):
    from spear_jax.client.graph_gradient import graph_gradient
    from spear_jax.graphs.graph import permuted

    architecture, params = network(kind)
    private = chosen()._replace(labels=np.array([[0.0, 1.0], [1.0, 1.0]]))
    generator = np.random.default_rng(0)
    graphs = tuple(permuted(graph, generator.permutation(graph.num_nodes)) for graph in private.graphs)
    other = private._replace(graphs=graphs).chosen(np.array([1, 0]))
    first, second = (graph_gradient(architecture, params, one) for one in (private, other))
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=1e-14)
    changed = graph_gradient(architecture, params, private.chosen(np.array([0, 0])))
    assert any(np.abs(changed[name] - first[name]).max() > 1e-3 for name in first)


@pytest.mark.parametrize("kind", ["gradient", "weights", "delta"])
def test_an_update_holds_the_network_and_one_step_of_it(kind):
    from spear_jax.client.graph_gradient import graph_gradient
    from spear_jax.client.graph_simulate import simulate_graph_update

    architecture, params = network("gin", readout="node", readout_layers=3)
    gradients = graph_gradient(architecture, params, chosen())
    tensors, metadata = simulate_graph_update(architecture, params, chosen(), kind=kind, lr=0.5)
    assert metadata["kind"] == kind
    assert {"grad/readout.layer1.weight", "client/readout.layer1.weight"} & set(tensors)
    sent, gradient = params["convs.1.mlp.0.weight"], gradients["convs.1.mlp.0.weight"]
    prefix = "grad/" if kind == "gradient" else "client/"
    wanted = {"gradient": gradient, "weights": sent - 0.5 * gradient, "delta": sent - 0.5 * gradient - sent}[kind]
    np.testing.assert_array_equal(tensors[f"{prefix}convs.1.nn.0.weight"], wanted)
    np.testing.assert_array_equal(tensors["global/convs.1.nn.0.weight"], sent)
    assert "grad/convs.0.eps" not in tensors
    assert set(metadata) <= {"kind", "framework", "format_version", "num_examples", "local_steps", "lr"}


def test_what_the_server_knows_is_json_and_says_nothing_private():
    from spear_jax.client.graph_simulate import known_to_the_server

    architecture, _ = network(activation="silu", pool="sum")
    known = json.loads(json.dumps(known_to_the_server(architecture, chosen().features)))
    assert set(known) == {"features", "model"}
    assert known["model"]["activation"] == "silu"
    assert "caffeine" not in json.dumps(known)


def test_wrong_options_are_said():
    from spear_jax.client.graph_simulate import simulate_graph_update
    from spear_jax.errors import SpearError

    architecture, params = network()
    for options, words in (({"kind": "sum"}, "kind is 'sum'"), ({"kind": "delta", "lr": 0.0}, "lr is 0.0")):
        with pytest.raises(SpearError, match=words):
            simulate_graph_update(architecture, params, chosen(), **options)


def test_the_truth_comes_back_as_it_was_saved(tmp_path):
    from spear_jax.client.graph_truth import GraphTruth
    from spear_jax.errors import TruthError
    from spear_jax.tensor_files import read_tensors, write_tensors

    private = chosen()._replace(labels=np.array([[0.0, np.nan], [1.0, 1.0]]))
    for name in ("truth.safetensors", "truth.npz"):
        GraphTruth(private).save(tmp_path / name)
        found = GraphTruth.load(tmp_path / name).private
        assert found.names == GRAPHS
        np.testing.assert_array_equal(found.labels, private.labels)
        for mine, theirs in zip(found.graphs, private.graphs, strict=True):
            np.testing.assert_array_equal(mine.rows, theirs.rows)
            np.testing.assert_array_equal(mine.edges, theirs.edges)
    tensors, metadata = read_tensors(tmp_path / "truth.npz")
    write_tensors(tmp_path / "short.npz", tensors | {"rows": tensors["rows"][1:]}, metadata)
    write_tensors(tmp_path / "other.npz", tensors, {})
    for name, words in (("short.npz", "damaged truth file"), ("other.npz", "no truth about a graph network")):
        with pytest.raises(TruthError, match=words):
            GraphTruth.load(tmp_path / name)
