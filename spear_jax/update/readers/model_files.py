"""Model files of any framework, and the update that two of them, or one and a gradient, make.

What a federation's server keeps of a round: the model it sent and the model (or gradient, or weight change) that came
back, as PyTorch, Flax, Orbax, Flower or safetensors stored them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jax.numpy import bfloat16

from spear_jax import tensor_files
from spear_jax.update.bundle import Update, UpdateError
from spear_jax.update.readers import torch_files, tree_files

# What data parallelism, compilers and training loops put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.", "params/", "params.")
_TORCH = (".pt", ".pth", ".bin")
_SAFETENSORS_FORMAT = {"pt": "pytorch", "flax": "flax", "tf": "tensorflow"}
_SHOWN = 3


class ModelFile(NamedTuple):
    """The tensors of a model file.

    Attributes:
        tensors: real arrays by name, in their stored dtype, possibly read-only.
        framework: ``"pytorch"``, ``"flax"`` or what else the file tells; None where it does not.
    """

    tensors: dict[str, np.ndarray]
    framework: str | None


def read_model(path: str | os.PathLike[str]) -> ModelFile:
    """Reads a model file or a file of gradients; nothing in it is run or trusted.

    Args:
        path: ``.pt``, ``.pth`` or ``.bin`` of PyTorch, ``.safetensors``, Flax ``.msgpack``, an Orbax folder, or
            ``.npz`` of named arrays or of a list of arrays (``numpy.savez(file, *arrays)``, Flower's old form).

    Raises:
        UpdateError: anything wrong with the file or its contents, in one sentence.
    """
    path = Path(path)
    try:
        tensors, framework = _read(path)
    except tensor_files.TensorFileError as error:
        raise UpdateError(str(error)) from error
    if any(name.startswith(("grad/", "client/")) for name in tensors):
        raise UpdateError(f"{path.name} is an update bundle already; pass it to spear-jax inspect or reconstruct.")
    if not tensors:
        raise UpdateError(f"{path.name} holds no tensors; give a file that holds the parameters of a model.")
    for name, tensor in tensors.items():
        _check_tensor(path.name, name, tensor)
    return ModelFile(tensors, framework)


def name_by_order(arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Names for a list of arrays, as far as its order tells what they are.

    Args:
        arrays: parameters in the order of the layers, as Flower's clients send them.

    Returns:
        The arrays in their order: a matrix and a vector behind it that fits are ``layer_00.weight`` and
        ``layer_00.bias`` (``layer_00/kernel`` and ``layer_00/bias`` where the vectors tell that kernels are (in, out),
        as in Keras and Flax), counted by layer; any other array is ``arr_<position>``. A matrix without bias before the
        scale of a normalisation layer looks like a dense layer: give names to such a model.
    """
    starts = [
        index
        for index, (matrix, vector) in enumerate(zip(arrays, arrays[1:], strict=False))
        if matrix.ndim == 2 and vector.ndim == 1 and len(vector) in matrix.shape
    ]
    fits = lambda axis: all(len(arrays[index + 1]) == arrays[index].shape[axis] for index in starts)
    separator, leaf = ("/", "kernel") if fits(1) and not fits(0) else (".", "weight")
    names = [f"arr_{index}" for index in range(len(arrays))]
    for layer, index in enumerate(starts):
        names[index] = f"layer_{layer:02d}{separator}{leaf}"
        names[index + 1] = f"layer_{layer:02d}{separator}bias"
    return dict(zip(names, arrays, strict=True))


def make_update(
    before: ModelFile,
    after: ModelFile,
    *,
    kind: str = "weights",
    lr: float | None = None,
    local_steps: int | None = None,
    num_examples: int | None = None,
    weight_decay: float | None = None,
    metadata: Mapping[str, str] = MappingProxyType({}),
    as_received: bool = False,
) -> Update:
    """The update of one round, ready to be saved as a bundle or inverted.

    Args:
        before: the model that the server sent.
        after: what came back: the new model, its change or a gradient, as ``kind`` says. Its names may differ from
            those of ``before`` by the usual prefixes (`PREFIXES`); those of ``before`` are kept.
        kind: ``"weights"``, ``"delta"`` or ``"gradient"``.
        lr: learning rate of the client's SGD, where known.
        local_steps: its number, where known; 1 is assumed without.
        num_examples: samples in the client's batch, where known.
        weight_decay: of the client's SGD, where known.
        metadata: what else the metadata of a bundle hold, such as ``image_shape``.
        as_received: make an update also of what gives nothing away, as one who records does: only some of the tensors
            came back, none changed, or none belongs to a dense layer.

    Raises:
        UpdateError: names or shapes that disagree, wrong metadata; and unless ``as_received``, weights that lack some
            tensors, nothing changed, no dense layer with a bias.
    """
    names = match_names(before.tensors, after.tensors, may_lack=as_received or kind == "gradient")
    client = {names[name]: tensor for name, tensor in after.tensors.items()}
    _check_shapes(before.tensors, client)
    numbers = {"lr": lr, "local_steps": local_steps, "num_examples": num_examples, "weight_decay": weight_decay}
    known = {"kind": kind, "framework": before.framework or after.framework} | numbers
    update = Update(
        before.tensors, client, {key: str(value) for key, value in known.items() if value is not None} | dict(metadata)
    )
    if not as_received:
        _check_use(update)
    return update


def match_names(before: Iterable[str], after: Iterable[str], *, may_lack: bool = False) -> dict[str, str]:
    """The name in ``before`` of every tensor of ``after``, usual prefixes (`PREFIXES`) aside where they differ.

    Args:
        before: names of the model that was sent.
        after: names of what came back.
        may_lack: whether ``after`` may lack some of them, as a gradient lacks the buffers.

    Raises:
        UpdateError: a name without counterpart; the first few are named.
    """
    sent, back = {name: name for name in before}, {name: name for name in after}
    if not back.keys() <= sent.keys():
        sent, back = _without_prefix(sent), _without_prefix(back)
    extra = [back[name] for name in back if name not in sent]
    missing = [] if may_lack else [sent[name] for name in sent if name not in back]
    if extra or missing:
        problems = [f"after holds {_few(extra)}, which before lacks"] * bool(extra)
        problems += [f"after lacks {_few(missing)}, which before holds"] * bool(missing)
        raise UpdateError(f"{'; '.join(problems)}: both must be of the same model.")
    return {back[name]: sent[name] for name in back}


def _without_prefix(names: Mapping[str, str]) -> dict[str, str]:
    """The names less what the usual prefixes put before all of them."""
    for prefix in PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            return _without_prefix({name.removeprefix(prefix): whole for name, whole in names.items()})
    return dict(names)


def _few(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _check_shapes(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> None:
    differing = [
        f"{name} is {before[name].shape} before and {tensor.shape} after"
        for name, tensor in after.items()
        if before[name].shape != tensor.shape
    ]
    if differing:
        raise UpdateError(f"{_few(differing)}: both must be of the same model and framework.")


def _check_use(update: Update) -> None:
    """Refuses what nothing can be inverted of."""
    sent = update.global_tensors
    if update.kind == "weights" and all(
        np.array_equal(sent[name], tensor) for name, tensor in update.client_tensors.items()
    ):
        raise UpdateError("no tensor changed between before and after; give the model after the client's round.")
    update.layer()


def _read(path: Path) -> tuple[dict[str, np.ndarray], str | None]:
    if path.is_dir() or path.suffix == ".msgpack":
        return tree_files.read_tree(path), "flax"
    if path.suffix in _TORCH:
        return torch_files.read_state_dict(path), "pytorch"
    if path.suffix not in (".safetensors", ".npz"):
        raise UpdateError(
            f"{path.name} has extension {path.suffix or '(none)'!r}; expected .pt, .pth or .bin (PyTorch), "
            ".safetensors, .npz, .msgpack (Flax) or the folder of an Orbax checkpoint."
        )
    tensors, metadata = tensor_files.read_tensors(path)
    ordinals = [f"arr_{index}" for index in range(len(tensors))]
    if path.suffix == ".npz" and set(tensors) == set(ordinals):
        tensors = name_by_order([tensors[name] for name in ordinals])
    return tensors, _SAFETENSORS_FORMAT.get(metadata.get("format", ""))


def _check_tensor(file_name: str, name: str, tensor: np.ndarray) -> None:
    if not name.isprintable():
        raise UpdateError(f"{file_name} has a tensor called {ascii(name[:80])}; expected a name that can be printed.")
    if tensor.dtype.kind not in "fiub" and tensor.dtype != bfloat16:
        raise UpdateError(f"{file_name}: {name[:80]} has dtype {tensor.dtype}; expected real numbers: leave it out.")
