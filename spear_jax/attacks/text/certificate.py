"""The certificate of a whole batch: its own gradient, computed again and held against every tensor that came back.

One wrong token of a batch changes the gradient by a tenth, a wrong label by some hundredths; the right batch agrees to
the rounding of the client's arithmetic, whatever the order of its sequences.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from spear_jax.attacks.text.sequences import Sequence, alike, counted
from spear_jax.attacks.text.untold import could_be_another
from spear_jax.attacks.text.views import HALF
from spear_jax.language.backward import Batch, gradients
from spear_jax.language.linear import Params
from spear_jax.language.observation import TextObservation
from spear_jax.row_space import filled
from spear_jax.stages import stage

# Largest part of the gradients that the batch may leave unexplained and be called exact, in units of what rounding
# leaves, and beyond it, by dtype: two programs add in another order.
MOST_LEFT = 4.0
ARITHMETIC = {"float32": 1e-5, "float64": 1e-10}
# A sequence of less than this part of the largest share of all weights may be noise, and is tried without; one that is
# certified has a share of so many limits.
LIGHT, NEEDED = 0.02, 10.0
# Entries of a tensor of which the median ratio is taken.
MOST_RATIOS = 200_000
# Rows and places of the smallest batch that a program is compiled for.
LEAST = 4
# The sum of no weights.
TINY = 1e-30
# One mistake changes the gradient of N predictions by some part of 1 / N (of a thousand that were made by 0.5 / N or
# more).
SHARPEST = 0.1


class Reproduction(NamedTuple):
    """How far a batch's own gradient is from what came back.

    Attributes:
        residual: norm of what is left of all gradients over their norm, after one common factor.
        limit: of the residual, up to which rounding explains it, and no wrong label of one prediction would hide in it.
        factor: of the gradients that came back to those of the batch, whose weights add up to one.
    """

    residual: float
    limit: float
    factor: float

    @property
    def is_exact(self) -> bool:
        """Whether the batch explains all that came back."""
        return self.residual <= self.limit


class Vouched(NamedTuple):
    """A batch and whether it is certified.

    Attributes:
        sequences: the batch, with the weights under which its gradient comes closest to what came back.
        exact: (s,) bool: where the batch explains all that came back, all of its sequences that could be no others.
        reproduction: of the batch, None where there is none.
    """

    sequences: list[Sequence]
    exact: np.ndarray
    reproduction: Reproduction | None

    @property
    def is_whole(self) -> bool:
        """Whether there is a batch, and it is certified."""
        return len(self.exact) > 0 and bool(self.exact.all())


@stage("text: certificate")
def certify(observation: TextObservation, params: Params, sequences: list[Sequence]) -> Vouched:
    """The one place that calls a sequence exact: where the gradient of the whole batch is what came back.

    Noise may leave the weights open; the losses in use weigh all predictions alike, or all sequences, so these are
    tried too where the weights that were read do not do. A sequence that weighs so little that the batch could do
    without it is not certified, and left out where the batch does without it.

    Args:
        observation: what came back.
        params: the model's tensors on the device.
        sequences: the batch, with the weights that were read.
    """
    if not sequences:
        return Vouched([], np.zeros(0, bool), None)
    shares = _shares(sequences)
    heavy = [one for one, share in zip(sequences, shares, strict=True) if share >= LIGHT * shares.max()]
    ways = [counted(heavy), heavy, alike(heavy, False), alike(heavy, True)]
    tried = []
    for weighed in ways if len(heavy) == len(sequences) else [*ways, sequences]:
        tried.append((weighed, reproduce(observation, params, weighed)))
        if tried[-1][1].is_exact:
            break
    best, reproduction = min(tried, key=lambda one: one[1].residual / one[1].limit)
    if not reproduction.is_exact:
        return Vouched(best, exact=np.zeros(len(best), bool), reproduction=reproduction)
    is_seen = _shares(best) >= NEEDED * reproduction.limit
    exact = is_seen & ~could_be_another(observation, params, best, reproduction.limit)
    return Vouched(best, exact=exact, reproduction=reproduction)


def _shares(sequences: list[Sequence]) -> np.ndarray:
    """(s,) share of each sequence in the weights of all predictions."""
    weights = np.array([one.weight * one.predictions for one in sequences])
    return weights / max(weights.sum(), TINY)


def reproduce(observation: TextObservation, params: Params, sequences: list[Sequence]) -> Reproduction:
    """Hold the gradient of a batch against what came back.

    Args:
        observation: what came back.
        params: the model's tensors on the device.
        sequences: the batch.
    """
    batch = as_batch(sequences, observation.dtype)
    compared = np.array(
        [
            _compare(np.asarray(gradient), observation.gradients[name], observation.is_half)
            for name, gradient in gradients(observation.architecture, params, batch)
            if name in observation.gradients
        ]
    )
    sharpest = SHARPEST / int(np.sum(np.asarray(batch.weights) > 0))
    plain, rounded = np.moveaxis(compared, 1, 0)
    square = float(np.sum(plain[:, -1]))
    if observation.is_half is None:
        return _together(plain, min(limit(observation, square), sharpest))
    return _together(rounded, min(limit_of_rounded(observation, square), sharpest))


def _together(compared: np.ndarray, most: float) -> Reproduction:
    """What one common multiple of all tensors' gradients leaves, from what the best one of each does."""
    left, factors, own, size = compared.T
    factor = float(np.sum(factors * own) / np.sum(own)) if np.any(own) else 0.0
    rest = np.sum(left + (factors - factor) ** 2 * own)
    return Reproduction(float(np.sqrt(rest / np.sum(size))), most, factor)


