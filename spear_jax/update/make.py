"""The update that two model files, or one and a gradient, make: what a federation's server keeps of a round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from spear_jax.errors import UpdateError
from spear_jax.update.bundle import Update

# What data parallelism, compilers and training loops put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.", "params/", "params.")

_SHOWN = 3


class ModelFile(NamedTuple):
    """The tensors of a model file.

    Attributes:
        tensors: real arrays by name, in their stored dtype, possibly read-only.
        framework: ``"pytorch"``, ``"flax"`` or what else the file tells; None where it does not.
    """

    tensors: dict[str, np.ndarray]
    framework: str | None


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
