"""How many samples each reconstructed one stands for, and its label: both are read off the size of its column.

Samples that fire the same neurons, with gradients along one line, share a direction: what comes back is their weighted
mean, and their column is the sum of theirs (docs/method.md, Sec. 6). Every sample of a mean loss has the same share in
it, so the column of a single sample is one common multiple kappa of the network's ``D(y)``, that of n samples of one
label n times as much. The sign tells labels apart whose gradients lie on one line, as with two classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.certificates.error_bars import bias_noise
from spear_jax.attacks.dense.certificates.moves import mixture, moved
from spear_jax.attacks.dense.certificates.reply import Reply, judge
from spear_jax.attacks.dense.certificates.verdict import Verdict
from spear_jax.attacks.dense.directions.recover import dual_vectors
from spear_jax.attacks.dense.problem import Problem
from spear_jax.types import NO_LABEL

# Times that the sample of the smallest share may have been in the batch.
MAX_LEAST = 4
# Shares, smallest first, that may be that of a single sample.
MAX_UNITS = 32
TINY = float(np.finfo(float).tiny)


class Shares(NamedTuple):
    """What the shares of the loss say of each sample.

    Attributes:
        mean_of: (r,) samples of one label that it is the mean of, 0 where that is not known.
        labels: (r,) the label, `NO_LABEL` where several fit.
        fits: (r, c) the labels that fit.
        is_odd: (r,) whether no whole number of samples explains it, although the shares of most others are whole.
    """

    mean_of: Int[np.ndarray, " r"]
    labels: Int[np.ndarray, " r"]
    fits: Bool[np.ndarray, "r c"]
    is_odd: Bool[np.ndarray, " r"]


def by_number(problem: Problem, verdict: Verdict, num_examples: int | None) -> Verdict:
    """The verdict with the distance of means in their bars, and without samples that nobody counted, where it matters.

    A merged sample is one direction, as far from all others as any: only counts, which need the model, show that it
    is the mean of several. Where the client reported more samples than there are directions, one is; and where the bias
    gradient is not of the samples that the kernel's shows, collinear ones may have merged.

    Args:
        problem: of the layer.
        verdict: so far.
        num_examples: batch size as the client reports it, None where it does not.
    """
    vouched, error = verdict.exact | verdict.approximate, verdict.error
    several = np.flatnonzero(vouched & (verdict.mean_of > 1))
    if len(several):
        # A direction that nobody vouches for may hold the difference of two, which then may be as far apart as any.
        spread = _spread(problem, _dual_of(problem, verdict, several), verdict.mean_of) if vouched.all() else np.inf
        error = error.copy()
        error[several] = np.hypot(error[several], spread)
    if num_examples is not None and num_examples > len(verdict.exact):
        vouched = vouched & (verdict.mean_of > 0)
    if num_examples is not None and num_examples < len(verdict.exact):
        vouched = np.zeros_like(vouched)  # some directions are noise, which is then larger than it seems
    if not np.isfinite(bias_noise(problem)):
        vouched = vouched & (verdict.mean_of == 1)
    is_near = error <= limits.MAX_ERROR / limits.ERROR_MARGIN
    is_mean = verdict.mean_of > 1
    exact = vouched & np.where(is_mean, verdict.exact & is_near, verdict.exact)
    return verdict._replace(
        exact=exact,
        approximate=vouched & ~exact & (error <= limits.MAX_APPROXIMATE_ERROR),
        error=error,
    )


def _dual_of(problem: Problem, verdict: Verdict, places: Int[np.ndarray, " k"]) -> Float[np.ndarray, "k r"]:
    """Dual vectors of these samples, which are given or follow from all directions."""
    dual = verdict.dual[places]
    if np.isfinite(dual).all():
        return dual
    whole = dual_vectors(problem.factorization, problem.bias_grad / verdict.common_factor, verdict.directions)
    assert whole is not None  # or nothing would be vouched for
    return np.where(np.isfinite(dual), dual, whole[places])


def _spread(
    problem: Problem, dual: Float[np.ndarray, "k r"], mean_of: Int[np.ndarray, " r"]
) -> Float[np.ndarray, " k"]:
    """How far the mean of several samples is from the nearest of them, relative to its norm.

    Two that are delta apart, with gradients that differ by ``s |D| delta``, as a random move of that size has them,
    leave a singular value of ``s |D| delta^2 / 2`` beside their mean's: had it exceeded the noise they would be two.
    Only collinear ones leave none; then the bias gradient leaves the column space by as much, s being how a change of
    scale turns them.
    """
    noise = bias_noise(problem) * np.sqrt(len(problem.left))
    apart = _turning(problem, dual, moved(dual, problem.spectrum, mixture(dual, problem.spectrum)), mean_of)
    along = _turning(problem, dual, (1 + limits.MAX_ERROR) * dual, mean_of)
    size = np.linalg.norm(dual * problem.spectrum, axis=1)
    return np.sqrt(problem.factorization.noise_floor / (2 * apart * size)) + np.sqrt(noise / (2 * along))


def _turning(
    problem: Problem, dual: Float[np.ndarray, "k r"], away: Float[np.ndarray, "k r"], mean_of: Int[np.ndarray, " r"]
) -> Float[np.ndarray, " k"]:
    """How far a sample's column turns over the relative length of a move, `MAX_ERROR`."""
    after = judge(problem, away)
    column = 1 / np.maximum(np.abs(np.sum(dual * after.directions, axis=1)), TINY)  # |q_i|, as p_i . q_i = 1
    return np.maximum(after.distance / limits.MAX_ERROR * column / max(int(mean_of.max()), 1), TINY)


