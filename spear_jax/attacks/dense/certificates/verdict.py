"""What is said of each sample of a reconstruction, certificate after certificate."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spear_jax.attacks.dense.outcome import Agreement


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
    """

    directions: Float[np.ndarray, "k r"]
    agreement: Agreement | None
    dual: Float[np.ndarray, "r r"]
    exact: Bool[np.ndarray, " r"]
    approximate: Bool[np.ndarray, " r"]
    matching: Float[np.ndarray, " r"]
    error: Float[np.ndarray, " r"]
    labels: Int[np.ndarray, " r"] | None

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
    )
