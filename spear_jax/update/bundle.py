"""An update: what a server holds of one client's round, and the layer observations that follow from it.

Its file is `bundle_file`'s. Nothing private is in it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from spear_jax import tensor_files
from spear_jax.errors import UpdateError
from spear_jax.normalization import Normalization
from spear_jax.observation import LayerObservation
from spear_jax.update.before import takes_outputs, tensors_before
from spear_jax.update.dense_layers import DenseLayer, find_layers, floating_shapes
from spear_jax.update.layer_order import first_candidates, is_chain, stands_before, tells_order
from spear_jax.update.metadata import PREFIX, parse_shape, require_valid
from spear_jax.update.named_activation import of_slopes
from spear_jax.update.returned import Returned
from spear_jax.update.trained import check_counterparts
from spear_jax.update.weight_change import rounding_error, widen


@dataclasses.dataclass(frozen=True, eq=False)
class Update:
    """One client's contribution to one round, as the server sees it.

    Attributes:
        global_tensors: the model the server sent, by tensor name.
        client_tensors: what came back, by the same names: gradients, weights, or weight changes, as ``kind`` says.
        metadata: strings: ``kind`` (gradient, weights or delta), and where known ``lr``, ``local_steps``,
            ``weight_decay`` (lambda of the term ``lambda w`` in every gradient), ``num_examples``, ``framework``,
            ``layout``, ``normalization`` (JSON), ``image_shape`` (JSON), ``activation``.
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
        require_valid(self.metadata)
        if not self.global_tensors or not self.client_tensors:
            side = "global/" if not self.global_tensors else PREFIX[self.kind]
            raise UpdateError(f"the update has no tensors named {side}<name>; kind={self.kind} needs them.")
        check_counterparts(self.layers, self.global_tensors, self.client_tensors, PREFIX[self.kind])

    @property
    def kind(self) -> str:
        """``"gradient"``, ``"weights"`` or ``"delta"``."""
        return self.sides.kind

    @property
    def local_steps(self) -> int:
        """SGD steps that the client took; 1 for a gradient and where the bundle does not say."""
        return self.sides.local_steps

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
        seen = {layer: change for layer in self._found[0] if (change := self.sides.of_kernel(layer)) is not None}
        behind = {layer for layer in seen for other in seen if takes_outputs(seen[layer], seen[other])}
        return tuple(layer for layer in candidates if layer not in behind) or candidates

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """``(name, reason)`` for each tensor of two or more dimensions that is not part of a dense layer."""
        return self._found[1]

    @property
    def activation(self) -> str | None:
        """What stands behind the first layer that was trained, as `activation_behind` has it."""
        return self.activation_behind()

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
        return tensor_files.content_hash((self.global_tensors, self.client_tensors), self.metadata)

    @functools.cached_property
    def trained(self) -> tuple[DenseLayer, ...]:
        """The dense layers that came back with a change, first to last: what is frozen is none of them."""
        return tuple(layer for layer in self.layers if self.sides.why_untrained(layer) is None)

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
        self._require_still_inputs(layer)
        return self._observed(layer)

    def _observed(self, layer: DenseLayer) -> LayerObservation:
        """One layer as the server sees it, whether its inputs moved or not."""
        if layer.kernel_name not in self.client_tensors:
            raise UpdateError(f"layer {layer.name} did not come back.{self._trained_instead(layer)}")
        weight, bias = self._sent(layer)
        weight_grad, bias_grad = _read(layer, self.sides.gradient(layer.kernel_name), self.sides.of_bias(layer))
        drift = self.sides.lr if self.local_steps > 1 else 0.0
        try:
            # Damaged numbers are reported by the check in a sentence, not by NumPy in a warning.
            with np.errstate(invalid="ignore", over="ignore"):
                return LayerObservation(
                    weight=weight, bias=bias, weight_grad=weight_grad, bias_grad=bias_grad, drift=drift,
                    rounding=0.0 if self.kind == "gradient" else rounding_error(weight, self.sides.lr),
                    input_drift=self.sides.moved_share(self.moved_before(layer.name)),
                )  # fmt: skip
        except ValueError as error:
            raise UpdateError(f"layer {layer.name}: {error}{self._trained_instead(layer)}") from error

    def activation_behind(self, layer_name: str | None = None) -> str | None:
        """What stands between a layer and the next one, as the metadata say of all, else as the model's PReLUs say.

        Args:
            layer_name: as for `observation`.

        Raises:
            UpdateError: no such layer.
        """
        if "activation" in self.metadata or not self.layers:
            return self.metadata.get("activation")
        return of_slopes(self.layer(layer_name), self.layers, self.global_tensors, is_told=self._is_ordered)

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
        before = tensors_before(
            self._shapes, self.layers, layer, candidates=self.first_candidates, is_told=self._is_ordered
        )
        return tuple(name for name in before if self.sides.moved(name))

    def network(self, layer_name: str | None = None) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """The dense layers above one layer, taken as joined by ReLU.

        Args:
            layer_name: as for `observation`.

        Returns:
            ``[(W (out, in), bias (out,)), ...]`` in order, zeros for a layer that adds none; None where nothing lies
            above, where the shapes do not chain, or where a 2-D tensor could not be read as a dense layer and may
            belong in between.

        Raises:
            UpdateError: no such layer.
        """
        above = [self._sent(layer) for layer in self._joined(layer_name)]
        return [
            (weight, np.zeros(len(weight), weight.dtype) if bias is None else bias) for weight, bias in above
        ] or None

    def next_weight_grad(self, layer_name: str | None = None) -> np.ndarray | None:
        """Kernel gradient (out, in) of the dense layer above one layer, where `network` joins them, of one step.

        Raises:
            UpdateError: no such layer.
        """
        above = self.layers_above(layer_name)
        return np.asarray(above[0].weight_grad) if above and not above[0].drift else None

    def layers_above(self, layer_name: str | None = None) -> list[LayerObservation]:
        """The dense layers above one layer as the server sees them, lowest first, up to the first that did not return.

        After several local steps their inputs moved, and their gradients are sums over what these were.

        Args:
            layer_name: as for `observation`.

        Returns:
            none where `network` does not join them.

        Raises:
            UpdateError: no such layer.
        """
        found = []
        for layer in self._joined(layer_name):
            try:
                found.append(self._observed(layer))
            except UpdateError:  # frozen, or damaged: the layers below it can do without
                break
        return found

    def _joined(self, layer_name: str | None) -> tuple[DenseLayer, ...]:
        index = self.layers.index(self.layer(layer_name))
        matrices_left_out = any(self.global_tensors[name].ndim == 2 for name, _ in self.skipped)
        is_joined = is_chain(self.layers[index:]) and not matrices_left_out and self.layers[-1].out_features >= 2
        return self.layers[index + 1 :] if is_joined else ()

    @functools.cached_property
    def sides(self) -> Returned:
        """What was sent and what came back."""
        return Returned(self.global_tensors, self.client_tensors, self.metadata)

    def returning(self, came_back: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Update:
        """The same round with something else returned."""
        return dataclasses.replace(self, client_tensors=came_back, metadata=metadata)

    @functools.cached_property
    def _found(self) -> tuple[tuple[DenseLayer, ...], tuple[tuple[str, str], ...]]:
        layout, framework = self.layout or self.metadata.get("layout"), self.metadata.get("framework")
        found, skipped = find_layers(self._shapes, layout=layout, framework=framework, is_told=self._is_ordered)
        others = [
            (name, f"its dtype is {tensor.dtype}, not floating point.")
            for name, tensor in self.global_tensors.items()
            if name not in self._shapes and tensor.ndim >= 2
        ]
        return found, (*skipped, *others)

    @functools.cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return floating_shapes(self.global_tensors)

    @functools.cached_property
    def _is_ordered(self) -> bool:
        return self.is_ordered or tells_order({name: self.global_tensors[name].dtype for name in self._shapes})

    def _sent(self, layer: DenseLayer) -> tuple[np.ndarray, np.ndarray | None]:
        bias = None if layer.bias_name is None else self.global_tensors[layer.bias_name]
        return _read(layer, self.global_tensors[layer.kernel_name], bias)

    def _require_still_inputs(self, layer: DenseLayer) -> None:
        if self.local_steps > 1 and self._inputs_moved(layer):
            raise UpdateError(
                f"the client took {self.local_steps} local steps, in which the inputs of {layer.name} changed, so its "
                f"update is no product of one batch; only the first layer, {self.layer().name}, can be inverted."
            )

    def _inputs_moved(self, layer: DenseLayer) -> bool:
        """Whether a dense layer before this one may have changed over the steps."""
        below = () if layer in self.first_candidates else stands_before(self.layers, layer)
        return any(self.sides.moved(name) for one in below for name in one.tensor_names)

    def _trained_instead(self, layer: DenseLayer) -> str:
        """What to say to who asked for a layer that was not trained."""
        if self.sides.why_untrained(layer) is None or not self.trained:
            return ""
        return f" The first layer that was trained is {self.trained[0].name}."


def _read(layer: DenseLayer, kernel: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Kernel (out, in) and bias, half precision as float32."""
    kernel = widen(kernel)
    return (kernel if layer.layout == "out_in" else kernel.T), None if bias is None else widen(bias)
