"""Updates of language models from which no batch follows exactly, told from their numbers before any search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from spear_jax.language.linear import LORA_A, LORA_B
from spear_jax.update import half_precision
from spear_jax.update.adapters import CONFIG
from spear_jax.update.language_model import LanguageModel
from spear_jax.update.model_file import few
from spear_jax.update.returned import Returned
from spear_jax.update.text_names import linear_layers

# Share of a layer's weights that moved by at most one unit in the last place from which rounding hides the step.
MOST_ROUNDED = 0.5
# One step of Adam moves nearly every weight by the learning rate, which a gradient's entries, with their heavy tails,
# never resemble: of a Gaussian's 4 % lie this near to the median of their sizes.
SAME_SIZE, MOST_SAME = 0.05, 0.5
_SAMPLES = 4096


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

    def weights_after(self, name: str) -> np.ndarray:
        """A tensor of the model that the client had in the end."""
        back = self.back.came_back[name]
        return back if self.back.kind == "weights" else self.back.sent[name] + back


def refusals(update: Evidence) -> tuple[str, ...]:
    """What stands against exact inversion, a sentence each, the plainest first."""
    found = [_several_steps(update), _dropout(update), _first_round(update), _no_layer(update)]
    if _layers(update):
        # Damaged numbers are the observation's to report.
        with np.errstate(invalid="ignore", over="ignore"):
            found.append(_drowned(update) or _signs(update))
    return tuple(sentence for sentence in found if sentence)


def nothing_changed(kind: str) -> str:
    """What is said where no tensor has a gradient."""
    if kind == "gradient":
        return "every gradient that came back is zero; nothing was trained, or the wrong file was given."
    return "no tensor changed between what was sent and what came back; give the model after the client's round."


def _layers(update: Evidence) -> list[str]:
    """Tensors of the linear layers within the blocks, or of their adapters, that have a gradient."""
    parts = (".weight", LORA_A, LORA_B)
    names = (layer + part for layer in linear_layers(update.model.architecture) for part in parts)
    return [name for name in names if name in update.gradients]


def _several_steps(update: Evidence) -> str | None:
    steps = update.back.local_steps
    if steps == 1:
        return None
    return f"the client took {steps} local steps, each from other weights; exact inversion needs one, or the gradient."


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


def _drowned(update: Evidence) -> str | None:
    """The step is lost in the rounding of the weights it was added to."""
    if update.back.kind == "gradient":
        return None
    steps, dtypes = [], set()
    for name in _layers(update):
        after, sent = update.weights_after(name), update.back.sent[name]
        dtype = half_precision.unit_dtype(after)
        after, sent = _some(after), _some(sent)
        steps.append(np.abs(after - sent) / half_precision.units(after, dtype))
        dtypes.add(dtype.name)
    steps = np.concatenate(steps)
    # A step may cross into the next power of two, where units are twice as large.
    share = float(np.mean(np.isin(steps, (0, 0.5, 1, 2))))
    if share < MOST_ROUNDED:
        return None
    other = "a round of larger steps" if dtypes <= {"float32", "float64"} else "weights in float32"
    return (
        f"{share:.0%} of the weights moved by at most one unit in the last place of {' and '.join(sorted(dtypes))}: "
        f"the step drowned in their rounding; bring the gradient, or {other}."
    )


def _signs(update: Evidence) -> str | None:
    """All entries are alike in size, as after one step of Adam."""
    sizes = np.concatenate([np.abs(_some(update.gradients[name])) for name in _layers(update)])
    sizes = sizes[(sizes > 0) & np.isfinite(sizes)]
    middle = float(np.median(sizes)) if len(sizes) else 0.0
    share = float(np.mean(np.abs(sizes - middle) <= SAME_SIZE * middle)) if len(sizes) else 0.0
    if share < MOST_SAME:
        return None
    if update.back.kind == "gradient":
        return (
            f"{share:.0%} of the gradient's entries are +-{middle:.3g}: signs, as an Adam step or compression leaves "
            "them; exact inversion needs SGD or the gradient."
        )
    lr = float(update.back.metadata.get("lr", "1"))
    size = "lr" if "lr" in update.back.metadata and abs(middle - 1) <= SAME_SIZE else f"{middle * lr:.3g}"
    return (
        f"the change of {share:.0%} of the entries is +-{size}: an Adam step; "
        "exact inversion needs SGD or the gradient."
    )


def _some(tensor: np.ndarray) -> np.ndarray:
    """Entries from all over a tensor, enough of them to tell shares."""
    flat = tensor.reshape(-1)
    return flat[np.linspace(0, flat.size - 1, min(flat.size, _SAMPLES)).astype(int)]
