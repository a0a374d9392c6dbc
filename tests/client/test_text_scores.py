"""ROUGE and exact matches by hand, and what a score must not depend on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spear_jax.client.text_scores import rouge, score_texts
from spear_jax.errors import SpearError


@pytest.mark.parametrize(
    ("found", "true", "order", "expected"),
    [
        ("the cat sat", "the cat sat", 1, 1),
        ("the cat sat", "the cat sat", 2, 1),
        # Two of three words and of four: precision 2/3, recall 2/4.
        ("the cat ran", "the cat sat down", 1, 4 / 7),
        # One pair of two and of three.
        ("the cat ran", "the cat sat down", 2, 2 / 5),
        # A word that came back three times counts as often as it is there.
        ("the the the", "the cat the dog", 1, 4 / 7),
        # The order of words is seen by pairs alone.
        ("sat cat the", "the cat sat", 1, 1),
        ("sat cat the", "the cat sat", 2, 0),
        ("a b", "c d", 1, 0),
        ("a", "a", 2, 0),
        ("", "", 1, 0),
    ],
)
def test_rouge_by_hand(found, true, order, expected):
    assert rouge(found.split(), true.split(), order) == pytest.approx(expected, rel=1e-15)


def test_sequences_are_matched_in_any_order_and_exact_ones_first():
    truth = [np.array([1, 2, 3]), np.array([4, 5, 6, 7]), np.array([8, 9])]
    scores = score_texts([[8, 9], [4, 5, 6], [1, 2, 3]], truth)
    np.testing.assert_array_equal(scores.assignment, [2, 1, 0])
    np.testing.assert_array_equal(scores.exact, [True, False, True])
    np.testing.assert_allclose(scores.rouge_1, [1, 6 / 7, 1])
    np.testing.assert_allclose(scores.rouge_2, [1, 4 / 5, 1])
    assert (scores.num_exact, scores.tokens_found, scores.num_tokens) == (2, 8, 9)
    assert scores.summary == "2 of 3 sequences exact, ROUGE-1 95.2, ROUGE-2 93.3, 8 of 9 tokens found."


def test_the_same_words_with_the_same_pairs_are_not_the_same_sequence():
    """1 2 1 3 1 2 and 1 3 1 2 1 2: equal words, and pairs 12 twice, 21, 13, 31."""
    scores = score_texts([[1, 2, 1, 3, 1, 2], [1, 3, 1, 2, 1, 2]], [[1, 3, 1, 2, 1, 2], [1, 2, 1, 3, 1, 2]])
    np.testing.assert_array_equal(scores.assignment, [1, 0])
    assert scores.num_exact == 2


def test_copies_count_as_often_as_they_are_there():
    assert score_texts([[1, 2]], [[1, 2], [1, 2]]).num_exact == 1
    assert score_texts([[1, 2]] * 3, [[1, 2], [1, 2]]).num_exact == 2


def test_what_was_not_recovered_scores_zero():
    scores = score_texts([], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(scores.assignment, [-1, -1])
    assert (scores.rouge_1.sum(), scores.rouge_2.sum(), scores.num_exact, scores.tokens_found) == (0, 0, 0, 0)


def test_a_wrong_reconstruction_scores_low_and_more_of_them_change_nothing():
    truth = [[1, 2, 3], [4, 5, 6]]
    assert score_texts([[7, 8, 9], [7, 7, 7]], truth).rouge_1.max() == 0
    assert score_texts([[7, 8], *truth, [1, 3, 2]], truth).num_exact == 2


def test_certificates_of_what_is_not_in_the_batch_are_false():
    found, truth = [[1, 2], [1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4], [7, 8]]
    scores = score_texts(found, truth, certified=[True, True, True, False])
    assert scores.false_certificates == 1
    assert score_texts(found, truth, certified=np.ones(4, bool)).false_certificates == 2
    assert "1 false certificates" in scores.summary


def test_scores_are_valid_json():
    record = json.loads(json.dumps(score_texts([[1, 2]], [[1, 2], [3]]).to_json(), allow_nan=False))
    assert record["exact"] == [True, False]
    assert record["mean_rouge_1"] == 0.5


def test_words_serve_as_well_as_tokens():
    assert score_texts([["my", "pin"]], [["my", "pin"]]).num_exact == 1


def test_nothing_to_compare_with_is_refused():
    with pytest.raises(SpearError, match="no sequence"):
        score_texts([[1]], [])
    with pytest.raises(SpearError, match="1 certificates for 2 sequences"):
        score_texts([[1], [2]], [[1]], certified=[True])
