"""The layer in the coordinates of its gradient's factorisation: all that any stage of the attack sees.

With ``G = left @ right`` and ``D = left @ Q`` the inputs are ``X^T = Q^-1 right`` and the pre-activations
``response @ Q^-T + bias``. The server also sees the mean input, since ``G^T g / g^T g`` with the bias gradient g is a
weighted mean of the batch: how often each neuron fires follows from it.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from spear_jax.attacks.dense.above import Above
from spear_jax.factorization import column_blocks
from spear_jax.numerics import to_float64
from spear_jax.observation import LayerObservation
from spear_jax.stages import stage
from spear_jax.types import Factorization


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What the stages share, made once by `pose`, and once more for what is left without known samples.

    Attributes:
        factorization: of the weight gradient.
        response: (m, r) float64, ``weight @ right^T``.
        bias: (m,) float64.
        bias_grad: (m,) float64; zero where none came back.
        weight_norms: (m,) float64 norms of the rows of ``weight``.
        client_eps: unit of the gradient's dtype.
        drift: of the observation.
        input_drift: of the observation.
        above: the layers above, None where nothing is known of them.
    """

    factorization: Factorization
    response: Float[np.ndarray, "m r"]
    bias: Float[np.ndarray, " m"]
    bias_grad: Float[np.ndarray, " m"]
    weight_norms: Float[np.ndarray, " m"]
    client_eps: float
    drift: float
    input_drift: float = 0.0
    above: Above | None = None

    @property
    def rank(self) -> int:
        """r, the number of samples that the gradient shows."""
        return self.factorization.rank

    @cached_property
    def left(self) -> Float[np.ndarray, "m r"]:
        """Orthonormal basis of the column space, on the host."""
        return np.asarray(self.factorization.left)

    @cached_property
    def spectrum(self) -> Float[np.ndarray, " r"]:
        """Singular values of the gradient, those of the r directions."""
        return np.asarray(self.factorization.singular_values[: self.rank])

    @property
    def noise_in_roundings(self) -> float:
        """Norm of the gradient's noise in units of the client's rounding of the gradient's norm."""
        entries = len(self.left) * self.factorization.right.shape[1]
        noise = self.factorization.noise_std * float(np.sqrt(entries))
        return noise / (self.client_eps * float(np.linalg.norm(self.spectrum)))

    @cached_property
    def live_mask(self) -> Bool[np.ndarray, " m"]:
        """Rows that some sample reached."""
        return np.asarray(self.factorization.live_mask)

    @cached_property
    def live_rows(self) -> Int[np.ndarray, " l"]:
        """Their indices."""
        return np.flatnonzero(self.live_mask)

    @cached_property
    def _along_mean(self) -> Float[np.ndarray, " r"]:
        return self.spectrum * (self.left.T @ self.bias_grad)

    @cached_property
    def offset(self) -> Float[np.ndarray, " m"]:
        """Pre-activation of the mean input: neurons of low offset fire for few samples each."""
        size = self.bias_grad @ self.bias_grad or 1.0
        return self.response @ (self._along_mean / size / self.spectrum) + self.bias

    @cached_property
    def mean_share(self) -> float:
        """Share of the gradient's energy along the mean input: 1 / b or so for centred inputs, near 1 for skewed."""
        size = self.bias_grad @ self.bias_grad or 1.0
        return float(self._along_mean @ self._along_mean / (size * (self.spectrum @ self.spectrum)))

    @property
    def has_bias_grad(self) -> bool:
        """Whether the bias gradient came back: without it zeros give directions, not samples."""
        return bool(self.bias_grad.any())

    def without_bias_grad(self) -> Problem:
        """The same, as if no bias gradient had come back."""
        return dataclasses.replace(self, bias_grad=np.zeros_like(self.bias_grad))

    @property
    def is_mended(self) -> bool:
        """Whether the model can repair mixed directions, which otherwise are looked for in a skewed batch."""
        return self.above is not None and self.above.layers is not None


@stage("pose")
def pose(observation: LayerObservation, factorization: Factorization, above: Above | None = None) -> Problem:
    """The problem that an observation poses: the known weights projected on the row space, in column blocks.

    Args:
        observation: of one layer.
        factorization: of its weight gradient.
        above: the layers above, where anything is known of them.
    """
    right = to_float64(factorization.right)
    both = lambda columns, block: (block @ right[:, columns].T, (block**2).sum(axis=1))
    blocks, squares = zip(*column_blocks(observation.weight, both), strict=True)
    vector = lambda array: np.zeros(len(squares[0])) if array is None else np.asarray(array, np.float64)
    return Problem(
        factorization=factorization,
        response=np.asarray(sum(blocks)),
        bias=vector(observation.bias),
        bias_grad=vector(observation.bias_grad),
        weight_norms=np.sqrt(np.asarray(sum(squares))),
        client_eps=float(jnp.finfo(observation.weight_grad.dtype).eps),
        drift=float(observation.drift),
        input_drift=float(observation.input_drift),
        above=above,
    )
