"""What the stages hand to one another, in pipeline order; the first, `LayerObservation`, has its own module.

Shapes use the field's letters: the layer maps n inputs to m outputs, the batch holds b samples and r is the rank
of the weight gradient, the batch size as the server sees it. Inputs are batch first, (b, n); the SPEAR paper writes
them as columns. Arrays are NumPy or JAX: a float64 gradient must survive a process without x64.
"""

from __future__ import annotations

from typing import Any, TypeVar, dataclass_transform

import chex
import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from spear_jax.status import Reason, Scale, Status

Array = jax.Array | np.ndarray
T = TypeVar("T")

# No sample is certified whose expected error, relative to its norm, is larger: what a certificate calls exact.
MAX_ERROR = 1e-3
# No sample counts as approximate whose expected error is larger.
MAX_APPROXIMATE_ERROR = 0.1
# The true error is up to this many times the expected one (1.93 at most of 384 samples of weights in float32).
ERROR_MARGIN = 2.0
# Of a sample that no certificate gives a label.
NO_LABEL = -1


@dataclass_transform(kw_only_default=True, frozen_default=True)
def pytree_dataclass(cls: type[T]) -> type[T]:
    """A frozen `chex.dataclass`, which JAX sees as a pytree, in a form that type checkers see through."""
    return chex.dataclass(cls, frozen=True)  # pyright: ignore[reportReturnType]


@pytree_dataclass
class Factorization:
    """``weight_grad = left @ right`` up to noise, the rows of ``left`` being what the directions are sought in.

    Attributes:
        left: (m, r) float64 with orthonormal columns.
        right: (r, n) float64, equal to ``left^T weight_grad``.
        singular_values: (k,) float64 in falling order, k >= r: the ones computed, beyond the rank where there are any.
        rank: r, number of singular values above the noise.
        noise_floor: estimated largest singular value of the noise in ``weight_grad``, in its units.
        noise_std: root mean square of one entry of that noise: what is left of the gradient beyond the rank.
        gap: singular value r divided by r + 1 (or by the noise floor where that is larger).
        live_mask: (m,) rows of ``weight_grad`` above the noise; the others are zero for every sample.
        is_full: whether the rank equals min(m, n), so that nothing is hidden in the column space.
    """

    left: Float[Array, "m r"]
    right: Float[Array, "r n"]
    singular_values: Float[Array, " k"]
    rank: int
    noise_floor: float
    noise_std: float
    gap: float
    live_mask: Bool[Array, " m"]
    is_full: bool


@pytree_dataclass
class CandidatePool:
    """Verified directions, sparsest first, duplicates merged up to sign; unused places hold ``EMPTY``.

    Attributes:
        directions: (c, r) float64 unit vectors in the coordinates of ``Factorization.left``.
        zero_count: (c,) zeros of ``left @ direction`` on live rows, ``EMPTY`` in an unused place.
        hits: (c,) how often the direction was drawn.
    """

    EMPTY = -1

    directions: Float[np.ndarray, "c r"]
    zero_count: Int[np.ndarray, " c"]
    hits: Int[np.ndarray, " c"]

    @property
    def size(self) -> int:
        """Number of places in use."""
        return int(np.sum(self.zero_count != CandidatePool.EMPTY))


