"""Scores of graphs: right whatever the order of nodes, low for wrong ones, and strict about false certificates."""

import numpy as np
import pytest

from tests.helpers.graph_records import rewired


def chosen(*names):
    from spear_jax.client.graph_batch import demo_molecules

    every = demo_molecules()
    return [every.graphs[every.names.index(name)] for name in names], every.features


def shuffled(graph, seed=0):
    from spear_jax.graphs.graph import permuted

    return permuted(graph, np.random.default_rng(seed).permutation(graph.num_nodes))


def score(found, truth, features):
    from spear_jax.client.graph_scores import score_graphs

    return score_graphs(found, truth, features)


def a_class(*members, **said):
    from spear_jax.client.graph_scores import FoundClass

    return FoundClass(members, **said)


def test_right_graphs_in_any_order_score_one():
    truth, features = chosen("caffeine", "aspirin", "penicillin G")
    found = [a_class(shuffled(graph), is_certified=True, exact=True) for graph in truth[::-1]]
    scores = score(found, truth, features)
    assert scores.assignment.tolist() == [2, 1, 0]
    assert scores.isomorphic.all()
    assert scores.node_set.all()
    np.testing.assert_allclose(scores.gsm, 1, atol=1e-12)
    assert (scores.false_certificates, scores.is_whole) == (0, True)
    assert "3 of 3 graphs right as listed first" in scores.summary


def test_a_class_is_right_where_any_member_is():
    (true,), features = chosen("cholesterol")
    scores = score([a_class(rewired(true, 2), shuffled(true), is_certified=True)], [true], features)
    assert (scores.isomorphic.tolist(), scores.in_class.tolist()) == ([False], [True])
    assert scores.class_size.tolist() == [2]
    assert scores.node_set.all()
    assert scores.gsm[0, 0] == pytest.approx(1)
    assert scores.gsm[0, 2] < 1
    assert scores.false_certificates == 0


def test_wrong_graphs_score_low_and_the_worse_the_lower():
    (true, near, far), features = chosen("caffeine", "adenosine", "cholesterol")
    gsm = [score([a_class(one)], [true], features).gsm[0] for one in (rewired(true, 1), near, far)]
    assert np.all(np.array(gsm) < 1 + 1e-12)
    assert np.all(np.array(gsm) >= 0)
    assert gsm[0].sum() > gsm[1].sum() > gsm[2].sum()
    assert gsm[2][0] < 0.5


def test_a_node_changed_or_dropped_is_no_node_set():
    from spear_jax.graphs.graph import Graph

    (true,), features = chosen("aspirin")
    rows = true.rows.copy()
    rows[0] = rows[1]
    fewer = Graph(true.rows[:-1], true.edges[(true.edges < true.num_nodes - 1).all(axis=1)])
    for wrong in (Graph(rows, true.edges), fewer):
        scores = score([a_class(wrong, is_certified=True, exact=True)], [true], features)
        assert not scores.node_set.any()
        assert not scores.in_class.any()
        assert scores.false_certificates == 1


def test_false_certificates_are_counted_and_only_these():
    (true, other), features = chosen("aspirin", "caffeine")
    wrong = rewired(true, 1)
    cases = [
        ([a_class(wrong)], 0),  # nothing claimed
        ([a_class(wrong, is_certified=True)], 1),
        ([a_class(wrong, is_certified=True, is_open=True)], 0),  # said to be incomplete
        ([a_class(wrong, is_certified=True, exact=True, is_open=True)], 1),
        ([a_class(true, exact=True, is_certified=True)] * 2, 1),  # one more than there are
        ([a_class(true, is_certified=True), a_class(other, is_certified=True)], 0),
    ]
    assert [score(found, [true, other], features).false_certificates for found, _ in cases] == [n for _, n in cases]


def test_nothing_found_scores_nothing():
    from spear_jax.errors import SpearError

    truth, features = chosen("aspirin")
    scores = score([], truth, features)
    assert scores.gsm.tolist() == [[0, 0, 0]]
    assert scores.to_json()["assignment"] == [-1]
    assert not scores.is_whole
    with pytest.raises(SpearError, match="no graph"):
        score([], [], features)


def test_gsm_is_measured_by_hand_where_it_can_be():
    """Two nodes and no edges: one of two labels wrong in a block of two columns beside one that is right."""
    from spear_jax.client.graph_similarity import similarity
    from spear_jax.graphs.features import Block, Features
    from spear_jax.graphs.graph import Graph

    features = Features(blocks=(Block("a", ("x", "y")), Block("b", ("u", "v", "w", "z"))))
    none = np.zeros((0, 2), np.int64)
    true = Graph(np.array([[1, 0, 1, 0, 0, 0], [0, 1, 0, 1, 0, 0]], float), none)
    found = Graph(np.array([[1, 0, 1, 0, 0, 0], [1, 0, 0, 1, 0, 0]], float), none)
    # In block a label x is there once and was found twice, F1 2/3; y was not found. Half the weight each.
    assert similarity(found, true, features).gsm_0 == pytest.approx((2 * (1 / 2) * (2 / 3) + 4 * 1) / 6)
    half = Graph(true.rows[:1], none)
    assert similarity(half, true, features).gsm_0 == pytest.approx(0.5)
