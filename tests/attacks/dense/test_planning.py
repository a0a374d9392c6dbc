"""Planning against exact fractions, hand-worked cases, the published-size tables and simulation."""

from fractions import Fraction
from itertools import combinations
from math import comb, inf, log, sqrt

import numpy as np
import pytest

from spear_jax.attacks.dense.sampling import cost

SIGMAS = 5.0  # margin of every simulated frequency or mean, in standard errors

# Medians of the exact hypergeometric model over random zero counts and draws, zero share 1/2, two digits.
MEDIAN_CANDIDATES = {
    10: {200: 2.4e3, 400: 1.8e3, 1000: 1.5e3, 2000: 1.4e3, 5000: 1.4e3},
    15: {200: 2.1e5, 400: 1.0e5, 1000: 7.0e4, 2000: 5.9e4, 5000: 5.5e4},
    20: {200: 2.7e7, 400: 6.6e6, 1000: 3.2e6, 2000: 2.4e6, 5000: 2.0e6},
    25: {200: 4.1e9, 400: 5.1e8, 1000: 1.6e8, 2000: 1.0e8, 5000: 7.3e7},
    30: {200: 9.5e11, 400: 4.8e10, 1000: 7.8e9, 2000: 4.2e9, 5000: 2.8e9},
}


def share_margin(hits, num_trials, probability):
    """|k/N - p| in standard errors of k ~ Bin(N, p)."""
    return abs(hits / num_trials - probability) / sqrt(probability * (1 - probability) / num_trials)


def collector_by_inclusion_exclusion(probabilities):
    """E[draws] = sum over non-empty S of (-1)^(|S|+1) / p(S), in exact fractions."""
    exact = [Fraction(p) for p in probabilities]
    return float(
        sum(
            Fraction((-1) ** (size + 1)) / sum(subset)
            for size in range(1, len(exact) + 1)
            for subset in combinations(exact, size)
        )
    )


def simulated_draws(rng, probabilities, num_trials):
    """Draw one category at a time until every column was hit; returns the number of draws of each trial."""
    edges = np.append(np.cumsum(probabilities), 1.0)
    seen = np.zeros((num_trials, len(edges)), dtype=bool)
    seen[:, -1] = True  # the draws that hit nothing
    draws = np.zeros(num_trials, dtype=int)
    while not seen.all():
        waiting = np.flatnonzero(~seen.all(axis=1))
        seen[waiting, np.searchsorted(edges[:-1], rng.random(waiting.size), side="right")] = True
        draws[waiting] += 1
    return draws


def test_false_rejection_rate_is_the_binomial_tail_in_exact_fractions():
    for threshold, num_rows in [(3, 10), (70, 200), (0, 7), (7, 7), (8, 7)]:
        exact = Fraction(sum(comb(num_rows, i) for i in range(min(threshold, num_rows + 1))), 2**num_rows)
        assert cost.false_rejection_rate(threshold, num_rows) == pytest.approx(float(exact), rel=1e-10)


def test_false_rejection_rate_fits_simulated_columns_and_its_neighbour_does_not():
    num_trials = 200_000
    zeros = np.random.default_rng(1).binomial(40, 0.6, num_trials)
    rejected = int(np.sum(zeros < 20))
    assert share_margin(rejected, num_trials, cost.false_rejection_rate(20, 40, 0.6)) < SIGMAS
    assert share_margin(rejected, num_trials, cost.false_rejection_rate(21, 40, 0.6)) > 5 * SIGMAS


@pytest.mark.parametrize(
    ("num_rows", "tau_5", "tau_9"),
    [(200, 0.350, 0.290), (400, 0.395, 0.350), (1000, 0.433, 0.405), (2000, 0.4525, 0.433)],
)
def test_zero_threshold_matches_the_tabulated_shares(num_rows, tau_5, tau_9):
    # The table is rounded to three digits, so it may sit half a row off.
    for target, tau in ((1e-5, tau_5), (1e-9, tau_9)):
        assert cost.zero_threshold(target, num_rows) == pytest.approx(tau * num_rows, abs=0.0005 * num_rows + 0.5)


@pytest.mark.parametrize("zero_share", [0.2, 0.5, 0.7])
@pytest.mark.parametrize("num_rows", [1, 5, 64, 200, 5000])
@pytest.mark.parametrize("target", [0.3, 1e-5, 1e-60])
def test_zero_threshold_is_the_largest_that_keeps_the_rate(num_rows, zero_share, target):
    threshold = cost.zero_threshold(target, num_rows, zero_share)
    assert cost.false_rejection_rate(threshold, num_rows, zero_share) <= target
    assert cost.false_rejection_rate(threshold + 1, num_rows, zero_share) > target


