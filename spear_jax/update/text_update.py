"""One client's update of a language model: what came back by the checkpoint's names, and the observation of it.

The file is a bundle as for any other model (``grad/<name>`` or ``client/<name>`` beside string metadata), or a file of
the tensors alone, as PEFT, PyTorch or a federation's server saves them. The model that was sent comes from its own
files; tensors ``global/<name>`` in a bundle go before these.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from spear_jax import tensor_files
from spear_jax.errors import SpearError, UpdateError
from spear_jax.language.linear import LORA_A, LORA_B, LORA_SCALE
from spear_jax.language.observation import TextObservation
from spear_jax.update import adapters, half_precision, text_refusals
from spear_jax.update.adapters import Adapter
from spear_jax.update.language_model import LanguageModel
from spear_jax.update.metadata import PREFIX, require_valid
from spear_jax.update.one_step import nothing_changed, weights_after
from spear_jax.update.readers.model_files import read_model
from spear_jax.update.returned import Returned
from spear_jax.update.text_names import block_of, checkpoint_name, is_buffer, linear_layers
from spear_jax.update.weight_change import widen

Tensors = Mapping[str, np.ndarray]
_GLOBAL = "global/"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TextUpdate:
    """What a server holds of one client's round.

    Attributes:
        model: that was sent, with its adapters.
        came_back: gradients, weights or their changes by the checkpoint's names, in their stored dtype.
        metadata: strings as of any bundle: ``kind`` (gradient, weights or delta), and where known ``lr``,
            ``local_steps``, ``weight_decay``, ``num_examples``.
        adapter: that was sent, None for a model without, or whose adapters are in the bundle.

    Raises:
        UpdateError: metadata that are wrong, tensors whose shapes are not the model's or that are no real numbers.
    """

    model: LanguageModel
    came_back: Tensors
    metadata: Mapping[str, str]
    adapter: Adapter | None = None

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
        with np.errstate(invalid="ignore", over="ignore"):  # damaged numbers are reported by the observation
            found = {name: self._back.gradient(name) for name in self.came_back}
        return {name: gradient for name, gradient in found.items() if np.any(gradient)}

    @property
    def untrained(self) -> tuple[str, ...]:
        """Tensors that came back as they were sent, or with a gradient of zero: frozen ones, mostly."""
        return tuple(name for name in self.came_back if name not in self.gradients)

    @functools.cached_property
    def is_half(self) -> str | None:
        """``"bfloat16"`` or ``"float16"`` where gradients or changes were rounded to it, also if widened since."""
        if self.kind == "weights":
            return None
        kinds = {
            half_precision.kind_of(self.came_back[name]) for name in self.gradients if self.gradients[name].ndim > 1
        }
        return next((kind for kind in half_precision.KINDS if kind in kinds), None)

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
        with np.errstate(invalid="ignore", over="ignore"):
            return {
                name: half_precision.rounding(weights_after(self._back, name), self._back.lr) for name in self.gradients
            }


def read_text_update(
    path: str | os.PathLike[str],
    model: LanguageModel,
    *,
    adapter: Adapter | None = None,
    kind: str | None = None,
    lr: float | None = None,
) -> TextUpdate:
    """Reads what a client returned of a language model.

    Args:
        path: a bundle, or a file or folder of tensors alone: ``.safetensors``, ``.npz``, PyTorch's, or PEFT's folder.
        model: that the server sent, without adapters.
        adapter: that it sent with it, where it did.
        kind: what came back, ``"gradient"``, ``"weights"`` or ``"delta"``; goes before what the metadata say.
        lr: learning rate of the client's SGD, likewise.

    Returns:
        The update, names brought to the checkpoint's.

    Raises:
        UpdateError: a file that cannot be read, no kind, names that the model does not have, adapters without the ones
            that were sent; further as `TextUpdate`.
    """
    path = Path(path)
    try:
        tensors, metadata = _read(path)
        given = {"kind": kind, "lr": None if lr is None else str(lr)}
        metadata |= {key: value for key, value in given.items() if value is not None}
        if "kind" not in metadata:
            metadata["kind"] = _kind_of(tensors)
        require_valid(metadata)
        sent = _sent(tensors, adapters.adapted(model, adapter) if adapter else model)
        came_back = _named(_under(PREFIX[metadata["kind"]], tensors), sent, sent.params)
        return TextUpdate(model=sent, came_back=came_back, metadata=MappingProxyType(metadata), adapter=adapter)
    except SpearError as error:
        raise UpdateError(f"{path.name}: {error}") from error


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if path.is_dir() and (found := [path / name for name in adapters.WEIGHTS if (path / name).is_file()]):
        path = found[0]
    if path.suffix in (".safetensors", ".npz"):
        tensors, metadata = tensor_files.read_tensors(path)
        metadata.pop("format", None)  # of PyTorch's files, which says nothing of the update
        return tensors, metadata
    return read_model(path).tensors, {}


def _kind_of(tensors: Tensors) -> str:
    if any(name.startswith("grad/") for name in tensors):
        return "gradient"
    raise UpdateError("nothing says what its tensors are; say kind=gradient, kind=weights or kind=delta.")


def _under(prefix: str, tensors: Tensors) -> dict[str, np.ndarray]:
    """What came back: the names with the prefix of a bundle, or all of a file that has no such names."""
    beginnings = (_GLOBAL, *PREFIX.values())
    found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    is_bundle = any(name.startswith(beginnings) for name in tensors)
    if not found and (is_bundle or not tensors):
        raise UpdateError(f"it holds no tensors named {prefix}<name>; what came back stands under these names.")
    return found if is_bundle else dict(tensors)


def _sent(tensors: Tensors, model: LanguageModel) -> LanguageModel:
    """The model with what the bundle says was sent, adapters too, in the dtype of the model's files."""
    named = {name.removeprefix(_GLOBAL): tensor for name, tensor in tensors.items() if name.startswith(_GLOBAL)}
    if not named:
        return model
    parts = (LORA_A, LORA_B, LORA_SCALE)
    layers = linear_layers(model.architecture)
    found = _named(named, model, {*model.params, *(layer + part for layer in layers for part in parts)})
    for name in (layer for layer in layers if layer + LORA_A in found):
        if name + LORA_SCALE not in {**model.params, **found}:
            raise UpdateError("adapters were sent, but their scale is not known; give the adapter's folder too.")
    dtype = next(iter(model.params.values())).dtype
    for name, tensor in found.items():
        expected = model.params[name].shape if name in model.params else tensor.shape
        if tensor.shape != expected or not half_precision.is_floating(tensor):
            raise UpdateError(f"global/{name} is {tensor.dtype}{tensor.shape}, but the model's has shape {expected}.")
    params = dict(model.params) | {name: np.asarray(tensor, dtype) for name, tensor in found.items()}
    return dataclasses.replace(model, params=params)


def _named(tensors: Tensors, model: LanguageModel, known: Mapping[str, object] | set[str]) -> dict[str, np.ndarray]:
    """Tensors by the checkpoint's names.

    Raises:
        UpdateError: a name that is none of the model's, two tensors for one name that differ.
    """
    found: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        own = checkpoint_name(name, model.architecture, known)
        if own is None and not is_buffer(name):
            raise UpdateError(_why_unknown(name, model))
        if own is None:
            continue
        if own in found and not np.array_equal(found[own], tensor):
            raise UpdateError(f"two tensors came back for {own}, the other as {name}, and they differ; give one.")
        found[own] = tensor
    if not found:
        raise UpdateError("no tensor of the language model is in it; expected tensors under the checkpoint's names.")
    return found


def _why_unknown(name: str, model: LanguageModel) -> str:
    shown, block, layers = ascii(name[:120])[1:-1], block_of(name), model.architecture.layers
    if block is not None and block >= layers:
        return f"{shown} came back, but the model has {layers} layers; give the model that was sent."
    if ".lora_" in name:
        return f"{shown} came back, but no such adapter was sent; give the adapter's folder that the server sent."
    return f"{shown} came back, but the model has no such tensor; give the model that was sent."
