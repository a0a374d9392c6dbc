"""A reconstruction of text scored against the truth that a simulation kept apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spear_jax.client.text_scores import TextScores, score_texts
from spear_jax.client.text_truth import TextTruth


class TextEvaluation(NamedTuple):
    """Scores of a record.

    Attributes:
        scores: of the sequences by their tokens.
        labels_right: of the exact sequences, how many came with the label that they had; None without labels.
        distinct: distinct tokens of the batch, with those that only end a sequence.
        named: how many of these the record names, in order or not.
        wrong: tokens that it names and that the batch does not have.
    """

    scores: TextScores
    labels_right: int | None
    distinct: int
    named: int
    wrong: int

    @property
    def summary(self) -> str:
        """The scores in one sentence."""
        labels = "" if self.labels_right is None else f" {self.labels_right} of their labels right."
        return f"{self.scores.summary}{labels} {self._tokens}"

    @property
    def _tokens(self) -> str:
        return f"{self.named} of {self.distinct} distinct tokens named, and {self.wrong} that were not there."

    @property
    def is_whole(self) -> bool:
        """Whether every true sequence came back exactly."""
        return bool(self.scores.exact.all())

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        own = {name: getattr(self, name) for name in ("labels_right", "distinct", "named", "wrong", "summary")}
        return self.scores.to_json() | own


def score_record(record: Mapping[str, Any], truth: Path) -> TextEvaluation:
    """Score the sequences of a record, certified or not, and its traces, a copy of a sequence counting as one more.

    Raises:
        TruthError: the file is no truth of a language model's update.
    """
    private = TextTruth.load(truth).batch
    listed = [one for one in record["sequences"] for _ in range(one["copies"] or 1)]
    found = [one["tokens"] for one in (*listed, *record["traces"])]
    certified = [one["exact"] for one in listed] + [False] * len(record["traces"])
    scores = score_texts(found, private.sequences, certified=certified)
    true = {int(token) for sequence in private.sequences for token in sequence}
    named = {token for one in found for token in one}
    if record["tokens"].get("rounds", 1) == 1:  # the truth is of one round
        named |= set(record["tokens"]["ids"])
    counts = (len(true), len(true & named), len(named - true))
    if private.labels is None:
        return TextEvaluation(scores, None, *counts)
    theirs = Counter(
        (tuple(np.asarray(one).tolist()), int(label))
        for one, label in zip(private.sequences, private.labels, strict=True)
    )
    ours = Counter((tuple(one["tokens"]), one["label"]) for one in listed)
    return TextEvaluation(scores, (ours & theirs).total(), *counts)
