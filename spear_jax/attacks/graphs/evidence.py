"""What the last convolution's gradient says of one graph's counts: it is linear in them.

Behind the pool the loss has one gradient q by the pooled vector, ``q = W^T db`` of the layer there. A node of colour c
then adds ``e_c s_c^T`` to the gradient of the last convolution's first weights: s_c is what the convolution aggregated
and e_c is q taken back to what these weights give. Random products ``u^T G v`` are as many equations as are needed.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax.attacks.graphs.levels import Level, Model, behind, entered_of, make_tables
from spear_jax.attacks.graphs.pooled import Pooled, behind_pool
from spear_jax.graphs.architecture import Architecture, conv_weights
from spear_jax.graphs.layers import Params, before_pool
from spear_jax.graphs.observation import GraphObservation
from spear_jax.row_space import filled

# Equations beyond one for each colour, and at most.
SPARE, MOST_EQUATIONS = 32, 1024


class Evidence(NamedTuple):
    """Linear equations for shares of colours, or their numbers where the pool is a sum.

    Attributes:
        rows: (k, m) float64.
        target: (k,) float64, of length one, as the pooled vector is where both are used.
    """

    rows: np.ndarray
    target: np.ndarray


def gather_evidence(
    observation: GraphObservation, model: Model, below: Level, level: Level, pooled: Pooled
) -> Evidence | None:
    """Equations of the last convolution's gradient; None where it did not come back.

    Args:
        observation: what came back.
        model: the network.
        below: level that enters the last convolution.
        level: colours behind it.
        pooled: vector, of one graph.
    """
    layer = model.architecture.layers - 1
    names = conv_weights(model.architecture, layer)
    gradients = [observation.gradients.get(f"{name}.weight") for name in names]
    if any(gradient is None or not np.any(gradient) for gradient in gradients):
        return None
    rng, count = np.random.default_rng(0), min(filled(len(level) + SPARE, 64), MOST_EQUATIONS)
    sides = [rng.normal(size=(count, gradient.shape[1])) for gradient in gradients if gradient is not None]
    across = rng.normal(size=(count, len(gradients[0])))  # pyright: ignore[reportArgumentType]
    aggregated = _aggregated(model, layer, below, level, dict(zip(names, sides, strict=True)))
    weight = np.asarray(observation.params[f"{behind_pool(observation)}.weight"], np.float64)
    errors = _errors(model, layer, below, level, pooled.bias @ weight)
    rows = (errors @ across.T * aggregated).T
    products = [
        np.einsum("ki,ij,kj->k", across, np.asarray(gradient, np.float64), side)
        for gradient, side in zip(gradients, sides, strict=True)
    ]
    target = np.sum(products, axis=0)
    length = float(np.linalg.norm(target))
    return Evidence(rows / length, target / length) if length else None


def _aggregated(model: Model, layer: int, below: Level, level: Level, sides: dict[str, np.ndarray]) -> np.ndarray:
    """(m, k) what colours aggregate, along some directions: the convolution with these for its weights."""
    dtype = below.states.dtype
    params = {f"{name}.weight": jnp.asarray(side, dtype) for name, side in sides.items()}
    eps = f"convs.{layer}.eps"
    params |= {eps: model.params[eps]} if eps in model.params else {}
    other = model._replace(params=params)
    return entered_of(other, make_tables(other, layer, below), level.own, level.slots).astype(np.float64)


def _errors(model: Model, layer: int, below: Level, level: Level, by_pooled: np.ndarray) -> np.ndarray:
    """(m, width) the loss's gradient by what the first weights give for a node of each colour."""
    entered = entered_of(model, make_tables(model, layer, below), level.own, level.slots)
    padding = filled(len(level), 16) - len(level)
    pad = lambda part: jnp.asarray(np.pad(part, ((0, padding), (0, 0))), entered.dtype)
    found = _pulled(
        model.architecture,
        layer,
        model.params,
        (pad(entered), pad(model.features[level.rows])),
        jnp.asarray(by_pooled, entered.dtype),
    )
    return np.asarray(found)[: len(level)].astype(np.float64)


@partial(jax.jit, static_argnums=(0, 1))
def _pulled(
    architecture: Architecture,
    layer: int,
    params: Params,
    nodes: tuple[jax.Array, jax.Array],
    by_pooled: jax.Array,
) -> jax.Array:
    entered, features = nodes

    def pooled(entered: jax.Array) -> jax.Array:
        return before_pool(architecture, params, features, behind(architecture, layer, params, entered)[1])

    outputs, back = jax.vjp(pooled, entered)
    return back(jnp.broadcast_to(by_pooled, outputs.shape))[0]
