"""What can be said of a reconstruction without the truth: the ReLU pattern (SPEAR, Sec. 4.2, the score lambda).

With the inputs found, ``Z = W X + bias`` must be positive exactly where ``D = left @ Q`` is not zero. Neither was
fitted to the other: Q comes from zeros of the gradient's column space, Z from weights that the gradient does not hold.
An entry too close to zero for the noise to tell its sign counts for neither side; a certificate needs nearly all
entries decided.

Over several local steps D is a sum, zero only where a neuron was off in all of them, while Z moves by an amount that
the update itself tells, from the first step to the last. Where Z is farther from zero than it moved, the neuron was on
or off throughout, and there the two sides must agree. As that leaves many entries out, each direction must besides
follow from its zeros alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from spear_jax import linalg, numerics
from spear_jax.attacks.dense.certificates import error_bars, limits
from spear_jax.attacks.dense.certificates.verdict import Verdict, no_verdict
from spear_jax.attacks.dense.directions.recover import disaggregation, has_every_scale
from spear_jax.attacks.dense.outcome import Agreement
from spear_jax.attacks.dense.problem import Problem
from spear_jax.stages import stage
from spear_jax.types import Factorization


@stage("pattern")
def agree(problem: Problem, directions: Float[np.ndarray, "r r"]) -> Agreement:
    """How well the patterns that r directions give agree with ReLU.

    Args:
        problem: of the layer.
        directions: (r, r) unit directions, one a row.

    Returns:
        per sample, in the order of the directions; nothing is confirmed where a scale vanishes.
    """
    factorization = problem.factorization
    mixing = disaggregation(factorization, problem.bias_grad, directions)
    if not has_every_scale(mixing):
        return no_agreement(len(directions))
    sides = _two_sides(problem, directions, mixing)
    patterns = _compare(sides, problem.live_mask)
    is_bounded = sides.error < limits.MAX_APPROXIMATE_ERROR
    # The neurons of a single sample are live where they fired: it has no zeros, and needs none.
    if problem.drift and problem.rank > 1:
        matching, confirmed = _over_several_steps(patterns, is_bounded, factorization, directions)
    else:
        matching, confirmed = _in_one_step(patterns, is_bounded)
    dropped = np.zeros(problem.rank)
    if not problem.drift and not confirmed.all():
        dropped, confirmed = _behind_a_mask(patterns, confirmed, is_bounded, factorization, directions)
    precise = confirmed & (sides.error < limits.MAX_ERROR / limits.ERROR_MARGIN)
    if not problem.drift:
        precise &= patterns.num_decided >= limits.MIN_DECIDED * patterns.num_live
    residual = np.linalg.norm(problem.bias_grad - sides.grad_z.sum(axis=1)) / np.linalg.norm(problem.bias_grad)
    return Agreement(confirmed, precise, matching, sides.error, sides.shape_error, dropped, float(residual))


class _Sides(NamedTuple):
    """What directions say of the layer, and what the noise leaves of it.

    Attributes:
        grad_z: (m, r) ``D = left @ Q``.
        tolerance: (r,) largest magnitude at which an entry of D counts as zero.
        pre_activation: (m, r) ``Z = W X + bias``.
        slack: (m, r) bound on the error of Z, with how far it moved over several steps.
        error: (r,) expected relative error of the inputs.
        shape_error: (r,) the same up to the scale of each.
    """

    grad_z: Float[np.ndarray, "m r"]
    tolerance: Float[np.ndarray, " r"]
    pre_activation: Float[np.ndarray, "m r"]
    slack: Float[np.ndarray, "m r"]
    error: Float[np.ndarray, " r"]
    shape_error: Float[np.ndarray, " r"]


def _two_sides(problem: Problem, directions: Float[np.ndarray, "r r"], mixing: Float[np.ndarray, "r r"]) -> _Sides:
    factorization = problem.factorization
    inverse = linalg.inv(mixing)
    centred = problem.response @ inverse.T
    pre_activation = centred + problem.bias[:, None]
    errors = error_bars.expected_errors(problem, directions, mixing, pre_activation <= 0)
    slack = error_bars.pre_activation_slack(factorization, problem.weight_norms, inverse, centred, errors)
    if problem.drift:
        slack = slack + error_bars.movement(factorization, problem.bias_grad, problem.drift, inverse)
    return _Sides(
        grad_z=np.asarray(factorization.left) @ mixing,
        tolerance=numerics.zero_tolerance(factorization, directions) * np.linalg.norm(mixing, axis=0),
        pre_activation=pre_activation,
        slack=slack,
        error=error_bars.input_error(problem, inverse, errors),
        shape_error=error_bars.input_error(problem, inverse, errors._replace(scale=np.zeros(len(directions)))),
    )


class _Patterns(NamedTuple):
    """The patterns of the two sides, on the live rows.

    Attributes:
        is_on: (l, r) entries of D that are not zero.
        is_active: (l, r) entries of Z above zero.
        is_decided: (l, r) entries of Z whose sign the noise cannot turn.
        agrees: (l, r) entries where the two sides do not contradict each other.
        is_missing: (l, r) entries where only D is zero, by chance or not.
    """

    is_on: Bool[np.ndarray, "l r"]
    is_active: Bool[np.ndarray, "l r"]
    is_decided: Bool[np.ndarray, "l r"]
    agrees: Bool[np.ndarray, "l r"]
    is_missing: Bool[np.ndarray, "l r"]

    @property
    def num_live(self) -> int:
        """Live rows, at least 1 to divide by."""
        return max(len(self.agrees), 1)

    @property
    def num_decided(self) -> Int[np.ndarray, " r"]:
        """Decided entries of each sample."""
        return self.is_decided.sum(axis=0)


def _compare(sides: _Sides, live: Bool[np.ndarray, " m"]) -> _Patterns:
    grad_z, pre_activation, slack = sides.grad_z, sides.pre_activation, sides.slack
    is_zero = np.abs(grad_z) <= sides.tolerance
    is_surely_active, is_surely_inactive = pre_activation > slack, pre_activation < -slack
    missing = is_surely_active & is_zero
    agrees = ~(missing | (is_surely_inactive & ~is_zero))
    # Entries of a true column fall below the tolerance by chance, at the density its small entries show.
    small = 0.1 * np.sqrt(np.mean(grad_z**2, axis=0))
    density = np.sum((np.abs(grad_z) < small) & ~is_zero, axis=0) + 1
    expected = density * sides.tolerance / np.maximum(small, np.finfo(float).tiny)
    by_chance = missing & (np.sum(missing, axis=0) <= stats.poisson.isf(limits.CHANCE, np.minimum(expected, 1.0)))
    return _Patterns(
        is_on=~is_zero[live],
        is_active=pre_activation[live] > 0,
        is_decided=(is_surely_active | is_surely_inactive)[live],
        agrees=(agrees | by_chance)[live],
        is_missing=missing[live],
    )


def _in_one_step(
    patterns: _Patterns, is_bounded: Bool[np.ndarray, " r"]
) -> tuple[Float[np.ndarray, " r"], Bool[np.ndarray, " r"]]:
    """Share of live entries that agree, and the samples where enough are decided and all of them agree."""
    enough = patterns.num_decided >= max(limits.MIN_LOOSELY_DECIDED * patterns.num_live, limits.MIN_ENTRIES)
    # Where the noise decides too little, nothing agrees: a wild guess must not score by being vague.
    counted = np.where(enough, patterns.agrees, patterns.agrees & patterns.is_decided)
    matching = np.sum(counted, axis=0) / patterns.num_live
    return matching, (matching == 1) & enough & is_bounded


def _behind_a_mask(
    patterns: _Patterns,
    confirmed: Bool[np.ndarray, " r"],
    is_bounded: Bool[np.ndarray, " r"],
    factorization: Factorization,
    directions: Float[np.ndarray, "r r"],
) -> tuple[Float[np.ndarray, " r"], Bool[np.ndarray, " r"]]:
    """Share of the active neurons that a mask behind the ReLU, as dropout, silenced, and the samples confirmed with it.

    A mask adds zeros that the weights do not explain; it makes no neuron pass on what was off. So no entry of D may be
    there where Z is off, more than chance has them all where Z is on, and each direction must follow from its zeros.
    """
    is_on, is_active, is_missing = patterns.is_on, patterns.is_active, patterns.is_missing
    share = is_active.mean(axis=0)
    num_on = is_on.sum(axis=0)
    passes = ~(~patterns.agrees & ~is_missing).any(axis=0) & (patterns.num_decided >= limits.MIN_ENTRIES)
    luck = num_on * np.log(np.maximum(share, numerics.EPS64))
    passes &= is_bounded & (luck < np.log(limits.CHANCE)) & (luck.sum() < np.log(limits.MAX_COINCIDENCE))
    dropped = is_missing.sum(axis=0) / np.maximum(is_active.sum(axis=0), 1)
    if not (passes | confirmed).all() or dropped.min() < limits.MIN_DROPPED:
        return np.zeros(len(share)), confirmed
    passes[passes] = is_determined(factorization, directions[passes])
    return (dropped, passes) if passes.all() else (np.zeros(len(share)), confirmed)


def _over_several_steps(
    patterns: _Patterns,
    is_bounded: Bool[np.ndarray, " r"],
    factorization: Factorization,
    directions: Float[np.ndarray, "r r"],
) -> tuple[Float[np.ndarray, " r"], Bool[np.ndarray, " r"]]:
    """The same for weights that moved: some entries contradict, and each direction must follow from its zeros.

    As a share of the entries is undecided for every choice of directions, the share that agrees is that of the plain
    patterns, which tells choices apart. Chance must hardly bring it about.
    """
    is_on, is_active = patterns.is_on, patterns.is_active
    matching = np.mean(is_on == is_active, axis=0)
    first, second = is_on.mean(axis=0), is_active.mean(axis=0)
    by_chance = first * second + (1 - first) * (1 - second)
    is_unlikely = stats.binom.sf(matching * len(is_on) - 0.5, len(is_on), by_chance) < limits.MAX_COINCIDENCE
    num_contradicting = np.sum(~patterns.agrees, axis=0)
    is_confirmed = is_unlikely & (num_contradicting <= limits.MAX_RETURNED * patterns.num_live) & is_bounded
    is_confirmed[is_confirmed] = is_determined(factorization, directions[is_confirmed])
    return matching, is_confirmed


def is_determined(factorization: Factorization, directions: Float[np.ndarray, "k r"]) -> Bool[np.ndarray, " k"]:
    """Whether each direction follows from its zeros, and from more of them than it takes to make one.

    The zero rows of a mixture of s columns are those where all s are zero, which leave s dimensions open, and whatever
    rows the mixture was made to vanish on, s - 1 of them: each of these has leverage 1. A true direction loses nothing
    with any one row. Only coincidence makes a mixture pass, an entry that is zero within the noise by chance.

    Args:
        factorization: of the weight gradient.
        directions: (k, r) unit directions.
    """
    rank, left = factorization.rank, np.asarray(factorization.left)
    verdicts = np.zeros(len(directions), bool)
    for place, zero in enumerate(numerics.zero_mask(factorization, directions).T):
        if zero.sum() < rank:
            continue
        basis, spectrum, _ = linalg.svd(left[zero], full_matrices=False)
        held = spectrum > limits.MIN_SINGULAR * spectrum[0]
        # Noise gives the direction itself a singular value too: it is the smallest.
        basis = basis[:, : rank - 1]
        verdicts[place] = held[: rank - 1].all() and (basis**2).sum(axis=1).max(initial=0) < limits.MAX_LEVERAGE
    return verdicts


def factor_range(problem: Problem, directions: Float[np.ndarray, "r r"]) -> tuple[float, float]:
    """Between which common factors of the inputs every neuron that passes something on stays above zero.

    What the patterns leave open of a scale that rests on the bias gradient alone: without biases all of it.
    """
    mixing = disaggregation(problem.factorization, problem.bias_grad, directions)
    if not has_every_scale(mixing):
        return 0.0, np.inf
    centred, bias = problem.response @ linalg.inv(mixing).T, problem.bias[:, None]
    is_on = ~numerics.zero_mask(problem.factorization, directions) & problem.live_mask[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        turn = -bias / centred  # the factor at which a pre-activation vanishes
    lowest = np.max(np.where(is_on & (centred > 0) & (turn > 0) & (turn < 1), turn, 0.0), initial=0.0)
    highest = np.min(np.where(is_on & (centred < 0) & (turn > 1), turn, np.inf), initial=np.inf)
    return float(lowest), float(highest)


def no_agreement(rank: int) -> Agreement:
    """An agreement in which nothing is confirmed and every error is infinite."""
    nobody = np.zeros(rank, bool)
    unbounded = np.full(rank, np.inf)
    return Agreement(nobody, nobody, np.zeros(rank), unbounded, unbounded, np.zeros(rank), float("nan"))


def by_pattern(directions: Float[np.ndarray, "k r"], agreement: Agreement | None) -> Verdict:
    """The verdict as patterns alone can give it: every sample, or none.

    A direction that is off by a little of another, ``q_j + a q_i``, shows in its own pattern but moves input i by only
    ``a x_j``, which changes fewer than one sign of m where a is below 1 / m. While a pattern disagrees, the others'
    agreement does not prove their inputs; `network` and `next_layer` can.

    Args:
        directions: (k, r) unit directions.
        agreement: of r directions, None while some are missing.
    """
    if agreement is None:
        return no_verdict(directions)
    is_whole = agreement.confirmed.all()
    return no_verdict(directions)._replace(
        agreement=agreement,
        exact=agreement.precise & is_whole,
        approximate=agreement.confirmed & ~agreement.precise & is_whole,
        matching=agreement.matching,
        error=agreement.error,
    )
