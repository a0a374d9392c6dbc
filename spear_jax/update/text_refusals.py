"""Updates of language models from which no batch follows exactly, told from their numbers before any search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from spear_jax.language.linear import LORA_A, LORA_B
from spear_jax.update.adapters import CONFIG
from spear_jax.update.language_model import LanguageModel
from spear_jax.update.model_file import few
from spear_jax.update.one_step import drowned, several_steps, signs
from spear_jax.update.returned import Returned
from spear_jax.update.text_names import linear_layers


class Evidence(NamedTuple):
    """What an update is judged by.

    Attributes:
        model: that was sent, with its adapters.
        back: both sides of the update, half precision widened.
        gradients: of what was trained, by name, none of them zero.
        dropout: probability by which the adapters' inputs were masked.
    """

    model: LanguageModel
    back: Returned
    gradients: Mapping[str, np.ndarray]
    dropout: float = 0.0


def refusals(update: Evidence) -> tuple[str, ...]:
    """What stands against exact inversion, a sentence each, the plainest first."""
    found = [several_steps(update.back), _dropout(update), _first_round(update), _no_layer(update)]
    names = _layers(update)
    if names:
        # Damaged numbers are the observation's to report.
        with np.errstate(invalid="ignore", over="ignore"):
            found.append(drowned(update.back, names) or signs(update.back, update.gradients, names))
    return tuple(sentence for sentence in found if sentence)


def _layers(update: Evidence) -> list[str]:
    """Tensors of the linear layers within the blocks, or of their adapters, that have a gradient."""
    parts = (".weight", LORA_A, LORA_B)
    names = (layer + part for layer in linear_layers(update.model.architecture) for part in parts)
    return [name for name in names if name in update.gradients]


def _dropout(update: Evidence) -> str | None:
    if not update.dropout or not any(name.endswith((LORA_A, LORA_B)) for name in update.gradients):
        return None
    return (
        f"{CONFIG} says lora_dropout={update.dropout:g}: the client's inputs were masked at random; "
        "exact inversion is off."
    )


def _first_round(update: Evidence) -> str | None:
    factors = [tensor for name, tensor in update.model.params.items() if name.endswith(LORA_B)]
    if not factors or any(np.any(tensor) for tensor in factors):
        return None
    if any(not name.endswith((LORA_A, LORA_B)) for name in _layers(update)):
        return None  # the layers themselves were trained as well
    return "every lora_B of the sent model is zero (a first round): lora_A has no gradient yet; bring a later round."


def _no_layer(update: Evidence) -> str | None:
    if _layers(update) or not update.gradients:
        return None
    parts = {".".join(name.split(".")[-2:]).removesuffix(".weight") for name in update.gradients}
    return f"the update has only {few(sorted(parts))}; needed: an attention or MLP projection."
