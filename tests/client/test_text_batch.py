"""Batches of token sequences: the arrays of the loss by hand, what no model takes, and text files."""

from __future__ import annotations

import numpy as np
import pytest

from spear_jax.client.random_model import tiny_gpt2, tiny_llama
from spear_jax.client.text_batch import TextBatch, arrays, draw_texts, read_texts
from spear_jax.errors import DataError

NEXT_TOKEN = TextBatch((np.array([5, 6, 7]), np.array([8, 9])))
CLASSES = TextBatch(NEXT_TOKEN.sequences, np.array([1, 0]))


class Letters:
    """A tokenizer of letters, for files."""

    def encode(self, text):
        return [ord(letter) for letter in text]


@pytest.mark.parametrize(
    ("reduction", "first", "second"), [("tokens", 1 / 3, 1 / 3), ("sequences", 1 / 4, 1 / 2), ("sum", 1, 1)]
)
def test_every_token_but_the_first_of_a_sequence_is_predicted(reduction, first, second):
    tokens, targets, weights = arrays(NEXT_TOKEN, tiny_llama(), reduction)
    np.testing.assert_array_equal(tokens, [[5, 6, 7], [8, 9, 0]])
    np.testing.assert_array_equal(targets, [[6, 7, 0], [9, 0, 0]])
    np.testing.assert_allclose(weights, [[first, first, 0], [second, 0, 0]], rtol=1e-15)


@pytest.mark.parametrize(("reduction", "weight"), [("tokens", 1 / 2), ("sequences", 1 / 2), ("sum", 1)])
def test_a_class_is_read_off_the_last_token(reduction, weight):
    _, targets, weights = arrays(CLASSES, tiny_gpt2(classes=2), reduction)
    np.testing.assert_array_equal(targets, [[0, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(weights, [[0, 0, weight], [0, weight, 0]])


@pytest.mark.parametrize(
    ("sequences", "labels", "sentence"),
    [
        ((), None, "no sequence"),
        (([5],), None, "sequence 1 has 1 tokens; expected 2 to 128"),
        (([5, 6], [7] * 129), None, "sequence 2 has 129 tokens"),
        (([5, 1024],), None, "run from 5 to 1024, but the model has 1024"),
        (([-1, 6],), None, "run from -1 to 6"),
        (([1.5, 6.0],), None, "float64"),
        (([5, 6],), [0], "predicts the next token"),
    ],
)
def test_what_a_next_token_model_does_not_take_is_said_in_a_sentence(sequences, labels, sentence):
    batch = TextBatch(tuple(map(np.array, sequences)), None if labels is None else np.array(labels))
    with pytest.raises(DataError, match=sentence):
        arrays(batch, tiny_llama())


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [(None, "no labels"), ([0], "expected one for each of 2"), ([0, 2], "0 to 2, but the model has 2 classes")],
)
def test_what_a_classifier_does_not_take_is_said_in_a_sentence(labels, sentence):
    batch = TextBatch(CLASSES.sequences, None if labels is None else np.array(labels))
    with pytest.raises(DataError, match=sentence):
        arrays(batch, tiny_llama(classes=2))


def test_an_unknown_reduction_is_refused():
    with pytest.raises(DataError, match="expected one of tokens, sequences, sum"):
        arrays(NEXT_TOKEN, tiny_llama(), "mean")


def test_a_batch_is_drawn_without_replacement_and_keeps_its_labels():
    data = TextBatch(tuple(np.array([i, i]) for i in range(6)), np.arange(6))
    drawn = draw_texts(data, 4, seed=3)
    assert [sequence[0] for sequence in drawn.sequences] == list(drawn.labels)
    assert len(set(drawn.labels)) == 4
    with pytest.raises(DataError, match="there are 6 sequences but the batch size is 7"):
        draw_texts(data, 7)


def test_lines_of_text_go_through_the_tokenizer(tmp_path):
    (tmp_path / "a.txt").write_text("ab\n\n  c d \n")
    batch = read_texts(tmp_path / "a.txt", Letters())
    assert [list(sequence) for sequence in batch.sequences] == [[97, 98], [99, 32, 100]]
    assert batch.labels is None


def test_lines_of_integers_need_no_tokenizer(tmp_path):
    (tmp_path / "a.txt").write_text("3 4 5\n6, 7\n")
    assert [list(sequence) for sequence in read_texts(tmp_path / "a.txt").sequences] == [[3, 4, 5], [6, 7]]


@pytest.mark.parametrize(
    ("name", "content", "labels"),
    [
        ("a.csv", 'label,text\n1,"a,b"\n0,c\n', [1, 0]),
        ("a.tsv", 'sentence\tlabel\na,b\tgood\nc\tbad\n"\tgood\n', [1, 0, 1]),
        ("a.csv", 'text\n"a,b"\nc\n', None),
    ],
)
def test_tables_have_a_column_of_texts_and_perhaps_one_of_labels(tmp_path, name, content, labels):
    (tmp_path / name).write_text(content)
    batch = read_texts(tmp_path / name, Letters())
    assert [list(sequence) for sequence in batch.sequences[:2]] == [[97, 44, 98], [99]]
    assert (batch.labels is None) if labels is None else (list(batch.labels) == labels)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", b"[]", "expected .txt, .tsv or .csv"),
        ("a.txt", b"\n \n", "holds no sentence"),
        ("a.txt", b"not integers", "give the model's tokenizer"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.csv", b"\xff\xfe,b\n", "not UTF-8"),
        ("a.csv", b"a,b\n1,2\n", "columns a, b; expected one called text"),
        ("a.csv", b"", "cannot be read as a table"),
        ("a.csv", b"text,label\n", "holds no sentence"),
    ],
)
def test_a_file_that_is_no_texts_is_said_to_be_none(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        read_texts(tmp_path / name)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nothing.txt cannot be read"):
        read_texts(tmp_path / "nothing.txt")
