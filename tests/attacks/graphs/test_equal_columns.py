"""Labels that go together at all nodes have equal columns of the gradient; their rank is that of the rest."""

import jax
import numpy as np
import pytest


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equal_columns_are_not_taken_for_the_noise(dtype):
    """Paracetamol has seven kinds of rows, and three blocks in which all of its atoms are alike."""
    from spear_jax.attacks.graphs.views import make_views
    from spear_jax.client.graph_batch import demo_molecules
    from spear_jax.client.graph_gradient import graph_gradient
    from spear_jax.client.graph_models import random_graph_model
    from spear_jax.graphs.architecture import Architecture
    from spear_jax.graphs.graph import colours
    from spear_jax.graphs.observation import GraphObservation

    every = demo_molecules()
    private = every.chosen(np.array([every.names.index("paracetamol")]))
    architecture = Architecture(kind="gin", columns=45, widths=(300, 300), pool="sum", tasks=12)
    params = random_graph_model(architecture, jax.random.key(0), dtype=dtype)
    gradients = graph_gradient(architecture, params, private)
    observation = GraphObservation(
        architecture=architecture, features=private.features, params=params, gradients=gradients
    )
    views = make_views(observation)
    expected = [len(set(colours(private.graphs[0], level))) for level in range(3)]
    assert [view.rank for view in views] == [expected[0], expected[1], expected[1], expected[2]]
    basis = np.asarray(views[0].found.space.basis, np.float64)[: views[0].rank]
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-5)
    rows = private.graphs[0].rows
    assert np.linalg.norm(rows - rows @ basis.T @ basis) < 1e-4 * np.linalg.norm(rows)
