"""Update bundles: what a server holds of one client's round, and the layer observations that follow from it.

A bundle holds ``global/<name>``, the tensors the server sent out, and what came back: ``grad/<name>`` for a gradient,
``client/<name>`` for new weights or a weight change. Its string metadata (``kind``) say which, and in ``tensor_order``
(a JSON list of names) in which order the model's file held its tensors, where it had one. Nothing private is in it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from spear_jax import tensor_files
from spear_jax.errors import UpdateError
from spear_jax.normalization import Normalization
from spear_jax.observation import LayerObservation
from spear_jax.update.before import moved_share, takes_outputs, tensors_before
from spear_jax.update.dense_layers import DenseLayer, find_layers
from spear_jax.update.layer_order import first_candidates, is_chain, stands_before
from spear_jax.update.metadata import FORMAT_VERSION, ORDER_KEY, metadata_problem, parse_order, parse_shape
from spear_jax.update.trained import check_counterparts, why_untrained
from spear_jax.update.weight_change import decayed_share, gradient_sum, rounding_error, widen

_PREFIX = {"gradient": "grad/", "weights": "client/", "delta": "client/"}


@dataclasses.dataclass(frozen=True, eq=False)
class Update:
    """One client's contribution to one round, as the server sees it.

    Attributes:
        global_tensors: the model the server sent, by tensor name.
        client_tensors: what came back, by the same names: gradients, weights, or weight changes, as ``kind`` says.
        metadata: strings: ``kind`` (gradient, weights or delta), and where known ``lr``, ``local_steps``,
            ``weight_decay`` (lambda of the term ``lambda w`` in every gradient), ``num_examples``, ``framework``,
            ``layout``, ``normalization`` (JSON), ``image_shape`` (JSON).
        layout: ``"out_in"`` or ``"in_out"`` to settle how square kernels are stored; overrides the metadata.
        is_ordered: whether ``global_tensors`` stand in the order of the model's file, which a bundle keeps.

    Raises:
        UpdateError: unknown kind or version, metadata that are no numbers, tensors without counterpart, shapes that
            disagree, a layout that contradicts the biases.
    """

    global_tensors: Mapping[str, np.ndarray]
    client_tensors: Mapping[str, np.ndarray]
    metadata: Mapping[str, str]
    layout: str | None = None
    is_ordered: bool = False

    def __post_init__(self) -> None:
        _check_metadata(self.metadata)
        if not self.global_tensors or not self.client_tensors:
            side = "global/" if not self.global_tensors else _PREFIX[self.kind]
            raise UpdateError(f"the update has no tensors named {side}<name>; kind={self.kind} needs them.")
        check_counterparts(self.layers, self.global_tensors, self.client_tensors, _PREFIX[self.kind])

    @property
    def kind(self) -> str:
        """``"gradient"``, ``"weights"`` or ``"delta"``."""
        return self.metadata["kind"]

    @property
    def local_steps(self) -> int:
        """SGD steps that the client took; 1 for a gradient and where the bundle does not say."""
        return 1 if self.kind == "gradient" else int(self.metadata.get("local_steps", "1"))

    @functools.cached_property
    def layers(self) -> tuple[DenseLayer, ...]:
        """The dense layers, first to last."""
        first = self.first_candidates[:1]
        return (*first, *(layer for layer in self._found[0] if layer not in first))

    @functools.cached_property
    def first_candidates(self) -> tuple[DenseLayer, ...]:
        """The layers that may be the first: one where the file decides it, all that are left where it stays open.

        What shapes, order and numbers leave open, neurons that never fired may decide (`takes_outputs`).
        """
        candidates = first_candidates(self._found[0], is_told=self._is_ordered)
        if len(candidates) == 1:
            return candidates
        seen = {layer: change for layer in self._found[0] if (change := self._change_of(layer)) is not None}
        behind = {layer for layer in seen for other in seen if takes_outputs(seen[layer], seen[other])}
        return tuple(layer for layer in candidates if layer not in behind) or candidates

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """``(name, reason)`` for each tensor of two or more dimensions that is not part of a dense layer."""
        return self._found[1]

    @property
    def activation(self) -> str | None:
        """What stands between the dense layers, where the bundle says so."""
        return self.metadata.get("activation")

    @property
    def normalization(self) -> Normalization | None:
        """How the client normalized its pixels, where the bundle says so."""
        text = self.metadata.get("normalization")
        return Normalization.from_json(text) if text else None

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(H, W, C) of the inputs, where the bundle says so."""
        text = self.metadata.get("image_shape")
        return parse_shape(text) if text else None

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of tensors and metadata, the same for both file formats."""
        digest = hashlib.sha256(json.dumps(sorted(self.metadata.items())).encode())
        for side in (self.global_tensors, self.client_tensors):
            for name in sorted(side):
                array = np.asarray(side[name], order="C")
                digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
                digest.update(array.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    @functools.cached_property
    def trained(self) -> tuple[DenseLayer, ...]:
        """The dense layers that came back with a change, first to last: what is frozen is none of them."""
        return tuple(layer for layer in self.layers if self._why_untrained(layer) is None)

    def layer(self, name: str | None = None) -> DenseLayer:
        """The dense layer of this name, or the only one that ends in it; by default the first that was trained.

        Raises:
            UpdateError: no such layer, or several.
        """
        if not self.layers:
            reasons = "; ".join(f"{tensor}: {reason.rstrip('.')}" for tensor, reason in self.skipped)
            raise UpdateError(f"the update has no dense layer with a bias{f' ({reasons})' if reasons else ''}.")
        if name is None:
            return self.trained[0] if self.trained else self.layers[0]
        exact = [layer for layer in self.layers if layer.name == name]
        matches = exact or [layer for layer in self.layers if name and layer.name.endswith(name)]
        if len(matches) != 1:
            problem = "matches several layers" if matches else "is not a dense layer of this update"
            known = ", ".join(layer.name for layer in matches or self.layers)
            raise UpdateError(f"{name!r} {problem}; choose one of {known}.")
        return matches[0]

    def observation(self, layer_name: str | None = None) -> LayerObservation:
        """What the server sees of one dense layer.

        Weights and weight changes are turned into the sum of the gradients of the client's SGD steps, without weight
        decay; where the learning rate is not known, into a multiple of it. Half precision is widened to float32, no
        other dtype changes.

        Args:
            layer_name: name of a layer or an ending that only one has; the first that was trained by default.

        Returns:
            Kernel and gradient as (out, in), whatever their layout.

        Raises:
            UpdateError: no such layer, one that did not come back, several local steps of a layer behind a dense one
                that was trained in them, weight decay without a learning rate, or numbers that cannot be used (NaN, all
                zero).
        """
        layer = self.layer(layer_name)
        weight, bias = self._tensors(layer, self.global_tensors)
        weight_grad, bias_grad = self._tensors(layer, self._gradients(layer))
        drift = self._lr if self.local_steps > 1 else 0.0
        moved = self.moved_before(layer.name)
        input_drift = moved_share([self.global_tensors[name] for name in moved], [self._change(name) for name in moved])
        try:
            # Damaged numbers are reported by the check in a sentence, not by NumPy in a warning.
            with np.errstate(invalid="ignore", over="ignore"):
                return LayerObservation(
                    weight=weight, bias=bias, weight_grad=weight_grad, bias_grad=bias_grad, drift=drift,
                    rounding=0.0 if self.kind == "gradient" else rounding_error(weight, self._lr),
                    input_drift=input_drift,
                )  # fmt: skip
        except ValueError as error:
            raise UpdateError(f"layer {layer.name}: {error}{self._trained_instead(layer)}") from error

    def moved_before(self, layer_name: str | None = None) -> tuple[str, ...]:
        """Tensors that may stand before a layer and changed over several local steps, so that its inputs moved.

        A tensor that did not come back may have changed. After one step nothing moved while it was taken.

        Args:
            layer_name: as for `observation`.

        Raises:
            UpdateError: no such layer.
        """
        layer = self.layer(layer_name)
        if self.local_steps == 1:
            return ()
        shapes = {name: self.global_tensors[name].shape for name in self._floating}
        before = tensors_before(shapes, self.layers, layer, candidates=self.first_candidates, is_told=self._is_ordered)
        return tuple(name for name in before if self._moved(name))

    def network(self, layer_name: str | None = None) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """The dense layers above one layer, taken as joined by ReLU.

        Args:
            layer_name: as for `observation`.

        Returns:
            ``[(W (out, in), bias (out,)), ...]`` in order, or None where nothing lies above, where the shapes do not
            chain, or where a 2-D tensor could not be read as a dense layer and may belong in between.

        Raises:
            UpdateError: no such layer.
        """
        index = self.layers.index(self.layer(layer_name))
        matrices_left_out = any(self.global_tensors[name].ndim == 2 for name, _ in self.skipped)
        if index + 1 == len(self.layers) or self.layers[-1].out_features < 2:
            return None
        if matrices_left_out or not is_chain(self.layers[index:]):
            return None
        return [self._tensors(layer, self.global_tensors) for layer in self.layers[index + 1 :]]

    def next_weight_grad(self, layer_name: str | None = None) -> np.ndarray | None:
        """Kernel gradient (out, in) of the dense layer above one layer, where `network` joins them, else None.

        Raises:
            UpdateError: no such layer.
        """
        if self.network(layer_name) is None:
            return None
        above = self.layers[self.layers.index(self.layer(layer_name)) + 1]
        try:
            return np.asarray(self.observation(above.name).weight_grad)
        except UpdateError:  # then it says nothing, and the layer that was asked for can do without
            return None

    def layers_above(self, layer_name: str | None = None) -> list[LayerObservation]:
        """The dense layers above one layer as the server sees them, lowest first, up to the first that did not return.

        Args:
            layer_name: as for `observation`.

        Returns:
            none where `network` does not join them.

        Raises:
            UpdateError: no such layer.
        """
        if self.network(layer_name) is None:
            return []
        found = []
        for layer in self.layers[self.layers.index(self.layer(layer_name)) + 1 :]:
            try:
                found.append(self.observation(layer.name))
            except UpdateError:  # frozen, or damaged: the layers below it can do without
                break
        return found

    @functools.cached_property
    def _found(self) -> tuple[tuple[DenseLayer, ...], tuple[tuple[str, str], ...]]:
        floating = {name: self.global_tensors[name].shape for name in self._floating}
        layout, framework = self.layout or self.metadata.get("layout"), self.metadata.get("framework")
        try:
            found, skipped = find_layers(floating, layout=layout, framework=framework, is_told=self._is_ordered)
        except ValueError as error:
            raise UpdateError(str(error)) from error
        others = [
            (name, f"its dtype is {tensor.dtype}, not floating point.")
            for name, tensor in self.global_tensors.items()
            if name not in floating and tensor.ndim >= 2
        ]
        return found, (*skipped, *others)

    @functools.cached_property
    def _floating(self) -> tuple[str, ...]:
        return tuple(name for name, tensor in self.global_tensors.items() if jnp.issubdtype(tensor.dtype, np.floating))

    @functools.cached_property
    def _is_ordered(self) -> bool:
        """Whether the order of the tensors tells anything: its file kept it, or the names are not sorted by dtype."""
        if self.is_ordered:
            return True
        by_dtype: dict[np.dtype, list[str]] = {}
        for name in self._floating:
            by_dtype.setdefault(self.global_tensors[name].dtype, []).append(name)
        return any(names != sorted(names) for names in by_dtype.values())

    def _change(self, name: str) -> np.ndarray | None:
        """By how much a tensor changed; None where it did not come back."""
        if name not in self.client_tensors:
            return None
        sent, back = widen(self.global_tensors[name]), widen(self.client_tensors[name])
        with np.errstate(invalid="ignore", over="ignore"):
            return back if self.kind == "delta" else back - sent

    def _change_of(self, layer: DenseLayer) -> np.ndarray | None:
        """What came back of a kernel, (out, in), as a gradient or a change; None where it did not."""
        name = layer.kernel_name
        change = self.client_tensors.get(name) if self.kind == "gradient" else self._change(name)
        if change is None or change.shape != self.global_tensors[name].shape:
            return None
        return change if layer.layout == "out_in" else change.T

    def _moved(self, name: str) -> bool:
        change = self._change(name)
        return change is None or bool(np.any(change))

    def _tensors(self, layer: DenseLayer, tensors: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        kernel, bias = widen(tensors[layer.kernel_name]), widen(tensors[layer.bias_name])
        return (kernel if layer.layout == "out_in" else kernel.T), bias

    def _gradients(self, layer: DenseLayer) -> dict[str, np.ndarray]:
        names = (layer.kernel_name, layer.bias_name)
        if layer.kernel_name not in self.client_tensors:
            raise UpdateError(f"layer {layer.name} did not come back.{self._trained_instead(layer)}")
        if self.kind == "gradient":
            penalty = float(self.metadata.get("weight_decay", "0"))
            return {name: _without(penalty, self.global_tensors[name], self.client_tensors[name]) for name in names}
        below = () if layer in self.first_candidates else stands_before(self.layers, layer)
        if self.local_steps > 1 and any(
            self._moved(name) for one in below for name in (one.kernel_name, one.bias_name)
        ):
            raise UpdateError(
                f"the client took {self.local_steps} local steps, in which the inputs of {layer.name} changed, so its "
                f"update is no product of one batch; only the first layer, {self.layer().name}, can be inverted."
            )
        summed = functools.partial(gradient_sum, is_change=self.kind == "delta", lr=self._lr, decayed=self._decayed)
        return {name: summed(self.global_tensors[name], self.client_tensors[name]) for name in names}

    def _why_untrained(self, layer: DenseLayer) -> str | None:
        return why_untrained(layer, self.global_tensors, self.client_tensors, is_weights=self.kind == "weights")

    def _trained_instead(self, layer: DenseLayer) -> str:
        """What to say to who asked for a layer that was not trained."""
        if self._why_untrained(layer) is None or not self.trained:
            return ""
        return f" The first layer that was trained is {self.trained[0].name}."

    @property
    def _lr(self) -> float:
        """The learning rate; 1 where it is not known, which leaves a common factor open."""
        return float(self.metadata.get("lr", "1"))

    @property
    def _decayed(self) -> float:
        if "weight_decay" not in self.metadata:
            return 0.0
        if "lr" not in self.metadata:
            raise UpdateError("weight_decay is given but lr is not; weight decay can be removed with both.")
        return decayed_share(self._lr, float(self.metadata["weight_decay"]), self.local_steps)


def _without(penalty: float, weight: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The gradient without that of an L2 penalty of the weights."""
    return gradient if not penalty else gradient - gradient.dtype.type(penalty) * weight.astype(gradient.dtype)


def load_update(path: str | os.PathLike[str], *, layout: str | None = None) -> Update:
    """Reads an update bundle.

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
        _check_metadata(metadata)
        client_tensors = _under(_PREFIX[metadata["kind"]], tensors)
        order = parse_order(metadata.pop(ORDER_KEY, "[]"))
        in_order = {name: global_tensors[name] for name in order if name in global_tensors} | global_tensors
        return Update(in_order, client_tensors, metadata, layout, is_ordered=bool(order))
    except tensor_files.TensorFileError as error:
        raise UpdateError(str(error)) from error
    except UpdateError as error:
        raise UpdateError(f"{os.path.basename(path)}: {error}") from error


def save_update(update: Update, path: str | os.PathLike[str]) -> None:
    """Writes an update bundle to ``.safetensors`` or ``.npz``, atomically.

    Raises:
        UpdateError: another extension, or the folder cannot be written.
    """
    prefix = _PREFIX[update.kind]
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


def _check_metadata(metadata: Mapping[str, str]) -> None:
    problem = metadata_problem(metadata)
    if problem is not None:
        raise UpdateError(problem)
