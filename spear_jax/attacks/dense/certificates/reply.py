"""What the layers above say of samples that are given by dual vectors: confirmed or refused, label, share of the loss.

A sample's gradient ``D(y) = J^T (softmax - e_y)`` (`own_gradient`) must lie in the column space of the weight gradient,
which no wrong input or label achieves. Where it does, the sample's column is a multiple of it: its share of the loss.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spear_jax import numerics
from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.certificates.own_gradient import own_gradients
from spear_jax.attacks.dense.problem import Problem


class Reply(NamedTuple):
    """What the network says of each sample.

    Attributes:
        confirmed: (k,) whether the sample's gradient lies in the column space of the weight gradient.
        is_refused: (k,) whether it plainly does not, with every neuron above decided: one that is open may have been
            off for the client and fire here.
        labels: (k,) the label for which it comes closest.
        fits: (k, c) the labels for which it does, where it is confirmed: several where their gradients lie on one line,
            as with two classes.
        is_alone: (k,) whether every other label is far off, or on one line with it.
        ratios: (k, c) the sample's column over ``D(y)``: its share of the loss, where the label fits.
        directions: (k, r) unit rows, the direction that the network gives each sample.
        outside: (m, r) the part of ``D(y) / |D(y)|`` outside the column space.
        noise: (k,) norm of that part which noise explains.
    """

    confirmed: Bool[np.ndarray, " k"]
    is_refused: Bool[np.ndarray, " k"]
    labels: Int[np.ndarray, " k"]
    fits: Bool[np.ndarray, "k c"]
    is_alone: Bool[np.ndarray, " k"]
    ratios: Float[np.ndarray, "k c"]
    directions: Float[np.ndarray, "k r"]
    outside: Float[np.ndarray, "m k"]
    noise: Float[np.ndarray, " k"]

    @property
    def distance(self) -> Float[np.ndarray, " k"]:
        """Distance of each sample's gradient, of unit norm, from the column space."""
        return np.linalg.norm(self.outside, axis=0)


def judge(problem: Problem, dual: Float[np.ndarray, "k r"], labels: Int[np.ndarray, " k"] | None = None) -> Reply:
    """The network's reply to every sample.

    Args:
        problem: of the layer, with the model above.
        dual: (k, r) p_i, one a row, ``x_i = p_i @ right``.
        labels: (k,) where they are known, and no other label is to be asked about.
    """
    own = own_gradients(problem, dual, labels)
    noise = _noise(problem, own.directions)
    tolerance = limits.NETWORK_MARGIN * noise
    can_tell = (tolerance < limits.MAX_ERROR) & own.reaches
    confirmed = can_tell & (own.distance <= tolerance)
    fits = own.misses <= (limits.REFUSED * tolerance[:, None]) ** 2
    fits[np.arange(len(own.labels)), own.labels] = True
    # As p_i . q_j = 0 for every other j, the column of sample i is D(y) over p_i . left^T D(y).
    along = np.sum(dual * (problem.left.T @ own.gradients).T, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = 1 / (along[:, None] * own.lines)
    return Reply(
        confirmed=confirmed,
        is_refused=can_tell & (own.distance > limits.REFUSED * tolerance) & ~own.is_open,
        labels=own.labels,
        fits=fits & confirmed[:, None],
        is_alone=np.sum(own.misses <= limits.FAR_LABEL**2, axis=1) == (1 if own.misses.shape[1] > 2 else 2),
        ratios=np.where(np.isfinite(ratios), ratios, 0.0),
        directions=own.directions,
        outside=own.outside,
        noise=noise,
    )


def _noise(problem: Problem, directions: Float[np.ndarray, "k r"]) -> Float[np.ndarray, " k"]:
    """What noise moves a sample's gradient, of unit norm, from the noisy column space that it lies in.

    ``D = G w`` for a w of norm ``|S^-1 q|``: noise of norm ``|N|`` moves it by ``|N| |S^-1 q|``, once in D and once in
    the column space. The client's own forward and backward pass rounds in its dtype.
    """
    gain = numerics.noise_gain(problem.factorization, directions)
    return problem.factorization.noise_floor * gain + problem.client_eps
