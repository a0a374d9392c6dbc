"""What is said of each sample of a reconstruction, certificate after certificate."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spear_jax.attacks.dense.outcome import Agreement
from spear_jax.status import Reason, Scale


class Verdict(NamedTuple):
    """What the certificates so far say; each takes it and may add to it or strike from it.

    Attributes:
        directions: (k, r) unit directions, k <= r, mended by the model where it could.
        agreement: of r directions, None while some are missing.
        dual: (r, r) p_i of the samples that were certified alone, so that ``x_i = p_i @ right``; NaN in other rows.
        exact: (r,) whether the sample is certified.
        approximate: (r,) whether it is confirmed with a larger error.
        matching: (r,) share of live entries that agree.
        error: (r,) expected error of the input relative to its norm; infinite where nothing bounds it.
        labels: (r,) labels by the network certificate, `NO_LABEL` without one; None where it was not asked.
        possible_labels: (r, c) labels that fit; None where it was not asked.
        mean_of: (r,) samples of one label that each is the weighted mean of, 0 where that is not known.
        scale: what the scale of the inputs rests on.
        factor: by which all inputs were multiplied because the layers above see it, None where they agree with the
            bias gradient, NaN where each has its own.
        factor_error: its expected error, relative.
        struck: (r,) samples that the network's shares or its refusal spoke against, None where it was not asked.
        factor_range: common factors that the patterns allow where nothing confirms the scale.
        is_contradicted: whether the directions are found but the model refuses what they say.
        reason: the one reason that explains a contradiction, None without.
    """

    directions: Float[np.ndarray, "k r"]
    agreement: Agreement | None
    dual: Float[np.ndarray, "r r"]
    exact: Bool[np.ndarray, " r"]
    approximate: Bool[np.ndarray, " r"]
    matching: Float[np.ndarray, " r"]
    error: Float[np.ndarray, " r"]
    labels: Int[np.ndarray, " r"] | None
    possible_labels: Bool[np.ndarray, "r c"] | None
    mean_of: Int[np.ndarray, " r"]
    scale: Scale = Scale.BIAS_GRADIENT
    factor: float | None = None
    factor_error: float = 0.0
    factor_range: tuple[float, float] = (1.0, 1.0)
    is_contradicted: bool = False
    struck: Bool[np.ndarray, " r"] | None = None
    reason: Reason | None = None

    @property
    def common_factor(self) -> float:
        """What the bias gradient is to be divided by."""
        return 1.0 if self.factor is None or np.isnan(self.factor) else self.factor

    @property
    def is_whole(self) -> bool:
        """Whether every sample is exact or approximate."""
        return bool((self.exact | self.approximate).all())


def no_verdict(directions: Float[np.ndarray, "k r"]) -> Verdict:
    """A verdict in which nothing is exact and every error is infinite."""
    rank = directions.shape[1]
    return Verdict(
        directions=directions,
        agreement=None,
        dual=np.full((rank, rank), np.nan),
        exact=np.zeros(rank, bool),
        approximate=np.zeros(rank, bool),
        matching=np.zeros(rank),
        error=np.full(rank, np.inf),
        labels=None,
        possible_labels=None,
        mean_of=np.zeros(rank, int),
    )
