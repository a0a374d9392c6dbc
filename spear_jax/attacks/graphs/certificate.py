"""The one place that calls graphs certified or exact: their gradient, computed again, is what came back.

A gradient is a function of the counts of colours of level L, so a graph is certified only together with all others that
share these (Weisfeiler and Leman 1968; Xu et al. 2019). One that is alone is exact; but a mean over nodes is the same
for graphs with twice the nodes, which exist wherever there is a cycle, so that there it is not alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax import linalg
from spear_jax.attacks.graphs.labels import by_labels
from spear_jax.attacks.graphs.result import GraphClass, Reproduction
from spear_jax.graphs.architecture import Architecture
from spear_jax.graphs.features import Features
from spear_jax.graphs.graph import Graph, colour_counts
from spear_jax.graphs.layers import GraphBatch, Params, as_batch, last_inputs, logits, pulled_back
from spear_jax.graphs.observation import GraphObservation
from spear_jax.row_space import filled
from spear_jax.stages import stage

# Largest part of a tensor's gradient that may be left unexplained, in units of what rounding leaves, and beyond it, by
# dtype: two programs add in another order.
MOST_LEFT = 4.0
ARITHMETIC = {"float32": 1e-5, "float64": 1e-10}
# A tensor whose gradient is a smaller part of all is held against this part instead of its own size.
LEAST_PART = 1e-4

# Chance that shares of nodes which are no whole numbers of nodes are taken for some.
CHANCE = 1e-3


class Candidates(NamedTuple):
    """Graphs that one input graph may be.

    Attributes:
        members: no two isomorphic, the likeliest first.
        is_cut: whether there may be more with as many nodes.
        rows: numbers of the rows of features that every graph of these counts has, whatever its number of nodes.
    """

    members: list[Graph]
    is_cut: bool
    rows: frozenset[int] = frozenset()


@stage("graphs: certificate")
def certify(
    observation: GraphObservation, params: Params, found: Sequence[Candidates], is_whole: bool
) -> tuple[tuple[GraphClass, ...], Reproduction]:
    """Hold the batch against what came back; classes keep the members that have exactly that gradient.

    Args:
        observation: what came back.
        params: the model's tensors on the device.
        found: for each input graph, of which there is one or more, what it may be, one member or more.
        is_whole: whether all neighbourhoods that rows allow were tested, by what tells them from mixtures of others;
            without that there may be further members.

    Returns:
        the classes, and how far their first members reproduce what came back. Equal graphs of a batch are one class.
    """
    firsts = [one.members[0] for one in found]
    first = reproduce(observation, params, firsts)
    first = first._replace(limit=min(first.limit, _by_chance(observation.architecture, found)))
    is_certified = first.is_exact and not _may_be_parts(observation, params, found)
    classes = []
    for place, one in enumerate(found):
        members = one.members
        if is_certified:
            members = _with_same_gradient(observation, params, firsts, place, members)
        larger = _may_be_larger(observation.architecture, observation.features, members)
        is_cut = one.is_cut or not is_whole
        is_alone = len(members) == 1 and not is_cut and not larger
        classes.append(
            GraphClass(
                members=tuple(members),
                is_certified=is_certified,
                is_cut=is_cut,
                may_be_larger=larger,
                exact=is_certified and is_alone,
            )
        )
    return tuple(classes), first


def certified_rows(classes: Sequence[GraphClass], found: Sequence[Candidates], number: int) -> np.ndarray:
    """(number,) bool, which rows of features are certainly there: every solution of some certified graph has them.

    Args:
        classes: of the batch.
        found: what they were made of.
        number: of rows.
    """
    exact = np.zeros(number, bool)
    for one, candidates in zip(classes, found, strict=True):
        if one.is_certified:
            exact[sorted(candidates.rows)] = True
    return exact


def _may_be_parts(observation: GraphObservation, params: Params, found: Sequence[Candidates]) -> bool:
    """Whether different parts of a graph that is not connected, as graphs of their own, have the gradient too.

    They have where the loss says the same of each node: labels that are no whole numbers can, and outputs that agree to
    what rounding leaves. Parts with the same mean are one class as a batch, too.
    """
    architecture, firsts = observation.architecture, [one.members[0] for one in found]
    for place, one in enumerate(found):
        for member in one.members:
            parts = member.parts()
            if len({_pooled_colours(architecture, part) for part in parts}) == 1:
                continue
            batch = [*firsts[:place], *parts, *firsts[place + 1 :]]
            if architecture.loss == "mse" or reproduce(observation, params, batch).is_exact:
                return True
    return False


def _pooled_colours(architecture: Architecture, graph: Graph) -> frozenset[tuple[bytes, float]]:
    """How often each colour of the highest level is there, by node where the pool is a mean: all that it shows."""
    share = graph.num_nodes if architecture.pool == "mean" else 1
    counts = colour_counts([graph], architecture.layers)
    return frozenset((colour, count / share) for colour, count in counts.items())


def _with_same_gradient(
    observation: GraphObservation, params: Params, firsts: list[Graph], place: int, members: list[Graph]
) -> list[Graph]:
    """Members whose batch has the gradient that came back: one of each count of colours is computed."""
    known, kept = {}, []
    for member in members:
        key = _pooled_colours(observation.architecture, member)
        if key not in known:
            batch = [*firsts[:place], member, *firsts[place + 1 :]]
            known[key] = reproduce(observation, params, batch).is_exact
        if known[key]:
            kept.append(member)
    return kept


def reproduce(observation: GraphObservation, params: Params, graphs: Sequence[Graph]) -> Reproduction:
    """How far the gradient of a batch is from what came back.

    The logits' gradients fit it best; those of one graph may be any, those of several what labels give.

    Args:
        observation: what came back.
        params: the model's tensors on the device.
        graphs: the batch.
    """
    architecture = observation.architecture
    nodes, count = filled(max(graph.num_nodes for graph in graphs), 16), filled(len(graphs), 1)
    batch = as_batch(graphs, observation.dtype, nodes, count)
    output_grads = _output_gradients(observation, params, batch, len(graphs))
    limit = _limit(observation)
    if output_grads is not None and len(graphs) > 1:
        outputs = _logits(architecture, params, batch)
        output_grads = by_labels(architecture.loss, np.asarray(outputs, np.float64)[: len(graphs)], output_grads)
    if output_grads is None:
        return Reproduction(float("inf"), limit)
    padded = np.pad(output_grads, ((0, count - len(graphs)), (0, 0)))
    ours = pulled_back(architecture, params, batch, jnp.asarray(padded, observation.dtype))
    theirs = {name: gradient.astype(np.float64) for name, gradient in observation.gradients.items()}
    whole = np.sqrt(sum(float(np.sum(gradient**2)) for gradient in theirs.values()))
    left = [
        np.linalg.norm(np.asarray(ours[name], np.float64) - gradient)
        / max(float(np.linalg.norm(gradient)), LEAST_PART * whole)
        for name, gradient in theirs.items()
    ]
    return Reproduction(float(max(left)), limit)


def _output_gradients(
    observation: GraphObservation, params: Params, batch: GraphBatch, count: int
) -> np.ndarray | None:
    """(count, tasks) gradients by the logits, from what the last layer reads and its gradient; None without that."""
    name = f"readout.{observation.architecture.readout_layers - 1}"
    weight, bias = (observation.gradients.get(f"{name}.{part}") for part in ("weight", "bias"))
    if weight is None:
        return None
    inputs = np.asarray(_last_inputs(observation.architecture, params, batch), np.float64)[:count]
    weight = weight.astype(np.float64)
    if bias is not None:
        scale = float(np.sqrt(np.mean(inputs**2))) or 1.0
        inputs = np.concatenate([inputs, np.full((count, 1), scale)], axis=1)
        weight = np.concatenate([weight, scale * bias.astype(np.float64)[:, None]], axis=1)
    return linalg.lstsq(inputs.T, weight.T, rcond=None)[0]


@partial(jax.jit, static_argnums=0)
def _last_inputs(architecture: Architecture, params: Params, batch: GraphBatch) -> jax.Array:
    return last_inputs(architecture, params, batch)


@partial(jax.jit, static_argnums=0)
def _logits(architecture: Architecture, params: Params, batch: GraphBatch) -> jax.Array:
    return logits(architecture, params, batch)


def _limit(observation: GraphObservation) -> float:
    """Part of a tensor's gradient that rounding alone may leave unexplained by the right batch."""
    dtypes = {observation.dtype, *(gradient.dtype for gradient in observation.gradients.values())}
    arithmetic = max(ARITHMETIC[np.dtype(dtype).name] for dtype in dtypes)
    rounded = [
        rounding * np.sqrt(observation.gradients[name].size) / float(np.linalg.norm(observation.gradients[name]))
        for name, rounding in observation.rounding.items()
        if name in observation.gradients and np.any(observation.gradients[name])
    ]
    return arithmetic + MOST_LEFT * max(rounded, default=0.0)


def _by_chance(architecture: Architecture, found: Sequence[Candidates]) -> float:
    """Residual that some numbers of nodes hardly reach where they are none.

    Behind a mean the gradient of several graphs is one of shares that are no ratios of whole numbers. Of fractions with
    denominators up to n there are fewer than n^2, so that one lies within r of any number with a chance of n^2 r.
    """
    nodes = max(min(graph.num_nodes for graph in one.members) for one in found)
    return CHANCE / nodes**2 if architecture.pool == "mean" else float("inf")


def _may_be_larger(architecture: Architecture, features: Features, members: Sequence[Graph]) -> bool:
    """Whether graphs with several times the nodes, which are not all listed, have the same mean over nodes.

    Copies side by side do, and covers of a graph with a cycle, in which it goes round more than once; those of a tree
    are copies.
    """
    if architecture.pool != "mean" or not members:
        return False
    smallest = min(graph.num_nodes for graph in members)
    if features.max_nodes is not None and 2 * smallest > features.max_nodes:
        return False
    has_cycle = any(len(graph.edges) >= graph.num_nodes for graph in members)
    return has_cycle or not features.is_connected
