"""Molecules behind the gradients of graph networks: in a certified class, the node rows exact."""

import dataclasses

import numpy as np
import pytest

from tests.helpers import molecules as m


def found(*names, kind="gcn", features=None, **options):
    from spear_jax.attacks.graphs.pipeline import reconstruct

    private = m.chosen(*names)
    architecture, params = m.network(kind, **options)
    return reconstruct(m.observed(architecture, params, private, features)), private


@pytest.mark.parametrize(
    "kind",
    ["gcn", "gin", pytest.param("sage", marks=pytest.mark.slow), pytest.param("graphconv", marks=pytest.mark.slow)],
)
def test_a_molecule_is_in_its_class_whatever_the_convolution(kind):
    result, private = found("caffeine", kind=kind)
    assert m.is_true(result, private)
    (one,) = result.classes
    assert m.is_in(private.graphs[0], dataclasses.replace(one, members=one.members[:1]))
    assert sorted(map(bytes, one.members[0].rows)) == sorted(map(bytes, private.graphs[0].rows))
    assert result.reproduction.residual < 1e-12
    assert result.rows_exact.sum() == len(np.unique(private.graphs[0].rows, axis=0))


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "silu"},
        pytest.param({"activation": "gelu", "has_conv_bias": True}, marks=pytest.mark.slow),
        pytest.param({"layers": 3}, marks=pytest.mark.slow),
    ],
)
def test_smooth_activations_biases_and_three_layers(options):
    result, private = found("paracetamol", **options)
    assert m.is_true(result, private)


def test_a_readout_by_node_as_grain_has_it():
    result, private = found("aspirin", readout="node", readout_layers=2, tasks=2, loss="cross entropy")
    assert m.is_true(result, private)


def test_a_class_has_all_that_share_the_gradient():
    """Testosterone shares its gradient with one other connected graph, sucrose too (measured by another program)."""
    result, private = found("testosterone")
    assert m.is_true(result, private)
    assert sum(graph.is_connected for graph in result.classes[0].members) == 2
    assert not result.classes[0].exact


def test_aggregation_that_is_singular_on_classes():
    """Of nicotine a GCN's second layer shows 10 directions for 11 different states, most of which lie outside."""
    result, private = found("nicotine")
    assert m.is_true(result, private)
    assert result.views[1].rank < 11


def test_float32():
    result, private = found("metformin", dtype="float32")
    assert m.is_true(result, private)
    assert result.reproduction.residual < 1e-5


def test_a_sum_counts_nodes_so_that_a_graph_can_be_exact():
    result, private = found("lidocaine", kind="gin", pool="sum")
    assert m.is_true(result, private)
    assert result.classes[0].exact
    assert result.classes[0].size == 1


@pytest.mark.slow
def test_narrow_layers_with_a_list_of_rows():
    result, private = found("vanillin", kind="gin", width=48, features=m.listed())
    assert m.is_true(result, private)


def test_a_batch_is_told_apart_by_its_outputs():
    names = ("metformin", "glucose", "aspirin")
    result, private = found(*names, kind="gin", tasks=5, features=m.listed(m.chosen(*names)))
    assert m.is_true(result, private)


@pytest.mark.slow
def test_no_degree_among_the_features():
    from spear_jax.attacks.graphs.pipeline import reconstruct
    from spear_jax.client.graph_gradient import graph_gradient
    from spear_jax.graphs.features import Features
    from spear_jax.graphs.graph import Graph
    from spear_jax.graphs.observation import GraphObservation

    private = m.chosen("metformin")
    kept = np.ones(private.features.columns, bool)
    kept[private.features.columns_of("degree")] = False
    graph = Graph(private.graphs[0].rows[:, kept], private.graphs[0].edges)
    blocks = tuple(block for block in private.features.blocks if block.name != "degree")
    architecture, params = m.network("gcn", width=150)
    architecture = dataclasses.replace(architecture, columns=int(kept.sum()))
    params |= {"convs.0.weight": params["convs.0.weight"][:, kept]}
    private = private._replace(graphs=(graph,), features=Features(blocks=blocks, max_degree=4))
    result = reconstruct(
        GraphObservation(
            architecture=architecture,
            features=private.features,
            params=params,
            gradients=graph_gradient(architecture, params, private),
        )
    )
    assert m.is_true(result, private)


def test_attention_gives_rows_only():
    from spear_jax.status import Status

    result, private = found("caffeine", kind="gat", width=64, heads=2)
    assert result.status is Status.NODES_ONLY
    assert "attention mixes nodes" in result.reason
    there = {row.tobytes() for row in result.rows}
    assert all(row.tobytes() in there for row in private.graphs[0].rows)
    assert result.classes == ()


def test_what_the_ranking_says_changes_the_order_alone():
    from spear_jax.attacks.graphs.pipeline import reconstruct

    private = m.chosen("testosterone")
    architecture, params = m.network("gcn")
    observation = m.observed(architecture, params, private)
    plain = reconstruct(observation)
    turned = reconstruct(observation, rank=lambda graph: (-len(graph.components()), -float(graph.edges.sum())))
    assert {len(one.members) for one in plain.classes} == {len(one.members) for one in turned.classes}
    assert all(any(m.is_isomorphic(a, b) for b in turned.classes[0].members) for a in plain.classes[0].members)