@pytree_dataclass
class Certificate:
    """What can be said of a reconstruction without the truth, sample by sample.

    Attributes:
        exact: (r,) whether the sample is certified: every live entry of every column agrees with ReLU, or the sample
            is confirmed on its own through the layers above; its expected error is below `MAX_ERROR`.
        approximate: (r,) whether every decided entry agrees as for ``exact``, but the noise leaves larger errors, of up
            to `MAX_APPROXIMATE_ERROR`.
        error: (r,) expected error of the input relative to its norm, from the noise of the gradient, hardly ever
            exceeded twice; it holds where the sample is exact or approximate. Infinite where nothing bounds it.
        matching: (r,) in [0, 1], share of live entries where ``Z > 0`` agrees with ``D != 0``.
        matching_score: the mean of ``matching``; the paper's lambda (Sec. 4.2), here over live rows.
        weight_residual: ``|weight_grad - D X^T| / |weight_grad|``.
        bias_residual: ``|bias_grad - D 1| / |bias_grad|``.
        labels: (r,) labels found by the network certificate, `NO_LABEL` where several fit or none; None without one.
        possible_labels: (r, c) labels that fit, or None.
        mean_of: (r,) samples of one label that each input is the weighted mean of: 1 for a single sample, 0 where that
            is not known, as without the layers above. Equal inputs count too.
        scale: what the scale of the inputs rests on.
        factor: by which all inputs were multiplied because the layers above see it; 1 where they agree with the bias
            gradient, NaN where each sample has its own.
        factor_range: common factors of the inputs that the patterns alone would allow, where nothing else confirms the
            scale; (1, 1) where it is confirmed.
        reason: what explains that the directions contradict the model or its loss, None without.
    """

    exact: Bool[np.ndarray, " r"]
    approximate: Bool[np.ndarray, " r"]
    error: Float[np.ndarray, " r"]
    matching: Float[np.ndarray, " r"]
    matching_score: float
    weight_residual: float
    bias_residual: float
    labels: Int[np.ndarray, " r"] | None
    possible_labels: Bool[np.ndarray, "r c"] | None
    mean_of: Int[np.ndarray, " r"]
    scale: Scale
    factor: float
    factor_range: tuple[float, float]
    reason: Reason | None


@pytree_dataclass
class SearchStats:
    """What a search did and what it cost.

    Attributes:
        method: the proposer that ran.
        reason: why that one, in a sentence.
        sampler: how candidates are drawn, ``"walk"`` or ``"flat"``.
        efficiency: independent random draws that one candidate is worth: 1 for the flat sampler, about 0.06 for a walk.
        candidates: submatrices tried.
        rounds: whole rounds run.
        expected_candidates: expected number of candidates that the search needs, by the hypergeometric model and the
            sampler's efficiency; infinite where a column is unreachable.
        expected_remaining: expected number of candidates still needed, from the zero counts seen so far.
        hits: candidates that passed the float32 filter.
        hits_dropped: hits that did not fit the round's buffer.
        false_hits: hits that were no sparse directions in float64.
        zero_threshold: zeros that a direction must have.
        live_rows: rows of the gradient that some sample reached; zeros are counted on these.
        devices: devices the rounds ran on.
        device_kind: their kind.
        float64: what solved in float64, ``"jax"`` or ``"numpy"``.
        activations: between the layer and the next one, those that fit what was found, the likeliest first.
        seconds: wall-clock seconds by stage: ``factorize``, ``compile``, ``search``, ``solve``.
    """

    method: str
    reason: str
    sampler: str
    efficiency: float
    candidates: int
    rounds: int
    expected_candidates: float
    expected_remaining: float
    hits: int
    hits_dropped: int
    false_hits: int
    zero_threshold: int
    live_rows: int
    devices: int
    device_kind: str
    float64: str
    activations: tuple[str, ...]
    seconds: dict[str, Any]


@pytree_dataclass
class Result:
    """A reconstruction, its certificate and how it came about.

    Attributes:
        inputs: (r, n) the batch in arbitrary order, float64 where x64 is on, else float32. A row is NaN where the
            sample was not reconstructed.
        batch_size: the rank r of the gradient, which is the batch size as the server sees it.
        certificate: what can be said of ``inputs`` without the truth.
        directions: (directions_found, r) float64 unit directions, one a row, in the order of ``inputs``.
        directions_found: how many of the r directions are known.
        noise_floor: largest singular value that noise alone would have in the weight gradient, in its units.
        gap: smallest singular value that counts divided by the largest that does not (or by the noise floor).
        status: how it ended; ``status.value`` is a sentence.
        stats: what the search did and cost.
    """

    inputs: Float[Array, "r n"]
    batch_size: int
    certificate: Certificate
    directions: Float[np.ndarray, "k r"]
    directions_found: int
    noise_floor: float
    gap: float
    status: Status
    stats: SearchStats
