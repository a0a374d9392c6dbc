"""Files of a language model's updates: read in the forms that federations keep, and written as a bundle.

A file is a bundle as for any other model (``grad/<name>`` or ``client/<name>`` beside string metadata), or one of the
tensors alone, as PEFT, PyTorch or a federation's server saves them. The model that was sent comes from its own files;
tensors ``global/<name>`` in a bundle go before these.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from spear_jax import tensor_files
from spear_jax.errors import SpearError, UpdateError
from spear_jax.language.linear import LORA_A, LORA_B, LORA_SCALE
from spear_jax.update import adapters, half_precision
from spear_jax.update.adapters import Adapter
from spear_jax.update.language_model import LanguageModel
from spear_jax.update.metadata import FORMAT_VERSION, PREFIX, require_valid
from spear_jax.update.readers.model_files import read_model
from spear_jax.update.text_names import block_of, checkpoint_name, is_buffer, linear_layers
from spear_jax.update.text_update import Tensors, TextUpdate

_GLOBAL = "global/"


def read_text_update(
    path: str | os.PathLike[str],
    model: LanguageModel,
    *,
    adapter: Adapter | None = None,
    kind: str | None = None,
    lr: float | None = None,
) -> TextUpdate:
    """Read what a client returned of a language model.

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
        base = adapters.adapted(model, adapter) if adapter else model
        beside = _beside(tensors, base)
        sent = dataclasses.replace(base, params=dict(base.params) | beside) if beside else base
        came_back = _named(_under(PREFIX[metadata["kind"]], tensors), sent, sent.params)
        return TextUpdate(
            model=sent, came_back=came_back, metadata=MappingProxyType(metadata), adapter=adapter, beside=tuple(beside)
        )
    except SpearError as error:
        raise UpdateError(f"{path.name}: {error}") from error


def save_text_update(update: TextUpdate, path: str | os.PathLike[str]) -> None:
    """Writes a bundle of what came back, and of what was sent beside the model's own files, whole or not at all.

    Raises:
        UpdateError: another extension than ``.safetensors`` or ``.npz``, a dtype that it cannot hold, a folder that
            cannot be written.
    """
    back = {f"{PREFIX[update.kind]}{name}": tensor for name, tensor in update.came_back.items()}
    sent = {f"{_GLOBAL}{name}": update.model.params[name] for name in update.beside}
    if Path(path).suffix == ".npz" and any(tensor.dtype.name == "bfloat16" for tensor in back.values()):
        raise UpdateError(f"{Path(path).name} cannot hold bfloat16; give the extension .safetensors.")
    try:
        tensor_files.write_tensors(path, back | sent, {"format_version": FORMAT_VERSION} | dict(update.metadata))
    except tensor_files.TensorFileError as error:
        raise UpdateError(str(error)) from error


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


def _beside(tensors: Tensors, model: LanguageModel) -> dict[str, np.ndarray]:
    """What the bundle itself says was sent, adapters too, in the dtype of the model's files."""
    named = {name.removeprefix(_GLOBAL): tensor for name, tensor in tensors.items() if name.startswith(_GLOBAL)}
    if not named:
        return {}
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
    return {name: np.asarray(tensor, dtype) for name, tensor in found.items()}


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
