"""One package per family of layers, each with one `reconstruct`. A family sees observations and nothing else.

`reconstruct` here takes the observation of any family and gives it to its own.
"""

from __future__ import annotations

from typing import Any, overload

import jax

from spear_jax.attacks.dense.pipeline import reconstruct as reconstruct_layer
from spear_jax.attacks.graphs.pipeline import reconstruct as reconstruct_graphs
from spear_jax.attacks.graphs.result import GraphResult
from spear_jax.attacks.text.pipeline import reconstruct as reconstruct_text
from spear_jax.attacks.text.result import TextResult
from spear_jax.config import ReconstructConfig
from spear_jax.errors import SpearError
from spear_jax.graphs.observation import GraphObservation
from spear_jax.language.observation import TextObservation
from spear_jax.observation import LayerObservation
from spear_jax.types import Result


@overload
def reconstruct(
    observation: LayerObservation, key: jax.Array, config: ReconstructConfig = ..., **known: Any
) -> Result: ...


@overload
def reconstruct(
    observation: TextObservation, key: jax.Array | None = None, config: ReconstructConfig = ..., **known: Any
) -> TextResult: ...


@overload
def reconstruct(
    observation: GraphObservation, key: jax.Array | None = None, config: ReconstructConfig = ..., **known: Any
) -> GraphResult: ...


def reconstruct(
    observation: LayerObservation | TextObservation | GraphObservation,
    key: jax.Array | None = None,
    config: ReconstructConfig = ReconstructConfig(),
    **known: Any,
) -> Result | TextResult | GraphResult:
    """Reconstruct the batch behind what came back, with a certificate that needs no ground truth.

    Args:
        observation: what the server sees: of a dense layer, of a language model or of a graph network.
        key: a JAX key, for the search behind a dense layer; text and graphs are found without chance.
        config: method, budgets, devices.
        known: further arguments of the family, for a dense layer those of
            `spear_jax.attacks.dense.pipeline.reconstruct` (``model``, ``next_weight_grad``, ``layers_above``,
            ``between``, ``state``, ``on_round``), for text those of `spear_jax.attacks.text.pipeline.reconstruct`
            (``also``, ``on_stage``), for graphs those of `spear_jax.attacks.graphs.pipeline.reconstruct` (``rank``,
            ``on_stage``).

    Returns:
        a `Result` of a dense layer, a `TextResult` of a language model, a `GraphResult` of a graph network; ``status``
        says how it ended and what to do. A batch that cannot be inverted is a status, not an error.

    Raises:
        SpearError: a dense layer without a key; and as the family's own.
    """
    match observation:
        case TextObservation():
            return reconstruct_text(observation, config, **known)
        case GraphObservation():
            return reconstruct_graphs(observation, config, **known)
        case LayerObservation():
            if key is None:
                raise SpearError("a dense layer is searched at random; give a key, as jax.random.key(0).")
            return reconstruct_layer(observation, key, config, **known)
