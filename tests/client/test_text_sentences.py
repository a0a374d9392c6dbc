"""The demo's sentences and the tokenizer that is made of them."""

from __future__ import annotations

import numpy as np
import pytest

from spear_jax.client.random_model import tiny_llama
from spear_jax.client.sentences import WordTokenizer, demo_sentences, demo_texts, demo_tokenizer, split
from spear_jax.client.text_batch import check_sequences
from spear_jax.errors import DataError


def test_sentences_are_many_distinct_and_short():
    sentences = demo_sentences()
    words = [sum(word[0].isalnum() for word in split(sentence)) for sentence in sentences]
    assert len(set(sentences)) == len(sentences) >= 120
    assert min(words) >= 6
    assert max(words) <= 20


def test_tokens_are_numbered_in_alphabetical_order_and_zero_is_unknown():
    tokenizer = WordTokenizer(["The cat, the dog."])
    assert tokenizer.words == ("<unk>", ",", ".", "cat", "dog", "the")
    assert tokenizer.encode("the DOG barks.") == [5, 4, 0, 2]


def test_every_sentence_comes_back_in_lower_case_words():
    tokenizer = demo_tokenizer()
    for sentence in demo_sentences():
        tokens = tokenizer.encode(sentence)
        assert 0 not in tokens
        assert tokenizer.encode(tokenizer.decode(tokens)) == tokens
    assert (
        tokenizer.decode(tokenizer.encode("Sign here, and the flat is yours.")) == "sign here, and the flat is yours."
    )


def test_tokens_that_there_are_not_are_refused():
    with pytest.raises(DataError, match="token 99999 is none of the demo's"):
        demo_tokenizer().decode([99999])


def test_a_demo_batch_is_of_distinct_sentences_that_the_seed_decides_and_a_tiny_model_takes():
    batch, again, other = demo_texts(16), demo_texts(16), demo_texts(16, seed=1)
    check_sequences(batch, tiny_llama(demo_tokenizer().size))
    assert len({sequence.tobytes() for sequence in batch.sequences}) == 16
    assert all(np.array_equal(a, b) for a, b in zip(batch.sequences, again.sequences, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(batch.sequences, other.sequences, strict=True))