def read_shares(reply: Reply, error: Float[np.ndarray, " r"], num_examples: int | None) -> Shares:
    """Read counts and labels off the network's reply.

    Args:
        reply: to the samples.
        error: (r,) expected relative errors of the inputs.
        num_examples: batch size as the client reports it, None where it does not.
    """
    tolerance = np.minimum(limits.NETWORK_MARGIN * reply.noise + limits.ERROR_MARGIN * error, limits.MAX_SHARE_ERROR)
    tried = [(_counts(reply, tolerance, *unit), unit[0]) for unit in _units(reply, tolerance)]
    explained = lambda counts: int(np.any(counts > 0, axis=1).sum())
    tried.sort(key=lambda trial: -explained(trial[0]))
    best = explained(tried[0][0]) if tried else 0
    agreed = [counts for counts, _ in tried if explained(counts) == best]
    if num_examples is not None:
        agreed = [counts for counts in agreed if counts.max(axis=1, initial=0).sum() <= num_examples]
    known = int(reply.confirmed.sum())
    if best < 2 or best < limits.MOST_SHARES * known or not agreed:
        return _shares(reply.fits, _by_itself(reply, tolerance, num_examples), np.zeros(len(error), bool))
    if num_examples is not None and num_examples > len(error):
        agreed = _by_size(tried, agreed, num_examples)
    else:  # a unit and half of it explain the same shares: the largest unit counts fewest samples
        fewest = min(int(counts.max(axis=1).sum()) for counts in agreed)
        agreed = [counts for counts in agreed if counts.max(axis=1).sum() == fewest]
    fits = np.any([counts > 0 for counts in agreed], axis=0)
    mean_of = agreed[0].max(axis=1)
    same = np.all([counts.max(axis=1) == mean_of for counts in agreed], axis=0)
    is_odd = reply.confirmed & ~fits.any(axis=1) & (_to_whole(reply, tried[0][1]) > limits.PLAINLY_ODD)
    return _shares(np.where(is_odd[:, None], reply.fits, fits), np.where(same, mean_of, 0), is_odd)


def _by_size(
    tried: list[tuple[Int[np.ndarray, "r c"], float]], agreed: list[Int[np.ndarray, "r c"]], num_examples: int
) -> list[Int[np.ndarray, "r c"]]:
    """Of several ways to count the one whose unit is a single sample's share of a mean loss, or of a summed one.

    Some samples of those reported do not show: they may send next to nothing, or hide in means, of which then every
    one may be. Where no unit tells, all ways to count stay.
    """
    told = [
        counts
        for counts, unit in tried
        if any(counts is one for one in agreed)
        and min(abs(unit * num_examples - 1), abs(unit - 1)) <= limits.MAX_SHARE_ERROR / num_examples
    ]
    return told or agreed


def _by_itself(reply: Reply, tolerance: Float[np.ndarray, " r"], num_examples: int | None) -> Int[np.ndarray, " r"]:
    """How many samples each one stands for where the others do not tell: its share of a mean loss, times the batch.

    A single sample of a summed loss has a share of one.
    """
    if num_examples is None:
        return np.zeros(len(tolerance), int)
    shares = np.abs(np.where(reply.fits, reply.ratios, 0.0)).max(axis=1)
    counts = np.where(np.abs(shares - 1) <= tolerance, 1.0, np.minimum(shares * num_examples, limits.MOST_COPIES))
    whole = np.rint(counts)
    is_whole = reply.confirmed & (whole >= 1) & (np.abs(counts - whole) <= tolerance * whole)
    return np.where(is_whole & (tolerance * whole < limits.MAX_SHARE_ERROR), whole, 0).astype(int)


def _to_whole(reply: Reply, unit: float) -> Float[np.ndarray, " r"]:
    """How far each share is from a whole multiple of a unit, at the label that comes nearest."""
    ratios = np.where(reply.fits, reply.ratios / unit, np.inf)
    with np.errstate(invalid="ignore"):
        gaps = np.where(ratios > 0.5, np.abs(ratios - np.rint(ratios)), np.inf)
    return np.nan_to_num(gaps, nan=np.inf, posinf=np.inf).min(axis=1)


def _shares(fits: np.ndarray, mean_of: np.ndarray, is_odd: np.ndarray) -> Shares:
    labels = np.where(fits.sum(axis=1) == 1, fits.argmax(axis=1), NO_LABEL)
    return Shares(mean_of, labels, fits, is_odd)


def _units(reply: Reply, tolerance: Float[np.ndarray, " r"]) -> list[tuple[float, float]]:
    """What kappa may be, and its relative error: the share of a sample, or a part of it, for each of its labels."""
    places, labels = np.nonzero(reply.fits & np.isfinite(reply.ratios) & (reply.ratios != 0))
    shares = reply.ratios[places, labels]
    order = np.argsort(np.abs(shares))[:MAX_UNITS]
    return [
        (float(shares[place]) / times, float(tolerance[places[place]]))
        for place in order
        for times in range(1, MAX_LEAST + 1)
    ]


def _counts(reply: Reply, tolerance: Float[np.ndarray, " r"], unit: float, unit_error: float) -> Int[np.ndarray, "r c"]:
    """Samples of each label that explain each column alone, 0 where no whole number does."""
    tolerance = tolerance + unit_error
    with np.errstate(invalid="ignore", over="ignore"):
        ratios = np.where(reply.fits, reply.ratios / unit, 0.0)
    ratios = np.where(np.abs(ratios) < limits.MOST_COPIES, ratios, 0.0)
    counts = np.rint(ratios)
    is_whole = (counts >= 1) & (np.abs(ratios - counts) <= tolerance[:, None] * counts)
    # Where the tolerance reaches the distance of two whole numbers nothing is counted.
    is_whole &= tolerance[:, None] * counts < limits.MAX_SHARE_ERROR
    return np.where(is_whole, counts, 0).astype(int)
