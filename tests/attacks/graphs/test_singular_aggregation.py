"""Graphs whose aggregation is singular: the gradient lacks a direction of rows, and they come back all the same."""

import jax
import numpy as np
import pytest

from spear_jax.client.graph_batch import PrivateGraphs
from spear_jax.client.graph_models import random_graph_model
from spear_jax.graphs.architecture import Architecture
from spear_jax.graphs.features import Block, Features
from spear_jax.graphs.graph import Graph
from tests.helpers import molecules as m

KINDS = "abcde"


def path(nodes, seed=0):
    """A path of random kinds of nodes, all rows different; with A + I as its matrix, singular where n = 3 k + 2."""
    kinds = np.array([0, 1, 2, 3, 4, 0, 1, 2])[:nodes]
    degrees = np.array([1] + [2] * (nodes - 2) + [1])
    side = np.arange(nodes) >= 5
    rows = np.concatenate([np.eye(5)[kinds], np.eye(3)[degrees], np.eye(2)[side.astype(int)]], axis=1)
    blocks = (Block("kind", tuple(KINDS)), Block("degree", ("0", "1", "2")), Block("half", ("first", "second")))
    edges = np.stack([np.arange(nodes - 1), np.arange(1, nodes)], axis=1)
    features = Features(blocks=blocks, degree="degree", max_degree=2, is_connected=True)
    return PrivateGraphs((Graph(rows, edges),), features, ("path",))


def seen_of(private, kind, seed=0):
    architecture = Architecture(kind=kind, columns=private.features.columns, widths=(96, 96))
    params = random_graph_model(architecture, jax.random.key(seed), dtype="float64", has_conv_bias=False)
    return m.observed(architecture, params, private)


@pytest.mark.parametrize("kind", ["gcn", "gin"])
@pytest.mark.parametrize(("nodes", "is_singular"), [(4, False), (5, True), (8, True)])
def test_a_path_comes_back_whether_or_not_its_matrix_is_singular(kind, nodes, is_singular):
    from spear_jax.attacks.graphs.pipeline import reconstruct

    private = path(nodes)
    result = reconstruct(seen_of(private, kind))
    assert result.views[0].rank == nodes - is_singular
    assert m.is_true(result, private)
    # What rests on a direction that no gradient shows is never called the only one; mixtures fit that of 8, for a GIN.
    assert all(one.exact for one in result.classes) == (nodes != 5 and (nodes, kind) != (8, "gcn"))


def test_a_direction_is_guessed_where_true_rows_agree_on_one():
    from spear_jax.attacks.graphs.missing import with_missing_row_direction
    from spear_jax.attacks.graphs.views import make_views

    private = path(5)
    observation = seen_of(private, "gcn")
    view = make_views(observation)[0]
    rows = private.graphs[0].rows
    left = lambda view: np.linalg.norm(rows - (rows @ (basis := np.asarray(view.found.space.basis)).T) @ basis)
    wider = with_missing_row_direction(observation, view)
    assert wider.is_guessed
    assert left(view) > 0.1
    assert left(wider) < 1e-8
