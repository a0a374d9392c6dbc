"""Update bundles: the files that hold one client's round, ``.safetensors`` or ``.npz``.

A bundle holds ``global/<name>``, the tensors the server sent out, and what came back: ``grad/<name>`` for a gradient,
``client/<name>`` for new weights or a weight change. Its string metadata (``kind``) say which, and in ``tensor_order``
(a JSON list of names) in which order the model's file held its tensors, where it had one. Nothing private is in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import numpy as np

from spear_jax import tensor_files
from spear_jax.errors import UpdateError
from spear_jax.update.bundle import Update
from spear_jax.update.metadata import FORMAT_VERSION, ORDER_KEY, PREFIX, parse_order, require_valid


def load_update(path: str | os.PathLike[str], *, layout: str | None = None) -> Update:
    """Read an update bundle.

    Args:
        path: a ``.safetensors`` or ``.npz`` file with ``global/<name>`` and ``grad/<name>`` or ``client/<name>``.
            Metadata may be left out for a gradient; ``kind`` is needed for ``client/``.
        layout: ``"out_in"`` (PyTorch) or ``"in_out"`` (Flax, Keras) where square kernels are stored unlike their name.

    Returns:
        The update, checked, tensors in their stored dtype.

    Raises:
        UpdateError: anything wrong with the file or its contents, in one sentence.
    """
    try:
        tensors, metadata = tensor_files.read_tensors(path)
        global_tensors = _under("global/", tensors)
        if "kind" not in metadata:
            metadata["kind"] = _infer_kind(tensors)
        require_valid(metadata)
        client_tensors = _under(PREFIX[metadata["kind"]], tensors)
        order = parse_order(metadata.pop(ORDER_KEY, "[]"))
        in_order = {name: global_tensors[name] for name in order if name in global_tensors} | global_tensors
        return Update(in_order, client_tensors, metadata, layout, is_ordered=bool(order))
    except tensor_files.TensorFileError as error:
        raise UpdateError(str(error)) from error
    except UpdateError as error:
        raise UpdateError(f"{os.path.basename(path)}: {error}") from error


def save_update(update: Update, path: str | os.PathLike[str]) -> None:
    """Write an update bundle to ``.safetensors`` or ``.npz``, atomically.

    Raises:
        UpdateError: another extension, or the folder cannot be written.
    """
    prefix = PREFIX[update.kind]
    tensors = {f"global/{name}": tensor for name, tensor in update.global_tensors.items()}
    tensors |= {f"{prefix}{name}": tensor for name, tensor in update.client_tensors.items()}
    order = {ORDER_KEY: json.dumps(list(update.global_tensors))} if update.is_ordered else {}
    try:
        tensor_files.write_tensors(path, tensors, {"format_version": FORMAT_VERSION} | dict(update.metadata) | order)
    except tensor_files.TensorFileError as error:
        raise UpdateError(str(error)) from error


def _under(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _infer_kind(tensors: Mapping[str, np.ndarray]) -> str:
    if any(name.startswith("grad/") for name in tensors):
        return "gradient"
    if any(name.startswith("client/") for name in tensors):
        raise UpdateError("it holds client/ tensors but no metadata kind; say kind=weights or kind=delta.")
    some = ", ".join(list(tensors)[:3]) or "nothing"
    raise UpdateError(f"it holds {some}; expected tensors named global/<name> and grad/<name> or client/<name>.")
