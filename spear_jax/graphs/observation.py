"""What the server sees of a graph network's update: the model that it sent, what came back, what features may be."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from spear_jax.errors import SpearError
from spear_jax.graphs.architecture import Architecture, check_params
from spear_jax.graphs.features import Features
from spear_jax.observation import require_gradients


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class GraphObservation:
    """A graph network, gradients of its tensors, and what is public of the nodes' features.

    The gradients are needed only up to one common factor, so sums, means and multiples all serve.

    Attributes:
        architecture: of the network.
        features: the rows that nodes may have.
        params: the model that the client started from, by canonical names (`spear_jax.graphs.architecture.shapes`).
        gradients: by the same names, those that came back: each of its tensor's shape, floating.
        rounding: by the same names, root mean square of the rounding error of an entry, beyond that of the gradient's
            own dtype: weights round in units of their own size, which the learning rate magnifies. Absent is 0.

    Raises:
        SpearError: nothing came back, names or shapes that disagree, NaN or infinity, or features of another length
            than the first convolution takes.
    """

    architecture: Architecture
    features: Features
    params: Mapping[str, np.ndarray]
    gradients: Mapping[str, np.ndarray]
    rounding: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def dtype(self) -> np.dtype:
        """The dtype that the model computes in."""
        return np.result_type(*(self.params[name].dtype for name in self.gradients))

    def __post_init__(self) -> None:
        if not self.gradients:
            raise SpearError("no tensor of the graph network came back; expected gradients of its tensors.")
        check_params(self.architecture, self.params)
        require_gradients(self.params, self.gradients)
        if self.features.columns != self.architecture.columns:
            raise SpearError(
                f"the features describe {self.features.columns} columns but the first convolution takes "
                f"{self.architecture.columns}; give the features that the model was made for."
            )
