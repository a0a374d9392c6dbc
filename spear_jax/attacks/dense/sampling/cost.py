"""What a search will cost and how likely it is to fail, before and while it runs (SPEAR, Sec. 4 and 5).

The model: each of the m rows of ``D = dL/dZ`` is zero in column i independently with probability ``zero_share``, so
column i has ``z_i ~ Bin(m, zero_share)`` zeros, and a submatrix of ``rank - 1`` distinct rows shows direction i when
all of them are zero there. Unlike the coupon-collector formula of the paper (Lemma 5.2, from memory: equal
probabilities, rows drawn with replacement) the counts here keep the finite width: the column with the fewest zeros
decides the cost. Everything is NumPy and SciPy in float64 on the host; nothing here touches an array of the attack.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special, stats

from spear_jax.attacks.dense.sampling.walk import CHECK_ROWS, TESTED_ROWS
from spear_jax.errors import SpearError

# Distinct finds of pivot walks per find expected of as many seen candidates: 0.21 to 0.26 on planted problems with
# (m, b) = (200, 16), (200, 20), (400, 24) and (2000, 25).
WALK_CORRELATION = 0.22
# Noise of a row, as `numerics.relative_noise` has it, at which half as many are found: 0.81 of all at 6.6e-5, 0.53 at
# 2.2e-4, 0.12 at 2.2e-3 with (m, b) = (160, 14).
WALK_NOISE_HALF = 2.5e-4
_LOG_STEP = 1 / 64  # of the trapezoidal rule; the error falls like exp(-pi^2 / step), far below rounding
_LOG_START = -40.0  # the integral below exp(-40) / min(p) adds less than 1e-17 of the result
_TAIL = 50.0  # the integral where every exponential is below exp(-50) adds less than 1e-20


def false_rejection_rate(zero_threshold: int, num_rows: int, zero_share: float = 0.5) -> float:
    """Probability that a true direction shows fewer than ``zero_threshold`` zeros: ``P(Bin(m, p) < t)``.

    This is SPEAR's p_fr (Sec. 4) with ``t = tau * m``; the formula is remembered, not checked against the paper.

    Args:
        zero_threshold: t, the zeros a direction must have to be kept.
        num_rows: m, the live rows on which zeros are counted.
        zero_share: p, the probability that an entry of ``dL/dZ`` is zero.
    """
    _check_model(num_rows, zero_share)
    return float(stats.binom.cdf(zero_threshold - 1, num_rows, zero_share))


def zero_threshold(target_rate: float, num_rows: int, zero_share: float = 0.5) -> int:
    """Largest number of zeros that may be asked of a direction with ``false_rejection_rate <= target_rate``.

    Args:
        target_rate: accepted probability, in (0, 1), of rejecting a true direction.
        num_rows: m, the live rows on which zeros are counted.
        zero_share: p, the probability that an entry of ``dL/dZ`` is zero.
    """
    _check_model(num_rows, zero_share)
    _check_share("target_rate", target_rate)
    rates = stats.binom.cdf(np.arange(num_rows), num_rows, zero_share)  # rates[k]: fewer than k + 1 zeros
    return int(np.searchsorted(rates, target_rate, side="right"))


def hit_probability(zero_counts: Int[np.ndarray, " b"], num_rows: int, rank: int) -> Float[np.ndarray, " b"]:
    """Probability that ``rank - 1`` distinct rows, drawn at random, are all zero in a column: per column.

    ``C(z_i, rank - 1) / C(m, rank - 1)``, exactly 0 where the column has too few zeros. A draw that fits is counted
    as a hit: the chance that its rows are linearly dependent (small from rank 10 on) is left out.

    Args:
        zero_counts: (b,) z_i, zeros of each column of ``dL/dZ`` among the rows drawn from.
        num_rows: m, the rows drawn from.
        rank: r; a submatrix has r - 1 rows.
    """
    _check_rank(rank, num_rows)
    if zero_counts.size and not 0 <= zero_counts.min() <= zero_counts.max() <= num_rows:
        raise SpearError(
            f"zero_counts reach from {zero_counts.min()} to {zero_counts.max()}; expected counts between 0 and "
            f"num_rows = {num_rows}: count zeros on the same rows that are drawn from."
        )
    reachable = zero_counts >= rank - 1
    usable = np.where(reachable, zero_counts, num_rows)
    log_hit = _log_binomial(usable, rank - 1) - _log_binomial(np.array([num_rows]), rank - 1)
    return np.where(reachable, np.exp(np.minimum(log_hit, 0.0)), 0.0)


def expected_candidates(hit_probabilities: Float[np.ndarray, " b"]) -> float:
    """Expected number of independent draws until every column was hit at least once.

    The coupon collector with unequal, mutually exclusive probabilities, by Poissonization exact for any of them:
    the integral of ``1 - prod_i (1 - exp(-p_i t))`` over t > 0, taken by the trapezoidal rule in log t. (Two columns
    exclude each other since a submatrix that is zero in both has no single null vector.) Pass the columns still
    missing to get the number still to be expected.

    Args:
        hit_probabilities: (b,) p_i in [0, 1], as from :func:`hit_probability`.

    Returns:
        The expectation: 0 for no columns, infinite where some p_i is 0 or the number is beyond float64.
    """
    _check_probabilities(hit_probabilities)
    if not hit_probabilities.size:
        return 0.0
    smallest = float(hit_probabilities.min())
    if smallest == 0:
        return float("inf")
    stop = np.log(_TAIL + np.log(hit_probabilities.size))
    log_time = np.arange(_LOG_START, stop + _LOG_STEP, _LOG_STEP)  # in units of 1 / smallest, so nothing overflows
    unfinished = -np.expm1(_log_all_hit(log_time, np.log(hit_probabilities) - np.log(smallest)))
    return float(_LOG_STEP * np.sum(np.exp(log_time) * unfinished)) / smallest


def candidate_quantile(hit_probabilities: Float[np.ndarray, " b"], quantile: float = 0.5) -> float:
    """Number of draws within which every column was hit with probability ``quantile``; the median by default.

    Draws are treated as a Poisson stream, which is exact in the limit of small probabilities (a few percent off
    where fewer than some hundred draws are needed).

    Args:
        hit_probabilities: (b,) p_i in [0, 1], as from :func:`hit_probability`.
        quantile: strictly between 0 and 1.

    Returns:
        The number of draws, at least b, as a float; 0 and infinity as for :func:`expected_candidates`.
    """
    _check_probabilities(hit_probabilities)
    _check_share("quantile", quantile)
    if not hit_probabilities.size:
        return 0.0
    smallest = float(hit_probabilities.min())
    if smallest == 0:
        return float("inf")
    log_ratios = np.log(hit_probabilities) - np.log(smallest)
    # The rarest column alone needs at least `low`; b columns as rare as it would need `high`.
    low = np.log(-np.log1p(-quantile))
    high = np.log(-np.log(-np.expm1(np.log(quantile) / hit_probabilities.size)))
    excess = lambda log_time: float(_log_all_hit(np.array([log_time]), log_ratios)[0] - np.log(quantile))
    log_time = optimize.root_scalar(excess, bracket=(low - 1e-6, high + 1e-6), xtol=1e-12).root
    return max(float(np.exp(log_time)) / smallest, float(hit_probabilities.size))


def planned_zero_counts(rank: int, num_rows: int, zero_share: float = 0.5) -> Int[np.ndarray, " b"]:
    """Typical zero counts of ``rank`` columns, sorted, before anything is known of them.

    Quantiles of ``Bin(m, p)`` at ``(i - 0.3) / (rank + 0.4)``, the median ranks of an ordered sample (Benard).
    """
    _check_model(num_rows, zero_share)
    _check_rank(rank, num_rows)
    median_ranks = (np.arange(1, rank + 1) - 0.3) / (rank + 0.4)
    return stats.binom.ppf(median_ranks, num_rows, zero_share).astype(np.int64)


def planned_candidates(rank: int, num_rows: int, zero_share: float = 0.5, quantile: float | None = None) -> float:
    """Draws that a search should plan for before anything is known: typical zero counts put into the exact model.

    Deliberately not the expectation over random zero counts, which is infinite (a column may have too few zeros) and
    heavy tailed where it is cut off. A real batch spreads around the figure by a factor of about 3 at (200, 20).

    Args:
        rank: r, the columns to be found, and one more than the rows of a submatrix.
        num_rows: m, the rows drawn from.
        zero_share: p, the probability that an entry of ``dL/dZ`` is zero.
        quantile: None for the expected number of draws, else the quantile of it (0.5: the median).
    """
    probabilities = hit_probability(planned_zero_counts(rank, num_rows, zero_share), num_rows, rank)
    return expected_candidates(probabilities) if quantile is None else candidate_quantile(probabilities, quantile)


def walk_threshold_rate(threshold: int, rank: int, num_rows: int, zero_share: float = 0.5) -> float:
    """Probability that a pair of columns of a pivot walk that is a true candidate agrees in too few tested rows.

    Given that the candidate's rank - 1 rows are zero in a column, each further row is with probability
    ``(z - rank + 1) / (m - rank + 1)``, z = p m. Where the entering row is among the `TESTED_ROWS` it tells nothing.
    """
    further = _zero_share_beyond(rank, num_rows, zero_share)
    entering = TESTED_ROWS / CHECK_ROWS
    rate = lambda tested: float(stats.binom.cdf(threshold - 1, tested, further))
    return entering * rate(TESTED_ROWS - 1) + (1 - entering) * rate(TESTED_ROWS)


def walk_efficiency(
    threshold: int, rank: int, num_rows: int, zero_share: float = 0.5, relative_noise: float = 0.0
) -> float:
    """Independent draws that a candidate of a pivot walk is worth.

    A candidate is seen only if the two rows that it leaves out are not zero in its column, or the basis would be
    singular, and if enough tested rows agree. The rest is measured: `WALK_CORRELATION`, as successive bases share rows,
    so that hits come in clusters, and float32 loses some; and what noise of the rows loses, half at `WALK_NOISE_HALF`.
    """
    not_zero = 1 - _zero_share_beyond(rank, num_rows, zero_share)
    seen = 1 - walk_threshold_rate(threshold, rank, num_rows, zero_share)
    return WALK_CORRELATION * not_zero**2 * seen / (1 + relative_noise / WALK_NOISE_HALF)


def _zero_share_beyond(rank: int, num_rows: int, zero_share: float) -> float:
    """Probability that a row is zero in a column in which rank - 1 others are."""
    _check_model(num_rows, zero_share)
    _check_rank(rank, num_rows)
    return max(zero_share * num_rows - rank + 1, 0) / (num_rows - rank + 1)


def failure_probability_bound(
    rank: int, num_rows: int, zero_share: float = 0.5, false_rejection: float = 1e-5
) -> float:
    """Union bound on the probability that an unlimited search misses a direction, capped at 1.

    ``r * P(Bin(m, p) < r - 1)``, some column has too few zeros to be reachable, plus ``r * false_rejection``, the
    filter turns some true direction away. Left out: zero rows that are too many but linearly dependent, and wrong
    directions that survive the filter; so it bounds these two causes only. (The paper has a bound of this kind in
    its Fig. 3; its formula was not available.)

    Args:
        rank: r, the number of columns.
        num_rows: m, the live rows.
        zero_share: p, the probability that an entry of ``dL/dZ`` is zero.
        false_rejection: rejection probability per true direction that the threshold was chosen for.
    """
    _check_model(num_rows, zero_share)
    _check_rank(rank, num_rows)
    unreachable = false_rejection_rate(rank - 1, num_rows, zero_share)
    return min(1.0, rank * (unreachable + false_rejection))


def _log_all_hit(log_time: Float[np.ndarray, " k"], log_rates: Float[np.ndarray, " b"]) -> Float[np.ndarray, " k"]:
    """``sum_i log(1 - exp(-exp(log_rate_i + log_time)))``: log-probability that all Poisson clocks have rung."""
    # exp(-exp(7)) is already 0 in float64; the cut only keeps exp from overflowing.
    expected_hits = np.exp(np.minimum(log_rates[None, :] + log_time[:, None], 7.0))
    return np.log(-np.expm1(-expected_hits)).sum(axis=1)


def _log_binomial(n: np.ndarray, k: int) -> np.ndarray:
    return special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)


def _check_model(num_rows: int, zero_share: float) -> None:
    if num_rows < 1:
        raise SpearError(f"num_rows is {num_rows}; expected the number of live rows, at least 1.")
    _check_share("zero_share", zero_share)


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise SpearError(f"{name} is {value!r}; expected a number strictly between 0 and 1.")


def _check_rank(rank: int, num_rows: int) -> None:
    if not 1 <= rank <= num_rows:
        raise SpearError(f"rank is {rank}; expected between 1 and num_rows = {num_rows}, the rows drawn from.")


def _check_probabilities(hit_probabilities: np.ndarray) -> None:
    if hit_probabilities.size and not (hit_probabilities.min() >= 0 and hit_probabilities.max() <= 1):
        raise SpearError("hit_probabilities must lie in [0, 1] and hold no NaN; take them from hit_probability.")
