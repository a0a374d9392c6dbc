"""Updates of graph networks from which no graph follows exactly, or not whole, told before any search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from spear_jax.graphs.architecture import conv_weights
from spear_jax.graphs.features import Features
from spear_jax.update.graph_encoder import WEIGHT
from spear_jax.update.graph_model import GraphModel, spelled
from spear_jax.update.one_step import drowned, several_steps, signs
from spear_jax.update.returned import Returned


class Evidence(NamedTuple):
    """What an update is judged by.

    Attributes:
        model: that was sent.
        features: the rows that nodes may have.
        back: both sides of the update by canonical names, half precision widened.
        gradients: of what was trained, by canonical name, none of them zero.
    """

    model: GraphModel
    features: Features
    back: Returned
    gradients: Mapping[str, np.ndarray]


def refusals(update: Evidence) -> tuple[str, ...]:
    """What stands against exact inversion, a sentence each, the plainest first."""
    found = [several_steps(update.back), _dropout(update), _first_layer(update)]
    names = [name for name, gradient in update.gradients.items() if gradient.ndim == 2]
    if names:
        # Damaged numbers are the observation's to report.
        with np.errstate(invalid="ignore", over="ignore"):
            lost = drowned(update.back, names, is_sparse=True)
            found.append(lost or signs(update.back, update.gradients, names))
    return tuple(sentence for sentence in found if sentence)


def limits(update: Evidence) -> tuple[str, ...]:
    """What keeps whole graphs from following although something does, a sentence each."""
    found = [_second_layer(update), _alike(update), _pooled(update), _tasks(update)]
    return tuple(sentence for sentence in found if sentence)


def _dropout(update: Evidence) -> str | None:
    if not update.model.dropout:
        return None
    return (
        f'the features file says dropout={update.model.dropout:g} under "model": nodes\' states were masked at random; '
        "exact inversion is off."
    )


def _first_layer(update: Evidence) -> str | None:
    """What became of the first convolution's weights, from which rows are read."""
    names = [f"{name}.weight" for name in conv_weights(update.model.architecture, 0)]
    names = names if update.model.encoder is None else [WEIGHT]
    if any(name in update.gradients for name in names):
        return None
    called = spelled(update.model.naming, names[0])
    if names[0] not in update.back.came_back:
        return f"{called} did not come back; nodes' rows are read from it."
    if update.back.kind == "gradient":
        return f"{called}: every entry of the gradient is zero: no node reached the loss."
    return f"{called} came back as it was sent: it is frozen, or no node reached the loss."


def _second_layer(update: Evidence) -> str | None:
    architecture = update.model.architecture
    second = [f"{name}.weight" for layer in range(1, architecture.layers) for name in conv_weights(architecture, layer)]
    if any(name in update.gradients for name in second):
        return None
    if architecture.layers > 1:
        return (
            f"no gradient of {spelled(update.model.naming, second[0])} came back; neighbourhoods need a second layer."
        )
    return "the update has one layer with node inputs; neighbourhoods need a second."


def _alike(update: Evidence) -> str | None:
    """Without an activation before the pool every node of a graph sends back the same."""
    architecture = update.model.architecture
    if architecture.readout == "node" or architecture.is_activated[-1] or architecture.kind == "gin":
        return None
    last = spelled(update.model.naming, f"{conv_weights(architecture, architecture.layers - 1)[0]}.weight")
    return (
        f"no activation stands between {last} and the pool, so that its gradient has one direction for each graph; "
        "node rows only."
    )


def _pooled(update: Evidence) -> str | None:
    last = f"readout.{update.model.architecture.readout_layers - 1}"
    if f"{last}.weight" not in update.gradients:
        called = spelled(update.model.naming, f"{last}.weight")
        return f"no gradient of {called} came back: the pooled vector is unknown; node rows and neighbourhoods only."
    if f"{last}.bias" in update.gradients:
        return None
    return (
        "no gradient for the last linear layer's bias (or it is zero): the pooled vector is unknown; node rows and "
        "neighbourhoods only."
    )


def _tasks(update: Evidence) -> str | None:
    graphs, tasks = int(update.back.metadata.get("num_examples", "1")), update.model.architecture.tasks
    if graphs <= tasks:
        return None
    outputs = "1 output" if tasks == 1 else f"{tasks} outputs"
    return f"{graphs} graphs but {outputs}: the graphs cannot be told apart; colours only."