def test_zero_threshold_accepts_a_rate_met_exactly():
    assert cost.zero_threshold(0.5, 1) == 1  # P(Bin(1, 1/2) < 1) = 1/2 exactly
    assert cost.zero_threshold(np.nextafter(0.5, 0), 1) == 0


def test_hit_probability_is_the_hypergeometric_share_in_exact_fractions():
    zero_counts = np.array([0, 3, 4, 5, 9, 10])
    exact = [comb(z, 4) / comb(10, 4) for z in zero_counts.tolist()]
    np.testing.assert_allclose(cost.hit_probability(zero_counts, 10, 5), exact, rtol=1e-12)
    assert cost.hit_probability(zero_counts, 10, 5)[:2].tolist() == [0.0, 0.0]


def test_hit_probability_stays_accurate_for_large_layers():
    exact = float(Fraction(comb(2431, 399), comb(5000, 399)))
    assert cost.hit_probability(np.array([2431]), 5000, 400)[0] == pytest.approx(exact, rel=1e-9)
    assert 0 < exact < 1e-100


def test_hit_probability_fits_rows_drawn_without_replacement_and_not_with():
    num_trials, num_rows, rank = 100_000, 20, 5
    rng = np.random.default_rng(2)
    is_zero = np.arange(num_rows) < 11
    rows = np.argsort(rng.random((num_trials, num_rows)), axis=1)[:, : rank - 1]
    hits = int(is_zero[rows].all(axis=1).sum())
    assert share_margin(hits, num_trials, cost.hit_probability(np.array([11]), num_rows, rank)[0]) < SIGMAS
    assert share_margin(hits, num_trials, (11 / 20) ** (rank - 1)) > 5 * SIGMAS


def test_a_single_direction_is_hit_by_every_draw():
    assert cost.hit_probability(np.array([0, 7]), 7, 1).tolist() == [1.0, 1.0]
    assert cost.expected_candidates(np.ones(1)) == pytest.approx(1.0, rel=1e-12)
    assert cost.candidate_quantile(np.ones(1), 0.5) == 1.0


def test_expected_candidates_of_equal_columns_is_the_coupon_collector():
    # 4 equal coupons at 1/8: 8 * (1 + 1/2 + 1/3 + 1/4) * ... = (b / p_any) H_b = (4 / 0.5) * 25/12.
    assert cost.expected_candidates(np.full(4, 1 / 8)) == pytest.approx(8 * 25 / 12, rel=1e-12)
    harmonic = sum(1 / i for i in range(1, 401))
    assert cost.expected_candidates(np.full(400, 1e-120)) == pytest.approx(1e120 * harmonic, rel=1e-10)


@pytest.mark.parametrize(
    "probabilities",
    [
        (0.5, 0.5),
        (1e-9, 1e-3, 0.2),
        (1e-300, 0.1),
        (1e-6, 1.1e-6, 1e-2, 0.3, 0.3),
        tuple(0.4 / 3.0**i for i in range(9)),
    ],
)
def test_expected_candidates_equals_inclusion_exclusion(probabilities):
    exact = collector_by_inclusion_exclusion(probabilities)
    assert cost.expected_candidates(np.array(probabilities)) == pytest.approx(exact, rel=1e-9)


def test_expected_candidates_fits_a_simulated_search_and_the_equal_probability_formula_does_not():
    probabilities = np.array([0.004, 0.01, 0.02, 0.05, 0.05])
    draws = simulated_draws(np.random.default_rng(3), probabilities, 4000)
    margin = SIGMAS * draws.std() / sqrt(draws.size)
    assert draws.mean() == pytest.approx(cost.expected_candidates(probabilities), abs=margin)
    equal = 5 / probabilities.sum() * sum(1 / i for i in range(1, 6))
    assert abs(draws.mean() - equal) > 5 * margin


def test_expected_candidates_of_the_missing_columns_shrinks_as_columns_are_found():
    probabilities = np.array([1e-4, 1e-3, 1e-2])
    expected = [cost.expected_candidates(probabilities[:k]) for k in (3, 2, 1, 0)]
    assert expected == sorted(expected, reverse=True)
    assert expected[2] == pytest.approx(1e4, rel=1e-12)
    assert expected[3] == 0.0


def test_an_unreachable_column_makes_the_search_endless():
    probabilities = cost.hit_probability(np.array([3, 60]), 100, 5)
    assert cost.expected_candidates(probabilities) == inf
    assert cost.candidate_quantile(probabilities, 0.9) == inf


