"""A private batch of token sequences, from text files to the arrays of the loss that a client minimises over it."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from spear_jax.client.batch import draw
from spear_jax.errors import DataError
from spear_jax.language.architecture import Architecture

REDUCTIONS = ("tokens", "sequences", "sum")
_TEXT_COLUMNS = ("text", "sentence")
_LABEL_COLUMN = "label"


@runtime_checkable
class Encoder(Protocol):
    """What turns a text into tokens."""

    def encode(self, text: str, /) -> Any:
        """Tokens of a text, a sequence of integers."""
        ...


class TextBatch(NamedTuple):
    """Token sequences of a client, with a class each or to be predicted token by token.

    Attributes:
        sequences: B one-dimensional int arrays.
        labels: (B,) int classes; None for next-token prediction.
    """

    sequences: tuple[np.ndarray, ...]
    labels: np.ndarray | None = None

    @property
    def size(self) -> int:
        """B, number of sequences."""
        return len(self.sequences)


def arrays(
    batch: TextBatch, architecture: Architecture, reduction: str = "tokens"
) -> tuple[Int[np.ndarray, "B P"], Int[np.ndarray, "B P"], Float[np.ndarray, "B P"]]:
    """What `language.loss.weighted_loss` takes of a batch.

    Args:
        batch: the sequences.
        architecture: of the model, whose vocabulary, positions and classes the batch must fit.
        reduction: of the cross-entropies of all predicted tokens: ``"tokens"`` takes their mean, ``"sequences"`` the
            mean over sequences of each one's mean, ``"sum"`` their sum. With labels a sequence has one cross-entropy,
            so the first two are the same.

    Returns:
        tokens (B, P) int32, targets (B, P) int32 and weights (B, P) float64, P being the longest length: zero behind
        a sequence's end. With labels only the place of the last token has a weight.

    Raises:
        DataError: an empty batch, a sequence too short, too long or with tokens that the model has not, labels that it
            has no output for, or an unknown reduction.
    """
    if reduction not in REDUCTIONS:
        raise DataError(f"reduction is {reduction!r}; expected one of {', '.join(REDUCTIONS)}.")
    check_sequences(batch, architecture)
    lengths = np.array([len(sequence) for sequence in batch.sequences])
    tokens = np.zeros((batch.size, lengths.max()), np.int32)
    for row, sequence in zip(tokens, batch.sequences, strict=True):
        row[: len(sequence)] = sequence
    targets, places = np.zeros_like(tokens), np.arange(tokens.shape[1])
    if batch.labels is None:
        targets[:, :-1] = tokens[:, 1:]
        is_predicted = places < lengths[:, None] - 1
    else:
        is_predicted = places == lengths[:, None] - 1
        targets[is_predicted] = batch.labels
    divisors = {
        "tokens": np.full(batch.size, is_predicted.sum()),
        "sequences": batch.size * is_predicted.sum(axis=1),
        "sum": np.ones(batch.size),
    }
    return tokens, targets, is_predicted / divisors[reduction][:, None]


def check_sequences(batch: TextBatch, architecture: Architecture) -> None:
    """Checks that a model takes this batch.

    Raises:
        DataError: an empty batch, a sequence too short, too long or with tokens that the model has not, labels for a
            model without classes or none for one with them, or labels that it has no output for.
    """
    if not batch.sequences:
        raise DataError("the batch has no sequence; give at least one.")
    shortest = 2 if batch.labels is None else 1
    for number, sequence in enumerate(batch.sequences, start=1):
        if sequence.ndim != 1 or sequence.dtype.kind not in "iu":
            raise DataError(
                f"sequence {number} is {sequence.dtype}{list(sequence.shape)}; expected a one-dimensional int array."
            )
        if not shortest <= len(sequence) <= architecture.positions:
            raise DataError(
                f"sequence {number} has {len(sequence)} tokens; expected {shortest} to {architecture.positions}: leave "
                "it out, or cut it."
            )
        if sequence.min() < 0 or sequence.max() >= architecture.vocabulary:
            raise DataError(
                f"the tokens of sequence {number} run from {sequence.min()} to {sequence.max()}, but the model has "
                f"{architecture.vocabulary}; use the tokenizer that came with it."
            )
    _check_labels(batch, architecture.classes)


def _check_labels(batch: TextBatch, classes: int) -> None:
    if batch.labels is None:
        if classes:
            raise DataError(
                f"the batch has no labels, but the model has {classes} classes; give one for each sequence."
            )
        return
    if not classes:
        raise DataError("the batch has labels, but the model predicts the next token; leave them out.")
    if batch.labels.shape != (batch.size,):
        raise DataError(f"the labels have shape {batch.labels.shape}; expected one for each of {batch.size} sequences.")
    if batch.labels.min() < 0 or batch.labels.max() >= classes:
        raise DataError(
            f"the labels run from {batch.labels.min()} to {batch.labels.max()}, but the model has {classes} classes: "
            f"expected 0 to {classes - 1}."
        )


def draw_texts(batch: TextBatch, batch_size: int, seed: int = 0) -> TextBatch:
    """Some sequences of a data set, without replacement, and their labels.

    Args:
        batch: the data set.
        batch_size: B, how many to draw.
        seed: of ``numpy.random.default_rng``.

    Raises:
        DataError: fewer than one or more than there are.
    """
    index = draw(batch.size, batch_size, seed, f"there are {batch.size} sequences")
    sequences = tuple(batch.sequences[place] for place in index)
    return TextBatch(sequences, None if batch.labels is None else batch.labels[index])


def read_texts(path: str | os.PathLike[str], tokenizer: Encoder | None = None) -> TextBatch:
    """Read all sequences of a text file.

    Args:
        path: a ``.txt`` with one sentence a line, or a ``.tsv`` or ``.csv`` with a header and a column ``text`` (or
            ``sentence``); a column ``label``, where there is one, holds the classes. UTF-8; empty lines are left out.
        tokenizer: turns a sentence into tokens; None where the text is already tokens, integers between spaces.

    Returns:
        The batch; classes that are no integers are numbered in alphabetical order.

    Raises:
        DataError: no such file, another extension or encoding, no column of texts, no sentence, or words where tokens
            are expected.
    """
    path = Path(path)
    readers = {".txt": _read_lines, ".tsv": _read_table, ".csv": _read_table}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path.name} has extension {path.suffix or '(none)'!r}; expected .txt, .tsv or .csv.")
    try:
        texts, labels = readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 (byte {error.object[error.start]:#x}); save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}.") from error
    if not texts:
        raise DataError(f"{path.name} holds no sentence; expected one a line.")
    encode = tokenizer.encode if tokenizer is not None else _integers
    return TextBatch(tuple(np.asarray(encode(text), np.int64).reshape(-1) for text in texts), _classes(labels))


def _read_lines(path: Path) -> tuple[list[str], None]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip()], None


def _read_table(path: Path) -> tuple[list[str], list[str] | None]:
    is_tabs = path.suffix.lower() == ".tsv"
    try:
        # Files between tabs are written without quotes around their cells: a quote there is part of the text.
        cells: Any = pd.read_csv(
            path, sep="\t" if is_tabs else ",", dtype=str, keep_default_na=False, encoding="utf-8-sig",
            quoting=csv.QUOTE_NONE if is_tabs else csv.QUOTE_MINIMAL,
        )  # fmt: skip
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path.name} cannot be read as a table: {' '.join(str(error).split())}.") from error
    column = next((name for name in _TEXT_COLUMNS if name in cells), None)
    if column is None:
        raise DataError(f"{path.name} has columns {', '.join(map(str, cells))}; expected one called text.")
    cells = cells[cells[column].str.strip() != ""]
    labels = [str(cell).strip() for cell in cells[_LABEL_COLUMN]] if _LABEL_COLUMN in cells else None
    return [str(cell).strip() for cell in cells[column]], labels


def _integers(text: str) -> list[int]:
    try:
        return [int(token) for token in text.replace(",", " ").split()]
    except ValueError:
        raise DataError(f"{text[:40]!r} is no list of tokens; give the model's tokenizer for texts.") from None


def _classes(labels: Sequence[str] | None) -> np.ndarray | None:
    if labels is None:
        return None
    if all(label.isascii() and label.isdigit() and len(label) < 10 for label in labels):
        return np.array([int(label) for label in labels], np.int64)
    names = sorted(set(labels))
    return np.array([names.index(label) for label in labels], np.int64)
