"""Private sentences without any download: invented people's letters, e-mails and bank messages, and their tokenizer."""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Iterable

import numpy as np

from spear_jax.client.text_batch import TextBatch, draw_texts
from spear_jax.errors import DataError

UNKNOWN = "<unk>"
_TOKEN = re.compile(r"\w+|[^\w\s]")
_NO_SPACE_BEFORE = frozenset(".,:;?!")


class WordTokenizer:
    """Tokens are lower-case words and punctuation marks, numbered in alphabetical order; 0 is any other word.

    Its functions are those of `language.tokens.Tokenizer`.

    Attributes:
        words: V words by their tokens.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.words = (UNKNOWN, *sorted({word for text in texts for word in split(text)}))
        self._tokens = {word: token for token, word in enumerate(self.words)}

    @property
    def size(self) -> int:
        """V, number of tokens."""
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; 0 stands for words that are not known."""
        return [self._tokens.get(word, 0) for word in split(text)]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens, in lower case, punctuation without a space before it.

        Raises:
            DataError: a token that there is not.
        """
        text = ""
        for token in tokens:
            if not 0 <= token < self.size:
                raise DataError(f"token {token} is none of the demo's {self.size}; expected 0 to the last.")
            word = self.words[token]
            text += word if word in _NO_SPACE_BEFORE else f" {word}"
        return text.lstrip()


def split(text: str) -> list[str]:
    """Words and punctuation marks of a text, in lower case."""
    return _TOKEN.findall(text.lower())


@functools.cache
def demo_sentences() -> tuple[str, ...]:
    """All sentences of the demo."""
    file = importlib.resources.files("spear_jax.client") / "sentences.txt"
    return tuple(file.read_text(encoding="utf-8").splitlines())


@functools.cache
def demo_tokenizer() -> WordTokenizer:
    """The tokenizer that knows every word of the demo."""
    return WordTokenizer(demo_sentences())


def demo_texts(batch_size: int, *, seed: int = 0) -> TextBatch:
    """Distinct sentences of the demo, in tokens of `demo_tokenizer`.

    Args:
        batch_size: B.
        seed: of ``numpy.random.default_rng``.

    Raises:
        DataError: fewer than one or more than there are.
    """
    tokenizer = demo_tokenizer()
    every = TextBatch(tuple(np.array(tokenizer.encode(sentence)) for sentence in demo_sentences()))
    return draw_texts(every, batch_size, seed)
