"""Features by independent component analysis: what the Cocktail Party Attack does where SPEAR is exact.

The weight gradient's row space mixes the features of the batch. CPA (Kariyappa et al., ICML 2023) takes them for
independent and unmixes by maximising non-Gaussianity; it needs no ReLU above and gives neither order, scale nor proof.
This is the bare idea as symmetric FastICA (Hyvarinen, 1999) with the third moment as contrast, which suits features
that are not negative; CPA adds decorrelation, total variation and l1 terms whose weights it tunes on a batch.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.linalg import polar

MAX_STEPS, CONVERGED = 300, 1e-9


def unmix(mixtures: Float[np.ndarray, "r n"], rng: np.random.Generator) -> Float[np.ndarray, "r n"]:
    """Estimated sources behind r mixtures, in arbitrary order and scale, each with a positive sum.

    Args:
        mixtures: linearly independent rows.
        rng: draws the start.
    """
    rank, length = mixtures.shape
    left, spectrum, white = np.linalg.svd(mixtures - mixtures.mean(axis=1, keepdims=True), full_matrices=False)
    white = white * np.sqrt(length)
    rotation = polar(rng.standard_normal((rank, rank)))[0]
    for _ in range(MAX_STEPS):
        sources = rotation @ white
        # The Newton step of E[y^3]; its second term, E[2 y] times the rotation, is zero for centred sources.
        after = polar(sources**2 @ white.T)[0]
        turned = 1 - np.abs(np.sum(after * rotation, axis=1)).min()
        rotation = after
        if turned < CONVERGED:
            break
    # The centred rows gave the rotation; applied to the rows as they are, it brings the means back.
    sources = rotation @ (left / spectrum).T @ mixtures
    return sources * np.where(sources.sum(axis=1, keepdims=True) < 0, -1, 1)
