"""One client's update of a language model: what came back by the checkpoint's names, and the observation of it.

Its file is `text_file`'s.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from spear_jax import tensor_files
from spear_jax.errors import SpearError, UpdateError
from spear_jax.language.observation import TextObservation
from spear_jax.update import half_precision, text_refusals
from spear_jax.update.adapters import Adapter
from spear_jax.update.language_model import LanguageModel
from spear_jax.update.metadata import require_valid
from spear_jax.update.one_step import nothing_changed, rounding
from spear_jax.update.returned import Returned
from spear_jax.update.weight_change import widen

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TextUpdate:
    """What a server holds of one client's round of a language model.

    Attributes:
        model: that was sent, with its adapters.
        came_back: gradients, weights or their changes by the checkpoint's names, in their stored dtype.
        metadata: strings as of any bundle: ``kind`` (gradient, weights or delta), and where known ``lr``,
            ``local_steps``, ``weight_decay``, ``num_examples``.
        adapter: that was sent, None for a model without, or whose adapters are in the bundle.
        beside: names of the tensors of ``model`` that the bundle itself says were sent, adapters mostly.

    Raises:
        UpdateError: metadata that are wrong, tensors whose shapes are not the model's or that are no real numbers.
    """

    model: LanguageModel
    came_back: Tensors
    metadata: Mapping[str, str]
    adapter: Adapter | None = None
    beside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_valid(self.metadata)
        for name, tensor in self.came_back.items():
            if not half_precision.is_floating(tensor):
                raise UpdateError(f"{name} came back as {tensor.dtype}; expected floating numbers: dequantise it.")
            if tensor.shape != self.model.params[name].shape:
                raise UpdateError(
                    f"{name} came back with shape {tensor.shape}, but the model's has {self.model.params[name].shape}; "
                    "give the model that was sent."
                )

    @property
    def kind(self) -> str:
        """``"gradient"``, ``"weights"`` or ``"delta"``."""
        return self._back.kind

    @property
    def local_steps(self) -> int:
        """SGD steps that the client took; 1 for a gradient and where the bundle does not say."""
        return self._back.local_steps

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of what came back and of the metadata, whatever file they were in."""
        return tensor_files.content_hash((self.came_back,), self.metadata)

    @functools.cached_property
    def gradients(self) -> dict[str, np.ndarray]:
        """Gradients of what was trained, or sums or multiples of these, float32 or wider; what is zero is none of them.

        Raises:
            UpdateError: weight decay without a learning rate.
        """
        return self._back.gradients()

    @property
    def untrained(self) -> tuple[str, ...]:
        """Tensors that came back as they were sent, or with a gradient of zero: frozen ones, mostly."""
        return tuple(name for name in self.came_back if name not in self.gradients)

    @functools.cached_property
    def is_half(self) -> str | None:
        """``"bfloat16"`` or ``"float16"`` where gradients or changes were rounded to it, also if widened since."""
        if self.kind == "weights":
            return None
        return half_precision.kind_among(self.came_back[name] for name in self.gradients)

    @functools.cached_property
    def refusals(self) -> tuple[str, ...]:
        """Why no batch follows from this exactly, whoever searches: a sentence each, none where nothing is known."""
        return text_refusals.refusals(self._evidence)

    def observation(self) -> TextObservation:
        """What an attack sees.

        Weights and changes are turned into the sum of the gradients of the client's steps, without weight decay; where
        the learning rate is not known, into a multiple of it.

        Raises:
            UpdateError: the first of `refusals`, or numbers that cannot be used (NaN, all zero).
        """
        if not self.gradients:
            raise UpdateError(nothing_changed(self.kind))
        try:
            observation = TextObservation(
                architecture=self.model.architecture,
                params=self.model.params,
                gradients=self.gradients,
                rounding=self._rounding(),
                is_half=self.is_half,
            )
        except SpearError as error:
            raise UpdateError(str(error)) from error
        if self.refusals:
            raise UpdateError(self.refusals[0])
        return observation

    @property
    def sides(self) -> Returned:
        """What was sent and what came back, in their stored dtypes."""
        return Returned(self.model.params, self.came_back, self.metadata)

    def returning(self, came_back: Tensors, metadata: Mapping[str, str]) -> TextUpdate:
        """The same round with something else returned."""
        return dataclasses.replace(self, came_back=came_back, metadata=metadata)

    @functools.cached_property
    def _back(self) -> Returned:
        return Returned(self.model.params, {name: widen(t) for name, t in self.came_back.items()}, self.metadata)

    @functools.cached_property
    def _evidence(self) -> text_refusals.Evidence:
        dropout = self.adapter.config.dropout if self.adapter else 0.0
        return text_refusals.Evidence(self.model, self._back, self.gradients, dropout)

    def _rounding(self) -> dict[str, float]:
        if self.kind == "gradient":
            return {}
        return rounding(self._back, self.gradients)
