"""Tokens as text: from a model's folder, where the optional package is there, and nothing where it is not."""

import json
import sys

import pytest

VOCABULARY = ["<end>", *(chr(97 + index) for index in range(26)), "Ġ", "th", "the", "Ġthe"]
MERGES = ["t h", "th e", "Ġ the"]


@pytest.fixture
def package():
    return pytest.importorskip("tokenizers", reason="tokens become text by the package tokenizers")


@pytest.fixture
def tokenizer(package):
    from spear_jax.language.tokens import tokenizer_of_merges

    return tokenizer_of_merges(VOCABULARY, MERGES, "gpt-2", ["<end>"])


def test_text_comes_back_from_its_tokens(tokenizer):
    assert tokenizer.encode("the theft") == [29, 30, 6, 20]
    assert tokenizer.decode(tokenizer.encode("the theft")) == "the theft"
    assert tokenizer.decode([20, 0]) == "t<end>"
    assert tokenizer.size == len(VOCABULARY)


@pytest.mark.parametrize("rule", ["llama-bpe", "qwen2", "smollm", "unheard of"])
def test_every_rule_cuts_words_that_come_back(package, rule):
    from spear_jax.language.tokens import tokenizer_of_merges

    found = tokenizer_of_merges(VOCABULARY, MERGES, rule, [])
    assert found.decode(found.encode("the theft of the thing")) == "the theft of the thing"


def test_a_folder_holds_it_in_one_file_or_in_gpt2s_two(tokenizer, tmp_path):
    from spear_jax.language.tokens import read_tokenizer

    assert read_tokenizer(tmp_path) is None
    (tmp_path / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(VOCABULARY)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    assert read_tokenizer(tmp_path).encode("the the") == [29, 30]
    tokenizer.inner.save(str(tmp_path / "tokenizer.json"))
    assert read_tokenizer(tmp_path).encode("the the") == [29, 30]


def test_a_damaged_one_is_an_error(package, tmp_path):
    from spear_jax.errors import SpearError
    from spear_jax.language.tokens import read_tokenizer

    (tmp_path / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(SpearError, match=r"the tokenizer in .* cannot be read \(.*\); copy it again\."):
        read_tokenizer(tmp_path)


def test_one_with_more_tokens_than_the_model_is_of_another(tokenizer):
    from spear_jax.errors import SpearError
    from spear_jax.language.tokens import check_size

    check_size(tokenizer, 31)
    with pytest.raises(SpearError, match=r"tokenizer.json has 31 tokens but the embedding has 30 rows"):
        check_size(tokenizer, 30)


def test_without_the_package_there_is_none(tmp_path, monkeypatch):
    from spear_jax.language.tokens import read_tokenizer, tokenizer_of_merges

    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert read_tokenizer(tmp_path) is None
    assert tokenizer_of_merges(VOCABULARY, MERGES, "gpt-2", []) is None
