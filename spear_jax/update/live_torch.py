"""A model of PyTorch in memory and what a step of training made of it, as an update, without a file between.

Modules and tensors are used through their own methods: torch is never imported here, as who has a module has it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jax.numpy import bfloat16

from spear_jax.errors import UpdateError
from spear_jax.update.bundle import Update
from spear_jax.update.make import make_update
from spear_jax.update.model_file import ModelFile

_ADAPTER = ".lora_"
# Nearer to the weights than this, relative to their norm, a gradient never is.
_MOST_ALIKE = 0.5


def from_torch(
    model: Any,
    came_back: Any = None,
    *,
    kind: str | None = None,
    lr: float | None = None,
    local_steps: int | None = None,
    num_examples: int | None = None,
    weight_decay: float | None = None,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> Update:
    """The update that a PyTorch model and one step of its training make, as a federation's server receives it.

    Gradients are what ``backward`` left, or what ``torch.autograd.grad`` returned::

        loss(model(inputs), labels).backward()
        update = sj.from_torch(model)

    Weights need the model from before the step, kept apart, as ``state_dict`` shares its memory with the model::

        before = copy.deepcopy(model.state_dict())
        optimizer.step()
        update = sj.from_torch(before, model.state_dict(), lr=0.1)

    Args:
        model: a ``torch.nn.Module`` whose parameters are what the server sent, or a ``state_dict`` of them.
        came_back: gradients by the parameters' names; gradients in the order of ``model.parameters()``, or of those
            that are trained, None for one that has none; a ``state_dict`` or another module after the step. Without
            it, the ``.grad`` of the model's parameters.
        kind: ``"gradient"``, ``"weights"`` or ``"delta"``. Without it a ``state_dict`` and a module hold weights, and
            anything else gradients.
        lr: learning rate of the client's SGD, where known.
        local_steps: its number, where known; 1 is assumed without.
        num_examples: samples in the client's batch, where known.
        weight_decay: of the client's SGD, where known.
        metadata: what else the metadata of a bundle hold, such as ``image_shape`` and ``normalization`` (JSON).

    Returns:
        The update, its tensors copied, in their own dtype: training may go on. Of a model with adapters (PEFT's LoRA)
        of which nothing else came back, the adapters alone, as federations send them.

    Raises:
        UpdateError: no module, gradients that are not there or as many as the model's parameters, weights without a
            change, and what `make_update` refuses of names, shapes and metadata.
    """
    sent = _file(_named(model))
    back = _came_back(model, came_back)
    kind = kind or _kind_of(came_back, lr)
    after = _file(back)
    if after.tensors and all(_ADAPTER in name for name in after.tensors):
        sent = sent._replace(tensors={name: it for name, it in sent.tensors.items() if _ADAPTER in name}, left_out={})
    update = make_update(
        sent,
        after,
        kind=kind,
        lr=lr,
        local_steps=local_steps,
        num_examples=num_examples,
        weight_decay=weight_decay,
        metadata=metadata,
        as_received=True,
    )
    _check_change(update)
    return update


def _named(model: Any) -> Mapping[str, Any]:
    """Parameters and buffers by name, in the order of the model."""
    if _is_module(model):
        return model.state_dict()
    if isinstance(model, Mapping):
        return model
    raise UpdateError(f"the model is a {type(model).__name__}; expected a torch.nn.Module or its state_dict.")


def _came_back(model: Any, given: Any) -> Mapping[str, Any]:
    """What the client answers, by name; without what has no gradient."""
    if given is None:
        if not _is_module(model):
            raise UpdateError("a state_dict has no gradients; give them, or the state_dict after the step.")
        given = {name: parameter.grad for name, parameter in model.named_parameters()}
    if _is_module(given):
        given = given.state_dict()
    if not isinstance(given, Mapping):
        given = _by_order(model, given)
    found = {name: tensor for name, tensor in given.items() if tensor is not None}
    if not found:
        raise UpdateError("no parameter has a gradient; call from_torch after backward and before zero_grad.")
    return found


def _by_order(model: Any, given: Any) -> dict[str, Any]:
    """Gradients under the names of the parameters, of all of them or of those that are trained."""
    if not isinstance(given, Iterable) or hasattr(given, "detach"):
        raise UpdateError(f"what came back is a {type(given).__name__}; expected tensors by name or a list of them.")
    if not _is_module(model):
        raise UpdateError("gradients in order need the module that has the parameters; give names with a state_dict.")
    gradients: Sequence[Any] = list(given)
    everything = dict(model.named_parameters())
    trained = [name for name, parameter in everything.items() if parameter.requires_grad]
    for names in (list(everything), trained):
        if len(names) == len(gradients):
            return dict(zip(names, gradients, strict=True))
    raise UpdateError(
        f"{len(gradients)} gradients came back, but the model has {len(everything)} parameters, {len(trained)} of them "
        "trained; give one for each, None for what has none."
    )


def _kind_of(given: Any, lr: float | None) -> str:
    # PyTorch marks its state_dicts with this attribute, and keeps it in files.
    if _is_module(given) or hasattr(given, "_metadata"):
        return "weights"
    if given is not None and lr is not None:
        raise UpdateError("with lr it stays open what came back; say kind='weights' or kind='gradient'.")
    return "gradient"


def _check_change(update: Update) -> None:
    """Refuses weights that did not change, and weights that were taken for gradients."""
    pairs = [
        (update.global_tensors[name].astype(np.float64), tensor.astype(np.float64))
        for name, tensor in update.client_tensors.items()
    ]
    if update.kind == "weights" and all(np.array_equal(sent, back) for sent, back in pairs):
        raise UpdateError(
            "no tensor changed: a state_dict shares its memory with the model; keep copy.deepcopy(model.state_dict()) "
            "from before the step."
        )
    if update.kind == "gradient":
        with np.errstate(over="ignore", invalid="ignore"):
            apart = sum(float(np.sum((sent - back) ** 2)) for sent, back in pairs)
            size = sum(float(np.sum(sent**2)) for sent, _ in pairs)
        if apart < _MOST_ALIKE**2 * size:
            raise UpdateError("what came back are weights, not gradients; say kind='weights'.")


def _file(named: Mapping[str, Any]) -> ModelFile:
    """Copies in NumPy; what NumPy has no real numbers for is left out with the reason."""
    tensors: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    for name, tensor in named.items():
        try:
            array = _array(tensor)
        except (TypeError, RuntimeError, ValueError, AttributeError) as error:
            left_out[name] = f"cannot be read as numbers ({str(error).splitlines()[0]})"
            continue
        if array.dtype == bfloat16 or array.dtype.kind in "fiub":
            tensors[name] = array
        else:
            left_out[name] = f"has dtype {array.dtype}"
    return ModelFile(tensors, "pytorch", left_out)


def _array(tensor: Any) -> np.ndarray:
    if not hasattr(tensor, "detach"):
        return np.array(tensor)
    torch = sys.modules["torch"]
    whole = tensor.detach()
    whole = whole.full_tensor() if hasattr(whole, "full_tensor") else whole
    whole = whole if whole.layout == torch.strided else whole.to_dense()
    if whole.dtype == torch.bfloat16:
        return np.array(whole.cpu().contiguous().view(torch.int16).numpy()).view(bfloat16)
    return np.array(whole.numpy(force=True))


def _is_module(value: Any) -> bool:
    return hasattr(value, "named_parameters") and hasattr(value, "state_dict")
