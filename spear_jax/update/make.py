"""The update that two model files, or one and a gradient, make: what a federation's server keeps of a round."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from spear_jax.errors import UpdateError
from spear_jax.update.alignment import align
from spear_jax.update.bundle import Update
from spear_jax.update.dense_layers import OPEN_LAYOUT
from spear_jax.update.metadata import require_valid
from spear_jax.update.model_file import ModelFile, few
from spear_jax.update.pairing import COPY, Way, pairings
from spear_jax.update.reparametrized import Composed, compose
from spear_jax.update.tensor_names import parse_kernel
from spear_jax.update.weight_change import decayed_share

LEFT_OUT = "left_out"  # metadata key
MAX_NOTES = 6
_GRADIENTS = frozenset(("grad", "grads", "gradient", "gradients"))


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
    """Make the update of one round, ready to be saved as a bundle or inverted.

    Args:
        before: the model that the server sent.
        after: what came back: the new model, its change or a gradient, as ``kind`` says, whole or in part. Its names
            may differ from those of ``before`` as `pair_files` says; those of ``before`` are kept.
        kind: ``"weights"``, ``"delta"`` or ``"gradient"``.
        lr: learning rate of the client's SGD, where known.
        local_steps: its number, where known; 1 is assumed without.
        num_examples: samples in the client's batch, where known.
        weight_decay: of the client's SGD, where known.
        metadata: what else the metadata of a bundle hold, such as ``image_shape``; ``activation`` goes before what the
            model's files name.
        as_received: make an update also of what gives nothing away, as one who records does: nothing changed, or
            nothing belongs to a dense layer. What was never sent is an error then, as one program names both.

    Returns:
        The update; ``left_out`` in its metadata says which tensors are none of it. Kernels under weight_norm and
        spectral_norm are whole in it.

    Raises:
        UpdateError: names or shapes that disagree or leave several ways open, wrong metadata, a dense layer whose
            tensors are no real numbers; and unless ``as_received``, nothing changed, no dense layer with a bias, a
            first layer whose gradient does not follow from what came back.
    """
    numbers = {"lr": lr, "local_steps": local_steps, "num_examples": num_examples, "weight_decay": weight_decay}
    known = {"kind": kind, "framework": before.framework or after.framework, "activation": before.activation} | numbers
    strings = {key: str(value) for key, value in known.items() if value is not None} | dict(metadata)
    require_valid(strings)
    names = pair_files(before, after, kind=kind)
    extra = [name for name in after.tensors if name not in names]
    if as_received and extra:
        raise UpdateError(f"after holds {few(extra)}, which before lacks: both must be of the same model.")
    client = {names[name]: after.tensors[name] for name in after.tensors if name in names}
    _check_shapes(before.tensors, client)
    for file in (before, after):
        _check_exotic(file)
    composed = compose(
        before.tensors, client, kind=kind, decayed=_decayed(strings), local_steps=int(strings.get("local_steps", 1))
    )
    if not composed.came_back:
        kernel, reason = next(iter(composed.lost.items()))
        raise UpdateError(f"layer {kernel.removesuffix('.weight')} {reason}.")
    left_out = _left_out(before, after, names, composed)
    update = Update(
        composed.sent,
        composed.came_back,
        strings | ({LEFT_OUT: left_out} if left_out else {}),
        is_ordered=before.is_ordered,
    )
    if not as_received:
        _check_use(update, composed.lost)
    return update


def pair_files(before: ModelFile, after: ModelFile, *, kind: str) -> dict[str, str]:
    """The name in ``before`` of every tensor of ``after`` that has a counterpart there.

    Args:
        before: the model that was sent.
        after: what came back; a list is aligned by order and shape (`align`), anything else by name (`pairings`). Of
            several ways to pair, one by which nothing but what was sent came back is none, nor is an average.
        kind: what ``after`` holds; gradients in it are what came back for ``"gradient"`` and are not for any other.

    Raises:
        UpdateError: nothing pairs, or several ways are left; the first few names are given.
    """
    if before.positions is not None or after.positions is not None:
        return align(before, after)
    back = _of_kind(after.tensors, kind)
    ways = pairings(*({name: tensor.shape for name, tensor in side.items()} for side in (before.tensors, back)))
    is_new = lambda way: any(not np.array_equal(before.tensors[to], back[it]) for it, to in way.names.items())
    is_model = lambda way: not all(COPY.search(part) for part in map(_first_part, way.names))
    for is_right in (is_new, is_model) if len(ways) > 1 else ():
        ways = [way for way in ways if is_right(way)] or ways
    if ways and (len(ways) == 1 or ways[0].is_named):
        return ways[0].names
    extra = [name for name in back if name not in before.tensors]
    missing = [name for name in before.tensors if name not in back]
    problem = f"after holds {few(extra)}, which before lacks; after lacks {few(missing)}, which before holds"
    if not ways:
        raise UpdateError(f"{problem}: both must be of the same model.")
    raise UpdateError(f"{problem}: {_in_doubt(*ways[:2])}; save the model that was trained to a file of its own.")


def _of_kind(tensors: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """Of a file with gradients beside weights, those that were asked for."""
    gradients = {name: tensor for name, tensor in tensors.items() if _GRADIENTS.intersection(re.split(r"[/.]", name))}
    if not gradients or len(gradients) == len(tensors):
        return tensors
    return gradients if kind == "gradient" else {name: t for name, t in tensors.items() if name not in gradients}


def _first_part(name: str) -> str:
    return re.split(r"[/.]", name)[0]


def _in_doubt(one: Way, other: Way) -> str:
    """A tensor that the two ways pair with different ones."""
    first, second = ({to: it for it, to in way.names.items()} for way in (one, other))
    for sent, back in first.items():
        if sent in second and second[sent] != back:
            return f"{sent} may be {back} or {second[sent]}"
    back = next(iter(one.names))
    return f"{back} may be {one.names[back]} or {other.names.get(back)}"


def _decayed(strings: Mapping[str, str]) -> float:
    """Share that weight decay took, where it is known; 0 where not, which the observation refuses."""
    if "weight_decay" not in strings or "lr" not in strings:
        return 0.0
    return decayed_share(float(strings["lr"]), float(strings["weight_decay"]), int(strings.get("local_steps", 1)))


def _check_shapes(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> None:
    differing = [
        f"{name} is {before[name].shape} before and {tensor.shape} after"
        for name, tensor in after.items()
        if before[name].shape != tensor.shape
    ]
    if differing:
        raise UpdateError(f"{few(differing)}: both must be of the same model and framework.")


def _check_exotic(file: ModelFile) -> None:
    """Refuse a dense layer whose kernel or bias is among what a reader left out."""
    known = {**dict.fromkeys(file.left_out), **file.tensors}
    for name in known:
        parsed = parse_kernel(name)
        bias = next((bias for bias in parsed.biases if bias in known), None) if parsed else None
        exotic = next((part for part in (name, bias) if part in file.left_out), None)
        if bias is not None and exotic is not None:
            kernel = file.tensors.get(name)
            if kernel is None or kernel.ndim == 2:
                raise UpdateError(
                    f"{exotic} {file.left_out[exotic]}; it belongs to a dense layer: save the model in float32."
                )


def _left_out(before: ModelFile, after: ModelFile, names: Mapping[str, str], composed: Composed) -> str:
    """What is no part of the update, in words; empty where all is."""
    notes = [f"{name} {reason}" for name, reason in {**before.left_out, **after.left_out}.items()]
    notes += [f"{kernel} {reason}" for kernel, reason in composed.lost.items()]
    extra = [name for name in after.tensors if name not in names]
    notes += [f"{few(extra)} came back without having been sent"] * bool(extra)
    shown = notes[:MAX_NOTES]
    return "; ".join(shown) + f"; and {len(notes) - MAX_NOTES} more" * (len(notes) > MAX_NOTES)


def _check_use(update: Update, lost: Mapping[str, str]) -> None:
    """Refuses what nothing can be inverted of."""
    sent = update.global_tensors
    is_same = all(np.array_equal(sent[name], tensor) for name, tensor in update.client_tensors.items())
    if update.kind == "weights" and is_same and not lost:
        raise UpdateError("no tensor changed between before and after; give the model after the client's round.")
    if update.kind != "weights" and is_same:
        raise UpdateError(f"what came back is the model that was sent, not a {update.kind}; give the other file.")
    if not update.layers and any(reason == OPEN_LAYOUT for _, reason in update.skipped):
        return  # which the layout, given later, settles
    first = update.layer()
    for layer in update.layers[: update.layers.index(first) + 1]:
        if layer.kernel_name in lost:
            raise UpdateError(f"layer {layer.name} {lost[layer.kernel_name]}.")
