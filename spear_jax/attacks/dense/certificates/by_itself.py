"""Each sample by itself: its input is run through the known network, and no other is needed (docs/method.md, Sec. 6).

The certificate of `network` takes a full set of directions, since only then dual vectors are known. Where an input
comes from elsewhere, as from a neuron that fired for one sample (`peeling`), two things hold of it that hold of no
wrong input: its own gradient ``D(y)`` lies in the column space, and the weight with which the client counted it,
``1 / (p . left^T D(y))``, is that of the other samples. How far it misses both, over how fast they change where the
input moves along random mixtures of the batch, is its error. A sample that the network is sure of says little by the
first, as its gradient hardly turns; the second still shows what is mixed into it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from spear_jax import numerics
from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.certificates.means import Shares, read_shares
from spear_jax.attacks.dense.certificates.moves import weakest
from spear_jax.attacks.dense.certificates.own_gradient import Own, own_gradients
from spear_jax.attacks.dense.certificates.reply import judge
from spear_jax.attacks.dense.certificates.verdict import Verdict
from spear_jax.attacks.dense.outcome import Samples
from spear_jax.attacks.dense.problem import Problem
from spear_jax.stages import stage
from spear_jax.types import NO_LABEL

# Share of its norm by which an input is moved to see what follows: far above rounding, and no sign of a thousand flips.
STEP = 1e-6
# What follows of rounding alone: in a network of two classes gradients do not turn at all.
STANDSTILL = 1e3 * np.finfo(float).eps


@stage("by itself")
def samples_by_themselves(
    problem: Problem, dual: Float[np.ndarray, "k r"], noise: Float[np.ndarray, " k"] | float = 0.0
) -> Samples:
    """What the network alone says of inputs, of which each is taken for a sample of the batch.

    Args:
        problem: of the layer, with the model above.
        dual: (k, r) dual vectors of the inputs, ``x = dual @ right``; independent.
        noise: error of each relative to its norm that its origin leaves, as of the row it was read off.
    """
    own = own_gradients(problem, dual)
    error = np.maximum(_error(problem, dual, own), noise) * limits.ITSELF_MARGIN / limits.ERROR_MARGIN
    confirmed = _misses_no_neuron(problem, own) & (error < limits.MAX_ERROR / limits.ERROR_MARGIN)
    is_on = ~numerics.zero_mask(problem.factorization, own.directions)[problem.live_mask]
    matching = np.mean(is_on == (own.gradients[problem.live_mask] != 0), axis=0)
    return Samples(own.directions, dual, confirmed, matching, error)


def labelled(problem: Problem, verdict: Verdict, num_examples: int | None = None) -> Verdict:
    """The verdict with labels and numbers of samples that are given by their dual vectors, where the model is known.

    Args:
        problem: of the layer.
        verdict: so far.
        num_examples: batch size as the client reports it, None where it does not.
    """
    alone = np.flatnonzero(np.isfinite(verdict.dual).all(axis=1))
    if not problem.is_mended or len(alone) == 0:
        return verdict
    dual = verdict.dual[alone]
    shares = _loosely(
        problem, dual, read_shares(judge(problem, dual), np.minimum(verdict.error[alone], 1.0), num_examples)
    )
    labels = np.full(problem.rank, NO_LABEL) if verdict.labels is None else verdict.labels.copy()
    fits = np.zeros((problem.rank, shares.fits.shape[1]), bool)
    if verdict.possible_labels is not None:
        fits = verdict.possible_labels.copy()
    mean_of = verdict.mean_of.copy()
    labels[alone], fits[alone], mean_of[alone] = shares.labels, shares.fits, shares.mean_of
    return verdict._replace(labels=labels, possible_labels=fits, mean_of=mean_of)


def _loosely(problem: Problem, dual: Float[np.ndarray, "k r"], shares: Shares) -> Shares:
    """Labels and numbers also of samples whose gradient is too weak for `reply`, but has no neuron wrong."""
    own = own_gradients(problem, dual)
    weight = weights(problem, dual, own)
    counts = np.nan_to_num(weight / common_weight(weight))
    is_whole = np.abs(counts - np.rint(counts)) <= limits.MAX_SHARE_ERROR
    weak = _misses_no_neuron(problem, own) & ~shares.fits.any(axis=1)
    fits = np.where(weak[:, None], own.misses <= limits.NEURON_SHARE**2 / len(problem.left), shares.fits)
    return shares._replace(
        labels=np.where(weak & (fits.sum(axis=1) == 1), fits.argmax(axis=1), shares.labels),
        mean_of=np.where(weak & is_whole, np.rint(counts).astype(int), shares.mean_of),
        fits=fits,
    )


def _misses_no_neuron(problem: Problem, own: Own) -> Bool[np.ndarray, " k"]:
    """Whether each gradient is nearer to the column space than one that has a neuron wrong."""
    return own.reaches & (own.distance <= limits.NEURON_SHARE / np.sqrt(len(problem.left)))


def weights(problem: Problem, dual: Float[np.ndarray, "k r"], own: Own) -> Float[np.ndarray, " k"]:
    """Weight with which the client counted each sample, one over the batch size for a mean; NaN where it has none."""
    share = np.sum(dual * (problem.left.T @ own.gradients).T, axis=1)
    return 1 / np.where(share > 0, share, np.nan)


def common_weight(weight: Float[np.ndarray, " k"]) -> float:
    """The weight that samples share, NaN where there are too few to say, or they do not, as where each was clipped.

    Args:
        weight: (k,) of the samples that are likely right.
    """
    logs = np.log(weight[np.isfinite(weight)])
    if len(logs) < limits.MIN_AGREEING:
        return float("nan")
    if np.quantile(abs(logs - np.median(logs)), limits.AGREEING) > limits.MAX_ERROR:
        return float("nan")
    return float(np.exp(np.median(logs)))


def misfit(own: Own, weight: Float[np.ndarray, " k"], common: float) -> Float[np.ndarray, "n k"]:
    """By what each sample misses the column space and, where there is one, the common weight: its last entry."""
    missed = np.log(weight / common) if np.isfinite(common) else np.zeros(len(weight))
    return np.concatenate([own.outside, np.nan_to_num(missed, nan=np.inf, posinf=np.inf)[None]])


def rounding(problem: Problem, own: Own) -> Float[np.ndarray, " k"]:
    """What the misfit of a right sample is off by: noise of the column space, and the client's own rounding.

    The client's ``softmax - e_y`` is off by a unit of one, whatever its size.
    """
    noise = problem.factorization.noise_floor * numerics.noise_gain(problem.factorization, own.directions)
    return noise + problem.client_eps * (1 + 1 / np.maximum(own.surprise, np.finfo(float).tiny))


def _error(problem: Problem, dual: Float[np.ndarray, "k r"], own: Own) -> Float[np.ndarray, " k"]:
    """Expected error of each input relative to its norm: its misfit over how fast that grows, and what others add."""
    weight = weights(problem, dual, own)
    common = common_weight(weight)
    before = misfit(own, weight, common)
    least = np.full(len(dual), np.inf)
    size_of = lambda vectors: np.linalg.norm(vectors * problem.spectrum, axis=1, keepdims=True)
    weak = [along * size_of(dual) for along in weakest(dual, problem.spectrum)]
    for move in (*(_mixture(problem, dual, seed) for seed in range(limits.TAINTS)), *weak):
        moved = dual + STEP * move
        after = own_gradients(problem, moved)
        with np.errstate(invalid="ignore"):
            grown = np.linalg.norm(misfit(after, weights(problem, moved, after), common) - before, axis=0)
        is_answer = (after.labels == own.labels) & (grown > STANDSTILL)
        least = np.minimum(least, np.where(is_answer, grown, 0) / STEP)
    off = rounding(problem, own)
    size = np.maximum(np.linalg.norm(before, axis=0), off * _disagreement(before[-1], off))
    held = held_of_others(problem, dual, own.gradients * np.nan_to_num(weight), size)
    added = np.linalg.norm(held @ dual * problem.spectrum, axis=1) / np.linalg.norm(dual * problem.spectrum, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(size / least + added, nan=np.inf, posinf=np.inf)


def _disagreement(missed: Float[np.ndarray, " k"], off: Float[np.ndarray, " k"]) -> float:
    """How many times further than rounding explains most samples are from the weight that they are to share.

    Where most are mixtures their median is one too: that one is off by nothing, and knows the weight no better than
    the others agree on it.
    """
    return float(max(1.0, np.median(np.abs(missed) / off))) if len(off) else 1.0


def _mixture(problem: Problem, dual: Float[np.ndarray, "k r"], seed: int) -> Float[np.ndarray, "k r"]:
    """A move of each sample towards another one, of its own norm; towards anything in the row space where it is alone.

    That is what a neuron on which the other fires too does to it.
    """
    spectrum, random = problem.spectrum, np.random.default_rng(seed)
    size = lambda vectors: np.linalg.norm(vectors * spectrum, axis=1, keepdims=True)
    if len(dual) < 2:
        mixture = random.standard_normal(dual.shape) / spectrum
    else:
        mixture = np.roll(dual, int(random.integers(1, len(dual))), axis=0) - dual
    return mixture * size(dual) / np.maximum(size(mixture), np.finfo(float).tiny)


def held_of_others(
    problem: Problem,
    dual: Float[np.ndarray, "k r"],
    gradients: Float[np.ndarray, "m k"],
    spoiled: Float[np.ndarray, " k"],
) -> Float[np.ndarray, "k k"]:
    """How much of each other sample a sample holds: its dual vector is orthogonal to the directions of the others.

    What the errors of these directions explain is none: next to a strong sample's a weak one's dual vector is long.

    Args:
        problem: of the layer.
        dual: (k, r) dual vectors.
        gradients: (m, k) of the samples, as the client weighted them.
        spoiled: (k,) errors of these relative to them.
    """
    sent = problem.left.T @ gradients
    held = dual @ sent
    explained = np.outer(np.linalg.norm(dual, axis=1), np.linalg.norm(sent, axis=0) * np.minimum(spoiled, 1))
    is_shown = np.abs(held) > numerics.ZERO_SIGMAS * explained
    np.fill_diagonal(is_shown, False)
    return np.where(is_shown, held, 0.0)