def limit(observation: TextObservation, square: float) -> float:
    """Part of the gradients, of this squared norm, that rounding alone may leave unexplained by the right batch."""
    dtypes = {observation.dtype, *(gradient.dtype for gradient in observation.gradients.values())}
    arithmetic = max(ARITHMETIC[np.dtype(dtype).name] for dtype in dtypes)
    half = HALF.get(observation.is_half or "", 0.0)
    rounded = sum(observation.rounding.get(name, 0.0) ** 2 * g.size for name, g in observation.gradients.items())
    return arithmetic + MOST_LEFT * float(np.hypot(half, np.sqrt(rounded / square)))


def limit_of_rounded(observation: TextObservation, square: float) -> float:
    """Part that the right batch may leave where its own gradient is rounded as what came back was.

    Both then lie on one grid, and are apart only where arithmetic moves an entry past the middle of two of its points.
    """
    if observation.is_half is None:
        return limit(observation, square)
    step = HALF[observation.is_half] * np.sqrt(12)
    return MOST_LEFT * float(np.sqrt(ARITHMETIC[np.dtype(observation.dtype).name] * step))


def as_batch(sequences: list[Sequence], dtype: np.dtype) -> Batch:
    """Sequences as the loss takes them, in a few shapes, the weights of all predictions adding up to one."""
    rows, length = filled(len(sequences), LEAST), filled(max(len(one.tokens) for one in sequences), LEAST)
    tokens, targets = np.zeros((rows, length), int), np.zeros((rows, length), int)
    weights, is_token = np.zeros((rows, length)), np.zeros((rows, length), bool)
    for row, sequence in enumerate(sequences):
        count = len(sequence.tokens)
        tokens[row, :count], is_token[row, :count] = sequence.tokens, True
        if sequence.label is None:
            targets[row, : count - 1] = sequence.tokens[1:]
            weights[row, sequence.start : count - 1] = sequence.weight
        else:
            targets[row, count - 1], weights[row, count - 1] = sequence.label, sequence.weight
    return Batch(
        jnp.asarray(tokens),
        jnp.asarray(targets),
        jnp.asarray(weights / max(weights.sum(), TINY), dtype),
        jnp.asarray(is_token),
    )


def _compare(ours: np.ndarray, theirs: np.ndarray, half: str | None) -> np.ndarray:
    """What a multiple of a gradient leaves of another, that multiple, and both squares: as it is, and rounded."""
    ours, theirs = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
    own, size = float(ours @ ours), float(theirs @ theirs)
    factor = float(ours @ theirs) / own if own else 0.0
    rest = theirs - factor * ours
    plain = [float(rest @ rest), factor, own, size]
    if half is None:
        return np.array([plain, plain])
    factor = _ratio(ours, theirs)
    rest = theirs - (factor * ours).astype(jnp.dtype(half)).astype(np.float64)
    return np.array([plain, [float(rest @ rest), factor, own, size]])


def _ratio(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The multiple that most entries have; the best one in squares follows how a few large ones were rounded."""
    few = slice(None, None, max(len(ours) // MOST_RATIOS, 1))
    ours, theirs = ours[few], theirs[few]
    is_large = (np.abs(ours) > np.median(np.abs(ours))) & (theirs != 0)
    return float(np.median(theirs[is_large] / ours[is_large])) if np.any(is_large) else 0.0
