"""A linear layer before the first convolution, folded into it: the same network, the same gradient, another name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

HIDDEN = 12


def setting(kind="gcn", has_bias=True, dtype="float64"):
    """A FederatedScope network with its encoder, and the gradient of all tensors by another way than ours."""
    from spear_jax.client.graph_batch import demo_molecules, labelled
    from spear_jax.client.graph_models import random_graph_model
    from spear_jax.graphs.architecture import Architecture
    from spear_jax.graphs.layers import as_batch, loss

    private = demo_molecules().chosen(np.array([3, 11]))
    architecture = Architecture(
        kind=kind, columns=HIDDEN, widths=(HIDDEN, HIDDEN), pool="sum", readout_layers=2, tasks=2,
        is_activated=(True, False),
    )  # fmt: skip
    params = random_graph_model(architecture, jax.random.key(0), dtype=dtype)
    generator = np.random.default_rng(1)
    encoder = {"encoder.weight": generator.normal(size=(HIDDEN, 45)).astype(dtype) / 3}
    encoder |= {"encoder.bias": generator.normal(size=HIDDEN).astype(dtype)} if has_bias else {}
    batch = as_batch(private.graphs, np.dtype(dtype))
    labels = jnp.asarray(labelled(private, architecture).labels, dtype)

    def composed(learnt):
        rows = batch.rows @ learnt["encoder.weight"].T
        if has_bias:
            rows = rows + jnp.broadcast_to(learnt["encoder.bias"], rows.shape)
        return loss(architecture, learnt, batch._replace(rows=rows), labels)

    whole = {name: jnp.asarray(tensor) for name, tensor in (params | encoder).items()}
    return (
        private,
        architecture,
        params | encoder,
        {name: np.asarray(g) for name, g in jax.grad(composed)(whole).items()},
    )


def federated_scope(tensors):
    """Names as FederatedScope-GNN has them."""
    names = {"readout.0": "linear.0", "readout.1": "clf", "convs.0.weight": "gnn.convs.0.lin.weight"}
    names |= {"convs.1.weight": "gnn.convs.1.lin.weight", "convs.0.bias": "gnn.convs.0.bias"}
    names |= {"convs.1.bias": "gnn.convs.1.bias"}
    found = {}
    for name, tensor in tensors.items():
        for start, own in names.items():
            if name.startswith(start):
                name = own + name.removeprefix(start)
                break
        found[name] = tensor
    return found


def update_of(tmp_path, params, gradients, features):
    from spear_jax.tensor_files import write_tensors
    from spear_jax.update.graph_features import FeaturesFile
    from spear_jax.update.graph_update import read_graph_update

    tensors = {f"global/{name}": tensor for name, tensor in federated_scope(params).items()}
    tensors |= {f"grad/{name}": tensor for name, tensor in federated_scope(gradients).items()}
    write_tensors(tmp_path / "u.safetensors", tensors, {"kind": "gradient"})
    return read_graph_update(tmp_path / "u.safetensors", FeaturesFile(features, {}))


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_folded_network_has_the_gradient_that_it_has_by_itself(tmp_path, has_bias):
    from spear_jax.client.graph_gradient import graph_gradient
    from spear_jax.graphs.graph import Graph

    private, _, params, gradients = setting(has_bias=has_bias)
    update = update_of(tmp_path, params, gradients, private.features)
    assert update.model.naming.library == "FederatedScope"
    assert update.model.architecture.columns == 45 + has_bias
    observation = update.observation()
    assert observation.features.columns == 45 + has_bias
    constant = lambda graph: Graph(
        np.concatenate([graph.rows, np.ones((graph.num_nodes, int(has_bias)))], 1), graph.edges
    )
    folded = private._replace(graphs=tuple(map(constant, private.graphs)))
    wanted = graph_gradient(update.model.architecture, update.model.params, folded)
    assert set(observation.gradients) == set(wanted)
    for name, gradient in wanted.items():
        np.testing.assert_allclose(observation.gradients[name], gradient, atol=1e-12, err_msg=name)
    wrong = graph_gradient(update.model.architecture, update.model.params, folded.chosen(np.array([0, 0])))
    assert np.abs(observation.gradients["convs.0.weight"] - wrong["convs.0.weight"]).max() > 1e-3


def test_rounding_grows_as_the_weights_behind_magnify_it(tmp_path):
    private, _, params, gradients = setting()
    _, _, narrow, rounded = setting(dtype="float32")
    exact = update_of(tmp_path, params, gradients, private.features).observation()
    found = update_of(tmp_path, params, {n: g.astype(np.float32) for n, g in gradients.items()}, private.features)
    found = found.observation()
    error = found.gradients["convs.0.weight"] - exact.gradients["convs.0.weight"]
    assert np.sqrt(np.mean(error**2)) < 3 * found.rounding["convs.0.weight"]
    assert np.sqrt(np.mean(error**2)) > 0.01 * found.rounding["convs.0.weight"]
    assert narrow["encoder.weight"].dtype == rounded["encoder.weight"].dtype == np.float32


def test_an_encoder_that_cannot_be_folded_is_said(tmp_path):
    from spear_jax.errors import UpdateError

    private, _, params, gradients = setting()
    singular = params | {"convs.0.weight": np.ones_like(params["convs.0.weight"])}
    with pytest.raises(UpdateError, match="cannot be inverted"):
        update_of(tmp_path, singular, gradients, private.features)
    less = {name: gradient for name, gradient in gradients.items() if name != "encoder.weight"}
    with pytest.raises(UpdateError, match="encoder.weight did not come back"):
        update_of(tmp_path, params, less, private.features).observation()
