"""Graph networks as pure functions of tensors by name: convolutions, readout, loss and its gradient.

The conventions are PyTorch Geometric's: a GCN adds loops and normalises symmetrically, ``D^-1/2 (A + I) D^-1/2 X W``;
GIN applies a perceptron to ``(1 + eps) x`` plus the sum of the neighbours; SAGE takes their mean, and 0 of none; GAT
adds loops and attends with LeakyReLU of slope 0.2. Batches are padded to one number of nodes; padding has no edges and
is not pooled. A convolution but GAT's first aggregates linearly, then updates what it has by layers; the two halves are
functions of their own, since neighbourhoods are tested without a graph around them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax.activations import function
from spear_jax.graphs.architecture import Architecture, conv_weights
from spear_jax.graphs.graph import Graph
from spear_jax.numerics import search_matmul

Params = Mapping[str, jax.Array]

# Of the LeakyReLU in attention (Velickovic et al. 2018, Sec. 2.1).
ATTENTION_SLOPE = 0.2


class GraphBatch(NamedTuple):
    """Graphs, padded to one number of nodes.

    Attributes:
        rows: (B, N, columns) floating, features, zero in padding.
        adjacency: (B, N, N) floating, 1 where an edge is.
        is_node: (B, N) floating, 1 for nodes and 0 for padding.
    """

    rows: jax.Array
    adjacency: jax.Array
    is_node: jax.Array


def as_batch(
    graphs: Sequence[Graph], dtype: np.dtype, nodes: int | None = None, count: int | None = None
) -> GraphBatch:
    """Graphs as the network takes them.

    Args:
        graphs: one or more, with rows of one length.
        dtype: floating, that the network computes in.
        nodes: number to pad to, that of the largest graph by default.
        count: number of graphs to pad to with empty ones, none by default.
    """
    most = max(graph.num_nodes for graph in graphs) if nodes is None else nodes
    count = len(graphs) if count is None else count
    rows = np.zeros((count, most, graphs[0].rows.shape[1]))
    adjacency, is_node = np.zeros((count, most, most)), np.zeros((count, most))
    for place, graph in enumerate(graphs):
        n = graph.num_nodes
        rows[place, :n], adjacency[place, :n, :n], is_node[place, :n] = graph.rows, graph.adjacency(), 1
    return GraphBatch(*(jnp.asarray(part, dtype) for part in (rows, adjacency, is_node)))


def linear(params: Params, name: str, inputs: jax.Array) -> jax.Array:
    """``W x + bias`` of each input (..., in), without the bias where there is none; (..., out)."""
    outputs = search_matmul(inputs, params[f"{name}.weight"].T)
    bias = params.get(f"{name}.bias")
    return outputs if bias is None else outputs + jnp.broadcast_to(bias, outputs.shape)


def activated(architecture: Architecture, inputs: jax.Array, is_activated: bool = True) -> jax.Array:
    """The network's activation of each entry, or the inputs themselves."""
    return function(architecture.function)(inputs) if is_activated else inputs


def aggregated(
    architecture: Architecture, params: Params, layer: int, states: jax.Array, adjacency: jax.Array
) -> jax.Array:
    """What a convolution makes of each node and its neighbours before its weights; not of kind gat.

    Args:
        architecture: of the network.
        params: its tensors.
        layer: number of the convolution.
        states: (..., n, d) what enters it.
        adjacency: (..., n, n).

    Returns:
        (..., n, d), with two weights (..., n, 2 d): the neighbours' part, then the node's own.
    """
    degrees = jnp.sum(adjacency, axis=-1, keepdims=True)
    if architecture.kind == "gcn":
        scale = 1 / jnp.sqrt(degrees + 1)
        return scale * search_matmul(adjacency, scale * states) + states / (degrees + 1)
    summed = search_matmul(adjacency, states)
    if architecture.kind == "gin":
        return own_weight(params, layer, states.dtype) * states + summed
    if architecture.kind == "sage":
        summed = summed / jnp.maximum(degrees, jnp.ones_like(degrees))
    return jnp.concatenate([summed, states], axis=-1)


def own_weight(params: Params, layer: int, dtype: np.dtype) -> jax.Array:
    """1 + eps of a GIN convolution, ()."""
    eps = params.get(f"convs.{layer}.eps")
    return jnp.ones((), dtype) if eps is None else 1 + jnp.asarray(eps, dtype)


def updated(architecture: Architecture, params: Params, layer: int, inputs: jax.Array) -> jax.Array:
    """States behind a convolution, of what it aggregated; with the activation where one follows.

    Args:
        architecture: of the network.
        params: its tensors.
        layer: number of the convolution.
        inputs: (..., d), see `aggregated`.
    """
    if architecture.kind == "gin":
        outputs = inner_states(architecture, params, layer, inputs)[-1]
    elif architecture.is_two_weights:
        neighbours, own = conv_weights(architecture, layer)
        around, itself = jnp.split(inputs, 2, axis=-1)
        outputs = linear(params, neighbours, around) + linear(params, own, itself)
    else:
        outputs = linear(params, f"convs.{layer}", inputs)
    return activated(architecture, outputs, architecture.is_activated[layer])


def inner_states(architecture: Architecture, params: Params, layer: int, inputs: jax.Array) -> list[jax.Array]:
    """What enters each linear layer of a GIN convolution's perceptron after the first, and what leaves the last."""
    found = []
    for place in range(architecture.mlp_layers):
        inputs = linear(params, f"convs.{layer}.mlp.{place}", inputs)
        found.append(activated(architecture, inputs, place < architecture.mlp_layers - 1))
        inputs = found[-1]
    return found