def test_candidate_quantile_of_one_rare_column_is_geometric():
    for quantile in (0.1, 0.5, 0.99):
        exact = -log(1 - quantile) / 1e-9
        assert cost.candidate_quantile(np.array([1e-9]), quantile) == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_candidate_quantile_splits_simulated_searches_in_that_proportion(quantile):
    probabilities = np.array([0.002, 0.004, 0.01, 0.03, 0.05])
    draws = simulated_draws(np.random.default_rng(4), probabilities, 4000)
    below = int(np.sum(draws <= cost.candidate_quantile(probabilities, quantile)))
    assert share_margin(below, draws.size, quantile) < SIGMAS
    wrong = int(np.sum(draws <= 1.5 * cost.candidate_quantile(probabilities, quantile)))
    assert share_margin(wrong, draws.size, quantile) > SIGMAS


@pytest.mark.parametrize("rank", sorted(MEDIAN_CANDIDATES))
def test_planned_candidates_reproduces_the_table_of_medians(rank):
    # Measured: 0.89 to 1.07 times the tabulated median.
    for num_rows, median in MEDIAN_CANDIDATES[rank].items():
        planned = cost.planned_candidates(rank, num_rows, quantile=0.5)
        assert planned == pytest.approx(median, rel=0.15), num_rows


def test_planned_candidates_fits_the_median_of_simulated_batches_off_one_half():
    rng = np.random.default_rng(5)
    zero_counts = rng.binomial(300, 0.6, (2000, 12))
    probabilities = cost.hit_probability(zero_counts.ravel(), 300, 12).reshape(zero_counts.shape)
    draws = (rng.exponential(size=probabilities.shape) / probabilities).max(axis=1)
    assert cost.planned_candidates(12, 300, 0.6, quantile=0.5) == pytest.approx(np.median(draws), rel=0.15)
    assert cost.planned_candidates(12, 300, 0.5, quantile=0.5) > 3 * np.median(draws)


def test_planned_candidates_grows_with_rank_and_falls_with_width():
    assert cost.planned_candidates(12, 400) > cost.planned_candidates(11, 400)
    assert cost.planned_candidates(20, 400) > cost.planned_candidates(20, 500)
    assert cost.planned_candidates(20, 400) > cost.planned_candidates(20, 400, quantile=0.5)


def test_large_layers_neither_overflow_nor_warn():
    assert 1e120 < cost.planned_candidates(400, 5000) < inf
    assert cost.planned_candidates(1000, 5000) == inf  # more than float64 can say


@pytest.mark.parametrize(
    ("rank", "num_rows", "per_column"), [(25, 100, 2.8e-8), (50, 200, 4e-14), (65, 200, 9e-8), (150, 1000, 5e-121)]
)
def test_failure_probability_bound_matches_the_tabulated_tails(rank, num_rows, per_column):
    bound = cost.failure_probability_bound(rank, num_rows, false_rejection=1e-200)
    assert bound == pytest.approx(rank * per_column, rel=0.15)


def test_failure_probability_bound_holds_and_is_not_far_off_in_simulation():
    rank, num_rows, num_trials = 5, 16, 100_000
    threshold = cost.zero_threshold(0.02, num_rows)
    rate = cost.false_rejection_rate(threshold, num_rows)
    bound = cost.failure_probability_bound(rank, num_rows, false_rejection=rate)
    zeros = np.random.default_rng(6).binomial(num_rows, 0.5, (num_trials, rank))
    failed = np.mean(((zeros < rank - 1) | (zeros < threshold)).any(axis=1))
    assert 0.03 < failed <= bound < 3 * failed


def test_failure_probability_bound_is_a_probability():
    assert cost.failure_probability_bound(60, 64) == 1.0


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: cost.false_rejection_rate(3, 0), "num_rows"),
        (lambda: cost.zero_threshold(0.0, 10), "target_rate"),
        (lambda: cost.zero_threshold(1e-5, 10, 1.0), "zero_share"),
        (lambda: cost.hit_probability(np.array([11]), 10, 3), "zero_counts"),
        (lambda: cost.hit_probability(np.array([5]), 10, 11), "rank"),
        (lambda: cost.expected_candidates(np.array([0.5, np.nan])), "hit_probabilities"),
        (lambda: cost.candidate_quantile(np.array([0.5]), 1.0), "quantile"),
        (lambda: cost.planned_candidates(0, 10), "rank"),
    ],
)
def test_bad_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
