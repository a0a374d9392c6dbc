"""From a model's tokens to text and back, around the optional package ``tokenizers``.

Whatever reads tokens works on their numbers and needs none of this: without the package, or without a file that says
what the tokens are, there is no tokenizer, which is no error.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from spear_jax.errors import SpearError

FILE = "tokenizer.json"
# GPT-2's tokenizer came in two files before there was one.
_VOCABULARY, _MERGES = "vocab.json", "merges.txt"
# Where bytes are cut into words before their pairs are merged, by the names that GGUF gives these rules.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS = {
    "llama-bpe": _WORDS.format(digits="{1,3}"),
    "llama3": _WORDS.format(digits="{1,3}"),
    "qwen2": _WORDS.format(digits=""),
}
_SINGLE_DIGITS = ("smollm", "refact", "command-r", "starcoder")


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text as the numbers of a model's tokens.

    Attributes:
        inner: a ``tokenizers.Tokenizer``.
    """

    inner: Any

    @property
    def size(self) -> int:
        """One more than the largest number that a token has."""
        return max(self.inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str) -> list[int]:
        """Numbers of the tokens of a text, without any that mark its beginning or end."""
        return list(self.inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text that tokens stand for, special ones written out."""
        return self.inner.decode([int(token) for token in ids], skip_special_tokens=False)


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in a model's folder, from ``tokenizer.json`` or GPT-2's ``vocab.json`` and ``merges.txt``.

    Returns:
        None where there is no such file, or the package is not installed.

    Raises:
        SpearError: a file that is damaged.
    """
    package = _package()
    if package is None:
        return None
    try:
        if (folder / FILE).is_file():
            return Tokenizer(package.Tokenizer.from_file(str(folder / FILE)))
        if (folder / _VOCABULARY).is_file() and (folder / _MERGES).is_file():
            vocabulary = json.loads((folder / _VOCABULARY).read_text(encoding="utf-8"))
            lines = (folder / _MERGES).read_text(encoding="utf-8").splitlines()
            merges = [line for line in lines if line and not line.startswith("#version")]
            return _of_merges(package, vocabulary, merges, "gpt-2", ())
    # What `tokenizers` cannot read it reports as a bare Exception.
    except Exception as error:
        raise SpearError(f"the tokenizer in {folder.name} cannot be read ({error}); copy it again.") from error
    return None


def tokenizer_of_merges(
    tokens: Sequence[str], merges: Sequence[str], rule: str, special: Sequence[str]
) -> Tokenizer | None:
    """A byte-pair tokenizer from its parts, as GGUF files hold them.

    Args:
        tokens: all of them, by number.
        merges: pairs with a space in between, the first to be merged first.
        rule: name of the rule by which text is cut into words; one that is not known is taken as GPT-2's, which changes
            how text is encoded but not how tokens are decoded.
        special: tokens that no merging makes, such as ``<|endoftext|>``.

    Returns:
        None where the package is not installed.

    Raises:
        SpearError: merges of what are no tokens.
    """
    package = _package()
    if package is None:
        return None
    try:
        return _of_merges(package, {token: number for number, token in enumerate(tokens)}, merges, rule, special)
    except Exception as error:  # as above
        raise SpearError(f"the model's tokens make no tokenizer ({error}); copy the file again.") from error


def check_size(tokenizer: Tokenizer, rows: int, file_name: str = FILE) -> None:
    """Refuse a tokenizer of another model.

    Raises:
        SpearError: it has more tokens than the embedding has rows.
    """
    if tokenizer.size > rows:
        raise SpearError(
            f"{file_name} has {tokenizer.size} tokens but the embedding has {rows} rows; "
            "give the tokenizer of this model."
        )


def _of_merges(
    package: ModuleType, vocabulary: dict[str, int], merges: Sequence[str], rule: str, special: Sequence[str]
) -> Tokenizer:
    pairs = [tuple(merge.split(" ")) for merge in merges]
    inner = package.Tokenizer(package.models.BPE(vocab=vocabulary, merges=pairs))
    inner.pre_tokenizer = _splitter(package.pre_tokenizers, package.Regex, rule)
    inner.decoder = package.decoders.ByteLevel()
    inner.add_special_tokens(list(special))
    return Tokenizer(inner)


def _splitter(parts: Any, regex: Any, rule: str) -> Any:
    if rule in _PATTERNS:
        words = parts.Split(pattern=regex(_PATTERNS[rule]), behavior="isolated")
        return parts.Sequence([words, parts.ByteLevel(add_prefix_space=False, use_regex=False)])
    whole = parts.ByteLevel(add_prefix_space=False)
    return parts.Sequence([parts.Digits(individual_digits=True), whole]) if rule in _SINGLE_DIGITS else whole


def _package() -> ModuleType | None:
    try:
        return importlib.import_module("tokenizers")
    except ModuleNotFoundError:
        return None
