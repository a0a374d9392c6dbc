"""Graph networks against NumPy in float64, written node by node, and their gradients against finite differences."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

KINDS = ("gcn", "gin", "sage", "graphconv", "gat")


def activation(name, z):
    return {"relu": np.maximum(z, 0), "silu": z / (1 + np.exp(-z))}[name]


def dense(params, name, x):
    return params[f"{name}.weight"] @ x + params.get(f"{name}.bias", 0)


def convolved(architecture, params, layer, states, near):
    """One convolution, node by node, as PyTorch Geometric's documentation writes it."""
    name, out = f"convs.{layer}", []
    for i in range(len(states)):
        if architecture.kind == "gcn":
            degree = lambda j: len(near[j]) + 1
            total = sum(states[j] / np.sqrt(degree(i) * degree(j)) for j in [i, *near[i]])
            out.append(dense(params, name, total))
        elif architecture.kind == "gin":
            x = (1 + params.get(f"{name}.eps", 0)) * states[i] + sum((states[j] for j in near[i]), 0 * states[i])
            for place in range(architecture.mlp_layers):
                x = dense(params, f"{name}.mlp.{place}", x)
                x = activation(architecture.activation, x) if place < architecture.mlp_layers - 1 else x
            out.append(x)
        elif architecture.kind in ("sage", "graphconv"):
            around = sum((states[j] for j in near[i]), 0 * states[i])
            around = around / max(len(near[i]), 1) if architecture.kind == "sage" else around
            out.append(dense(params, f"{name}.neighbours", around) + params[f"{name}.own.weight"] @ states[i])
        else:
            heads = []
            width = params[f"{name}.weight"].shape[0] // architecture.heads
            for h in range(architecture.heads):
                values = states @ params[f"{name}.weight"][h * width : (h + 1) * width].T
                score = [
                    params[f"{name}.att_dst"][h] @ values[i] + params[f"{name}.att_src"][h] @ values[j]
                    for j in [i, *near[i]]
                ]
                weight = np.exp([s if s > 0 else 0.2 * s for s in score])
                heads.append(sum(w * values[j] for w, j in zip(weight, [i, *near[i]], strict=True)) / weight.sum())
            out.append(np.concatenate(heads) + params.get(f"{name}.bias", 0))
    out = np.array(out)
    return activation(architecture.activation, out) if architecture.is_activated[layer] else out


def logits(architecture, params, graph):
    states, near = graph.rows, graph.neighbours()
    for layer in range(architecture.layers):
        states = convolved(architecture, params, layer, states, near)
    last = architecture.readout_layers - 1
    if architecture.readout == "node":
        nodes = np.concatenate([graph.rows, states], axis=1)
        each = []
        for x in nodes:
            for place in range(last):
                x = activation(architecture.activation, dense(params, f"readout.{place}", x))
            each.append(dense(params, f"readout.{last}", x))
        return np.mean(each, axis=0) if architecture.pool == "mean" else None
    x = states.mean(axis=0) if architecture.pool == "mean" else states.sum(axis=0)
    for place in range(last):
        x = activation(architecture.activation, dense(params, f"readout.{place}", x))
    return dense(params, f"readout.{last}", x)


def problem(kind, seed=0, nodes=(6, 4), **options):
    from spear_jax.graphs.architecture import Architecture, shapes
    from spear_jax.graphs.graph import Graph

    rng = np.random.default_rng(seed)
    options = {"readout_layers": 2, "tasks": 3, "heads": 2} | options
    architecture = Architecture(kind=kind, columns=5, widths=(8, 6), **options)
    params = {name: rng.normal(size=shape) for name, shape in shapes(architecture).items()}
    graphs = []
    for n in nodes:
        pairs = np.array(list(itertools.combinations(range(n), 2)))
        graphs.append(Graph(rng.normal(size=(n, 5)), pairs[rng.random(len(pairs)) < 0.5]))
    return architecture, params, graphs


def on_device(params):
    return {name: jnp.asarray(tensor) for name, tensor in params.items()}