def _attended(
    architecture: Architecture, params: Params, layer: int, states: jax.Array, adjacency: jax.Array
) -> jax.Array:
    """States behind a GAT convolution."""
    name, heads = f"convs.{layer}", architecture.heads
    values = search_matmul(states, params[f"{name}.weight"].T)
    by_head = jnp.moveaxis(values.reshape(*values.shape[:-1], heads, -1), -2, -3)  # (..., heads, n, d)
    source, target = (
        jnp.sum(by_head * jnp.broadcast_to(params[f"{name}.{part}"][:, None, :], by_head.shape), axis=-1)
        for part in ("att_src", "att_dst")
    )
    scores = target[..., :, None] + source[..., None, :]
    scores = jnp.where(scores > 0, scores, ATTENTION_SLOPE * scores)
    loops = jnp.broadcast_to(jnp.eye(states.shape[-2], dtype=states.dtype), adjacency.shape)
    is_seen = jnp.broadcast_to((adjacency + loops)[..., None, :, :] > 0, scores.shape)
    mixed = search_matmul(jax.nn.softmax(scores, axis=-1, where=is_seen), by_head)
    outputs = jnp.moveaxis(mixed, -3, -2).reshape(values.shape)
    bias = params.get(f"{name}.bias")
    outputs = outputs if bias is None else outputs + jnp.broadcast_to(bias, outputs.shape)
    return activated(architecture, outputs, architecture.is_activated[layer])


def node_states(architecture: Architecture, params: Params, batch: GraphBatch) -> list[jax.Array]:
    """States of all nodes behind each convolution, each (B, N, width)."""
    states, found = batch.rows, []
    for layer in range(architecture.layers):
        if architecture.kind == "gat":
            states = _attended(architecture, params, layer, states, batch.adjacency)
        else:
            mixed = aggregated(architecture, params, layer, states, batch.adjacency)
            states = updated(architecture, params, layer, mixed)
        found.append(states)
    return found


def before_pool(architecture: Architecture, params: Params, rows: jax.Array, states: jax.Array) -> jax.Array:
    """What is pooled, of nodes' rows (..., columns) and their states (..., width) behind the last convolution."""
    if architecture.readout == "pooled":
        return states
    inputs = jnp.concatenate([rows, states], axis=-1)
    for place in range(architecture.readout_layers - 1):
        inputs = activated(architecture, linear(params, f"readout.{place}", inputs))
    return inputs


def pooled_vectors(architecture: Architecture, params: Params, batch: GraphBatch) -> jax.Array:
    """(B, width) what the pool gives of each graph; zero of an empty one."""
    states = node_states(architecture, params, batch)[-1]
    nodes = before_pool(architecture, params, batch.rows, states)
    pooled = jnp.einsum("bn,bnd->bd", batch.is_node, nodes, precision=jax.lax.Precision.HIGHEST)
    if architecture.pool == "sum":
        return pooled
    count = jnp.sum(batch.is_node, axis=1, keepdims=True)
    return pooled / jnp.maximum(count, jnp.ones_like(count))


def last_inputs(architecture: Architecture, params: Params, batch: GraphBatch) -> jax.Array:
    """(B, width) what the last linear layer reads of each graph."""
    pooled = pooled_vectors(architecture, params, batch)
    last = architecture.readout_layers - 1
    for place in range(last if architecture.readout == "node" else 0, last):
        pooled = activated(architecture, linear(params, f"readout.{place}", pooled))
    return pooled


def logits(architecture: Architecture, params: Params, batch: GraphBatch) -> jax.Array:
    """(B, tasks) of each graph; of an empty one whatever the biases give."""
    return linear(params, f"readout.{architecture.readout_layers - 1}", last_inputs(architecture, params, batch))


def loss(architecture: Architecture, params: Params, batch: GraphBatch, labels: jax.Array) -> jax.Array:
    """Mean loss of a batch, ().

    Args:
        architecture: of the network.
        params: its tensors.
        batch: the graphs.
        labels: (B, tasks): 0 or 1 for ``"bce"``, numbers for ``"mse"``, shares of each class for ``"cross entropy"``;
            NaN where a label is missing, which then does not count.
    """
    outputs = logits(architecture, params, batch)
    is_given = ~jnp.isnan(labels)
    known = jnp.where(is_given, labels, jnp.zeros_like(labels))
    if architecture.loss == "cross entropy":
        each = -jnp.sum(known * jax.nn.log_softmax(outputs, axis=-1), axis=-1)
        return jnp.mean(each)
    if architecture.loss == "bce":
        each = jax.nn.softplus(outputs) - known * outputs
    else:
        each = (outputs - known) ** 2
    given = is_given.astype(outputs.dtype)
    return jnp.sum(each * given) / jnp.maximum(jnp.sum(given), jnp.ones((), outputs.dtype))


@partial(jax.jit, static_argnums=0)
def loss_gradients(
    architecture: Architecture, params: Params, batch: GraphBatch, labels: jax.Array
) -> dict[str, jax.Array]:
    """Gradient of `loss` by each tensor, by name."""
    return jax.grad(lambda learnt: loss(architecture, learnt, batch, labels))(dict(params))


@partial(jax.jit, static_argnums=0)
def pulled_back(
    architecture: Architecture, params: Params, batch: GraphBatch, output_grads: jax.Array
) -> dict[str, jax.Array]:
    """Gradient by each tensor of any loss whose gradient by the logits (B, tasks) is given."""
    _, back = jax.vjp(lambda learnt: logits(architecture, learnt, batch), dict(params))
    return back(output_grads)[0]
