"""The theory claim: its oracles against tables and closed forms, its trials on planted layers."""

import json

import numpy as np
import pytest
from scipy import stats

from experiments.claims import theory
from experiments.cost import cost, failure, threshold
from experiments.cost.real_layer import layer_of
from spear_jax import testing
from spear_jax.attacks.dense.sampling import cost as planning

SIGMAS = 5.0


def planted_layer(seed, batch_size=8, m=96, n=64):
    problem = testing.planted_problem(batch_size, m, n, seed=seed)
    return layer_of(problem.observation, problem.grad_z)


@pytest.fixture
def photos(tmp_path):
    """A folder with a small image file in the form of the data pack's."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (320, 8, 8, 3), dtype=np.uint8), np.arange(320, dtype=np.int32)
    np.savez(tmp_path / theory.IMAGES, images=images, labels=labels)
    return tmp_path


@pytest.mark.parametrize("width", sorted(cost.MEDIANS))
def test_simulated_searches_reproduce_the_table_of_medians(width):
    for b, median in cost.MEDIANS[width].items():
        simulated = np.median(cost.simulated_needed(b, width, 4000, seed=1))
        assert simulated == pytest.approx(median, rel=0.15)
        assert np.median(cost.simulated_needed(b, 100, 4000, seed=1)) > 1.5 * median


def test_a_column_out_of_reach_is_never_found():
    assert np.isinf(cost.simulated_needed(10, 18, 200, seed=0)).any()


@pytest.mark.parametrize(("b", "expected"), [(5, 37), (10, 1.5e3), (20, 1.9e6), (30, 2.1e9)])
def test_wide_layers_cost_what_the_idealised_model_says(b, expected):
    assert cost.wide_layer(b) == pytest.approx(expected, rel=0.05)
    assert planning.planned_candidates(b, 10**8) == pytest.approx(cost.wide_layer(b), rel=0.01)
    assert planning.planned_candidates(b, 400) > cost.wide_layer(b)


@pytest.mark.slow
def test_searches_of_planted_layers_end_where_their_own_zero_counts_say(monkeypatch):
    monkeypatch.setattr(cost, "real_layer", lambda path, b, width, seed: planted_layer(seed))
    setting = {"batch_size": 8, "width": 96, "sampler": "flat"}
    seeds = [seed for seed in range(12) if len(planted_layer(seed).live_rows) == 96][:5]  # one shape, one compilation
    outcomes = [cost.trial(setting | {"seed": seed}, None) for seed in seeds]
    assert all(outcome["found"] == 8 and outcome["needed"] >= 4 for outcome in outcomes)
    chances = np.array([outcome["chance"] for outcome in outcomes])
    assert stats.kstest(chances, "uniform").pvalue > 1e-3
    # Twenty times as many would all lie at the end of the distribution.
    late = [
        cost_chance(planted_layer(seed), 20 * outcome["needed"]) for seed, outcome in zip(seeds, outcomes, strict=True)
    ]
    assert stats.kstest(late, "uniform").pvalue < 1e-3


def cost_chance(layer, draws):
    """Probability that all columns were hit within so many draws, column by column."""
    return float(np.prod([1 - (1 - p) ** draws for p in layer.hit_probabilities]))


def test_directions_are_known_whatever_their_sign_and_order_and_not_when_near():
    layer = planted_layer(3)
    truth = layer.directions.T
    assert layer.is_among(-truth[::-1]).all()
    assert layer.is_among(truth[:3]).tolist() == [True] * 3 + [False] * 5
    near = truth + 0.01 * truth[::-1]
    assert not layer.is_among(near / np.linalg.norm(near, axis=1, keepdims=True)).any()
    assert not layer.is_among(np.zeros((0, 8))).any()


def dense_enough(rng, m=30, b=5):
    """A gradient whose columns are zero on every other row, shifted by column."""
    grad_z = rng.standard_normal((m, b))
    grad_z[(np.arange(m)[:, None] // (1 + np.arange(b)[None])) % 2 == 0] = 0
    return grad_z


def test_columns_out_of_reach_by_few_zeros_and_by_dependence():
    rng = np.random.default_rng(0)
    reachable = dense_enough(rng)
    assert not failure.has_unreachable_column(reachable)
    few = reachable.copy()
    few[np.flatnonzero(few[:, 2] == 0)[3:], 2] = 1.0
    assert failure.has_unreachable_column(few)
    nested = reachable.copy()
    nested[nested[:, 0] == 0, 1] = 0  # where sample 0 is off sample 1 is off too: rank b - 2 at most
    assert (nested == 0).sum(axis=0).min() >= 10
    assert failure.has_unreachable_column(nested)


def test_reach_does_not_depend_on_order_or_scale():
    rng = np.random.default_rng(1)
    for _ in range(40):
        grad_z = rng.standard_normal((14, 5)) * (rng.random((14, 5)) < 0.5)
        moved = grad_z[rng.permutation(14)][:, rng.permutation(5)] * rng.uniform(0.5, 2, 5)[None]
        assert failure.has_unreachable_column(moved) == failure.has_unreachable_column(grad_z)


def test_counts_of_independent_masks_fit_the_closed_form_and_not_that_of_another_width():
    setting = {"batch_size": 10, "width": 28, "masks": "independent", "trials": 1500, "seed": 1}
    counts = failure.trial(setting, None)
    # Off a live row or two, which the closed form does not know of: below the resolution of these trials.
    margin = lambda m: abs(counts["too_few"] / 1500 - failure.approximation(10, m)) / np.sqrt(0.15 * 0.85 / 1500)
    assert margin(28) < SIGMAS < margin(24)
    assert counts["too_few"] <= counts["unreachable"] <= 1500
    assert counts["too_few"] <= counts["filtered"]
    assert failure.approximation(10, 28) < planning.failure_probability_bound(10, 28)


def test_masks_of_photos_are_off_half_of_the_time(photos):
    masks = failure.photo_masks(photos / theory.IMAGES, seed=0)
    assert masks.shape == (failure.NEURONS, failure.IMAGES)
    assert 0.45 < masks.mean() < 0.55
    drawn = failure.drawn_mask(masks, np.random.default_rng(0), 30, 6)
    assert drawn.shape == (30, 6)


def test_columns_below_and_mixtures_above_a_threshold_are_counted():
    lines = [{"columns": [100, 69, 70], "pairs": [70, 50]}, {"columns": [68], "pairs": [90]}]
    assert threshold.passing(lines, 70) == ((2, 4), (2, 3))


def test_a_quick_run_is_a_part_of_the_full_one_and_settings_are_json():
    full, quick = theory.settings(False), theory.settings(True)
    assert all(setting in full for setting in quick)
    assert 10 < len(quick) < len(full) == len({json.dumps(setting, sort_keys=True) for setting in full})
    assert json.loads(json.dumps(full)) == full
    assert all("seed" in setting for setting in full)


@pytest.mark.slow
def test_trials_give_lines_that_findings_and_plots_are_made_of(photos, tmp_path):
    settings = [
        {"part": "cost", "batch_size": 5, "width": 200, "sampler": "flat", "seed": 700},
        {"part": "failure", "batch_size": 5, "width": 15, "masks": "photos", "trials": 20, "seed": 700},
        {"part": "threshold", "batch_size": 20, "width": 200, "layer": 0, "seed": 700},
    ]
    lines = [{"setting": setting} | theory.trial(setting, str(photos)) for setting in settings]
    lines = json.loads(json.dumps(lines))
    told = theory.findings(lines)
    assert len(told) == 3
    assert "1 of 1 found all" in told[0].measured
    assert "of 20 and" in told[2].measured
    theory.draw(lines, tmp_path)
    assert (tmp_path / "theory.png").stat().st_size > 10_000


def test_nothing_is_run_without_data(tmp_path):
    assert theory.trial(theory.settings(True)[0], str(tmp_path)) is None
