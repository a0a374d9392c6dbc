"""The scores of tables, planted copies and the way through the second layer; visible samples of a trained network."""

import numpy as np
import pytest

import spear_jax as sj
from experiments.claims import adult, trained
from spear_jax.client.batch import Column
from tests.helpers.networks import simulate

COLUMNS = (
    Column("age", "numeric", 0, mean=40.0, std=10.0),
    Column("sex", "categorical", 1, categories=("F", "M")),
    Column("race", "categorical", 3, categories=("a", "b", "c")),
    Column("gain", "numeric", 6, std=100.0),
)
TRUTH = np.array([[0.5, 1, 0, 0, 1, 0, -1.0], [1.0, 0, 1, 0, 0, 1, 2.0], [0.0, 0, 1, 1, 0, 0, 0.0]])
MATCHED = np.array([0, 1, 2])


def test_a_perfect_table_scores_one_and_zero():
    assert adult.table_scores(TRUTH, TRUTH, COLUMNS, MATCHED) == (1.0, 0.0, 0.0)


def test_scores_of_a_table_worked_by_hand():
    found = TRUTH.copy()
    found[0, 1:3] = 0.4, 0.6  # one wrong category of six
    found[1, 0] += 0.3  # 3 years
    found[2, 6] -= 0.6  # 60 in gain
    scores = adult.table_scores(found, TRUTH, COLUMNS, MATCHED)
    np.testing.assert_allclose(scores, (5 / 6, 0.9 / 6, 63 / 6))


def test_a_small_error_in_a_one_hot_group_is_none_and_order_does_not_matter():
    found = TRUTH + np.random.default_rng(0).uniform(-0.3, 0.3, TRUTH.shape) * np.array([0, 1, 1, 1, 1, 1, 0])
    assert adult.table_scores(found, TRUTH, COLUMNS, MATCHED)[0] == 1.0
    order = np.array([2, 0, 1])
    assert adult.table_scores(found[order], TRUTH, COLUMNS, np.argsort(order)) == adult.table_scores(
        found, TRUTH, COLUMNS, MATCHED
    )


def test_rows_without_a_partner_are_wrong_in_every_category():
    scores = adult.table_scores(TRUTH, TRUTH, COLUMNS, np.array([0, -1, 2]))
    assert scores == (pytest.approx(2 / 3), 0.0, 0.0)
    assert adult.table_scores(TRUTH, TRUTH, COLUMNS, np.full(3, -1)) == (0.0, None, None)


def test_repeated_rows_are_equal_and_every_second_has_the_other_label():
    inputs, labels = np.random.default_rng(0).normal(size=(8, 3)), np.array([0, 0, 1, 1, 0, 0, 0, 0])
    batch = sj.Batch(inputs, labels, None, tuple("abcdefgh"), None, None, 2)
    repeated = adult.repeat_rows(batch, 4)
    np.testing.assert_array_equal(repeated.inputs[4:], inputs[:4])
    np.testing.assert_array_equal(repeated.labels[4:], [0, 1, 1, 0])
    np.testing.assert_array_equal(adult.repeat_rows(batch, 0).labels, labels)


def test_rows_come_back_through_the_second_layer_and_wrong_ones_lose_their_certificate():
    batch = simulate(4, 120, in_features=20)
    weight, bias = np.asarray(batch.observation.weight), np.asarray(batch.observation.bias)
    hidden = np.maximum(batch.inputs @ weight.T + bias, 0)
    hidden[3] = np.nan
    certified = np.array([True, False, True, True])
    inputs, agrees = adult.through_first_layer(batch.observation, hidden, certified)
    np.testing.assert_allclose(inputs[:3], batch.inputs[:3], atol=1e-10)
    assert np.isnan(inputs[3]).all()
    np.testing.assert_array_equal(agrees[:3], certified[:3])
    mixed = hidden[[0, 1]] + 0.1 * hidden[[1, 0]]
    assert not adult.through_first_layer(batch.observation, mixed, np.ones(2, bool))[1].any()


def test_visible_samples_are_those_above_the_floor():
    batch = simulate(5, 60, in_features=20)
    truth = sj.Truth(
        layer_inputs={"a": batch.inputs}, grad_z={"a": batch.grad_z}, labels=batch.labels, names=tuple("abcde"),
        images=None, normalization=None, image_shape=None, columns=(),
    )  # fmt: skip
    # One sample's part of the gradient is an outer product: its only singular value is the size.
    sizes = [np.linalg.norm(np.outer(batch.grad_z[:, i], batch.inputs[i]), 2) for i in range(5)]
    np.testing.assert_allclose(trained.gradient_sizes(truth, "a"), sizes)
    floor = float(np.median(sizes))
    assert trained.is_visible(truth, "a", floor).sum() == 2