@pytest.mark.parametrize("readout", ["pooled", "node"])
@pytest.mark.parametrize("activation_name", ["relu", "silu"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_a_network_written_node_by_node(kind, activation_name, readout):
    from spear_jax.graphs import layers

    architecture, params, graphs = problem(kind, activation=activation_name, readout=readout)
    batch = layers.as_batch(graphs, np.dtype("float64"), nodes=9, count=3)
    found = np.asarray(layers.logits(architecture, on_device(params), batch))
    for row, graph in zip(found, graphs, strict=False):
        np.testing.assert_allclose(row, logits(architecture, params, graph), rtol=1e-11, atol=1e-11)


def test_the_comparison_can_fail():
    from spear_jax.graphs import layers

    architecture, params, graphs = problem("sage")
    batch = layers.as_batch(graphs, np.dtype("float64"))
    found = np.asarray(layers.logits(architecture, on_device(params), batch))[0]
    for other in ("gcn", "gin", "graphconv", "gat"):
        wrong, others, _ = problem(other)
        assert np.abs(found - logits(wrong, others, graphs[0])).max() > 0.01


def test_a_sum_over_nodes_and_states_without_activation():
    from spear_jax.graphs import layers

    architecture, params, graphs = problem("gcn", pool="sum", is_activated=(True, False), readout_layers=1)
    batch = layers.as_batch(graphs, np.dtype("float64"))
    found = np.asarray(layers.logits(architecture, on_device(params), batch))
    expected = [logits(architecture, params, graph) for graph in graphs]
    np.testing.assert_allclose(found, expected, rtol=1e-11)


@pytest.mark.parametrize(
    ("kind", "loss"), [*((kind, "bce") for kind in KINDS), ("gcn", "cross entropy"), ("graphconv", "mse")]
)
def test_gradients_agree_with_finite_differences(kind, loss):
    from spear_jax.graphs import layers

    architecture, params, graphs = problem(kind, activation="silu", readout="node", loss=loss)
    batch = layers.as_batch(graphs, np.dtype("float64"), nodes=8)
    labels = jnp.asarray([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    found = layers.loss_gradients(architecture, on_device(params), batch, labels)
    rng, step, loss_of = np.random.default_rng(1), 1e-6, jax.jit(layers.loss, static_argnums=0)
    for name, tensor in params.items():
        direction = rng.normal(size=tensor.shape)
        ends = [
            float(loss_of(architecture, on_device(params | {name: tensor + sign * step * direction}), batch, labels))
            for sign in (1, -1)
        ]
        slope = np.sum(np.asarray(found[name]) * direction)
        rounding = 4 * np.finfo(float).eps * abs(ends[0]) / step
        assert abs((ends[0] - ends[1]) / (2 * step) - slope) < 1e-7 * (1 + abs(slope)) + rounding, name


def test_a_missing_label_does_not_count():
    from spear_jax.graphs import layers

    architecture, params, graphs = problem("gin")
    batch = layers.as_batch(graphs, np.dtype("float64"))
    labels = np.array([[1.0, np.nan, 0.0], [0.0, 1.0, np.nan]])
    loss = layers.loss(architecture, on_device(params), batch, jnp.asarray(labels))
    outputs = np.asarray(layers.logits(architecture, on_device(params), batch))
    each = np.log1p(np.exp(outputs)) - np.nan_to_num(labels) * outputs
    assert float(loss) == pytest.approx(each[~np.isnan(labels)].mean(), rel=1e-10)


def test_a_gradient_is_that_of_the_loss_pulled_back_from_the_logits():
    from spear_jax.graphs import layers

    architecture, params, graphs = problem("gcn")
    batch = layers.as_batch(graphs, np.dtype("float64"))
    labels = jnp.asarray([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    whole = layers.loss_gradients(architecture, on_device(params), batch, labels)
    outputs = layers.logits(architecture, on_device(params), batch)
    by_outputs = (1 / (1 + jnp.exp(-outputs)) - labels) / labels.size
    pulled = layers.pulled_back(architecture, on_device(params), batch, by_outputs)
    for name in params:
        np.testing.assert_allclose(np.asarray(pulled[name]), np.asarray(whole[name]), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_nodes_and_padding_change_nothing(kind):
    from spear_jax.graphs import layers
    from spear_jax.graphs.graph import permuted

    architecture, params, graphs = problem(kind)
    order = np.random.default_rng(2).permutation(graphs[0].num_nodes)
    first = layers.as_batch([graphs[0]], np.dtype("float64"))
    other = layers.as_batch([permuted(graphs[0], order)], np.dtype("float64"), nodes=12)
    one, two = (np.asarray(layers.logits(architecture, on_device(params), batch)) for batch in (first, other))
    np.testing.assert_allclose(one, two, rtol=1e-11)
