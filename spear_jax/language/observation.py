"""What the server sees of a language model's update: the model that it sent and what came back, by tensor name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from spear_jax.errors import SpearError
from spear_jax.language.architecture import Architecture
from spear_jax.observation import require_gradients


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TextObservation:
    """A decoder, and gradients of some or all of its tensors or of adapters beside its linear layers.

    The gradients are needed only up to one common factor, so sums, means and multiples all serve.

    Attributes:
        architecture: of the model.
        params: the model that the client started from, tensors by the checkpoint's names; adapters beside a layer
            ``name`` as ``name.lora_A.weight`` (r, in), ``name.lora_B.weight`` (out, r) and ``name.lora_scale`` ().
        gradients: by the same names, those that came back: each of its tensor's shape, floating.
        rounding: by the same names, root mean square of the rounding error of an entry, beyond that of the gradient's
            own dtype: weights round in units of their own size, which the learning rate magnifies. Absent is 0.
        is_half: whether the gradients were rounded to half precision before they were widened: ``"bfloat16"`` or
            ``"float16"``, None for those that were not.

    Raises:
        SpearError: nothing came back, a name that the model does not have, shapes that disagree, NaN or infinity.
    """

    architecture: Architecture
    params: Mapping[str, np.ndarray]
    gradients: Mapping[str, np.ndarray]
    rounding: Mapping[str, float] = dataclasses.field(default_factory=dict)
    is_half: str | None = None

    @property
    def dtype(self) -> np.dtype:
        """The dtype that the model computes in."""
        return np.result_type(*(self.params[name].dtype for name in self.gradients))

    def __post_init__(self) -> None:
        if not self.gradients:
            raise SpearError("no tensor of the language model came back; expected gradients of some of its tensors.")
        require_gradients(self.params, self.gradients)
        for name, gradient in self.gradients.items():
            for tensor in (gradient, self.params[name]):
                if np.asarray(tensor).dtype not in (np.float32, np.float64):
                    raise SpearError(
                        f"{name} is {tensor.dtype}; expected float32 or float64: widen it, and say of gradients that "
                        "were rounded to half precision is_half='bfloat16' or 'float16'."
                    )
