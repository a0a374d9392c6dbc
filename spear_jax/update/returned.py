"""What came back of a model that was sent, gradients, weights or their change, as changes and as gradients alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from spear_jax.errors import UpdateError
from spear_jax.update.before import moved_share
from spear_jax.update.dense_layers import DenseLayer
from spear_jax.update.trained import why_untrained
from spear_jax.update.weight_change import decayed_share, gradient_sum, widen

Tensors = Mapping[str, np.ndarray]


class Returned(NamedTuple):
    """Both sides of an update and what is known of the client's steps.

    Attributes:
        sent: the model's tensors by name.
        came_back: gradients, weights or weight changes by the same names, as the ``kind`` of the metadata says.
        metadata: of the update, checked.
    """

    sent: Tensors
    came_back: Tensors
    metadata: Mapping[str, str]

    @property
    def kind(self) -> str:
        """``"gradient"``, ``"weights"`` or ``"delta"``."""
        return self.metadata["kind"]

    @property
    def local_steps(self) -> int:
        """SGD steps that the client took; 1 for a gradient and where the metadata do not say."""
        return 1 if self.kind == "gradient" else int(self.metadata.get("local_steps", "1"))

    @property
    def lr(self) -> float:
        """The learning rate; 1 where it is not known, which leaves a common factor open."""
        return float(self.metadata.get("lr", "1"))

    @property
    def decayed(self) -> float:
        """Share that weight decay took of the weights.

        Raises:
            UpdateError: there was decay at a learning rate that is not known.
        """
        if "weight_decay" not in self.metadata:
            return 0.0
        if "lr" not in self.metadata:
            raise UpdateError("weight_decay is given but lr is not; weight decay can be removed with both.")
        return decayed_share(self.lr, float(self.metadata["weight_decay"]), self.local_steps)

    def change(self, name: str) -> np.ndarray | None:
        """By how much a tensor changed; None where it did not come back."""
        if name not in self.came_back:
            return None
        sent, back = widen(self.sent[name]), widen(self.came_back[name])
        with np.errstate(invalid="ignore", over="ignore"):
            return back if self.kind == "delta" else back - sent

    def moved(self, name: str) -> bool:
        """Whether a tensor may have changed: what did not come back may have."""
        change = self.change(name)
        return change is None or bool(np.any(change))

    def moved_share(self, names: Sequence[str]) -> float:
        """The largest change among tensors relative to their norms, see `before.moved_share`."""
        return moved_share([self.sent[name] for name in names], [self.change(name) for name in names])

    def of_kernel(self, layer: DenseLayer) -> np.ndarray | None:
        """What came back of a kernel, (out, in), as a gradient or a change; None where it did not."""
        name = layer.kernel_name
        change = self.came_back.get(name) if self.kind == "gradient" else self.change(name)
        if change is None or change.shape != self.sent[name].shape:
            return None
        return change if layer.layout == "out_in" else change.T

    def why_untrained(self, layer: DenseLayer) -> str | None:
        """What became of a layer without a gradient, or None for one that has one."""
        return why_untrained(layer, self.sent, self.came_back, is_weights=self.kind == "weights")

    def of_bias(self, layer: DenseLayer) -> np.ndarray | None:
        """`gradient` of a layer's bias; None where there is none or it was withheld, gone or zero everywhere."""
        if layer.bias_name is None or layer.bias_name not in self.came_back:
            return None
        with np.errstate(invalid="ignore", over="ignore"):
            gradient = self.gradient(layer.bias_name)
            return gradient if np.any(gradient) else None

    def gradients(self) -> dict[str, np.ndarray]:
        """`gradient` of all that came back; what is zero was not trained, and is none of them.

        Raises:
            UpdateError: as for `decayed`.
        """
        with np.errstate(invalid="ignore", over="ignore"):  # damaged numbers are reported by the observation
            found = {name: self.gradient(name) for name in self.came_back}
        return {name: gradient for name, gradient in found.items() if np.any(gradient)}

    def gradient(self, name: str) -> np.ndarray:
        """Sum of the gradients of a tensor that came back, without that of a penalty or of weight decay.

        Raises:
            UpdateError: as for `decayed`.
        """
        sent, back = self.sent[name], self.came_back[name]
        if self.kind != "gradient":
            return gradient_sum(sent, back, is_change=self.kind == "delta", lr=self.lr, decayed=self.decayed)
        penalty = float(self.metadata.get("weight_decay", "0"))
        return back - back.dtype.type(penalty) * sent.astype(back.dtype) if penalty else back
