"""Scoring recovered token sequences against the private truth. No module of the attack may import this one.

ROUGE-n is the share of n-grams that two sequences have in common (Lin 2004), as the literature on language models'
gradients prints it: the harmonic mean of precision and recall, averaged over the sequences of the batch.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from spear_jax.errors import SpearError

# Tokens or words.
Sentence: TypeAlias = Sequence[Any] | np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextScores:
    """Scores per true sequence, in the order of the truth; one without a partner scores 0 and False.

    Attributes:
        assignment: (B,) index of the recovered sequence matched to each true one, -1 for none.
        rouge_1: (B,) F1 of single tokens in [0, 1].
        rouge_2: (B,) F1 of pairs of neighbours in [0, 1]; 0 for a sequence of one token, which has none.
        exact: (B,) whether the recovered sequence is the true one, token by token.
        num_recovered: number of recovered sequences.
        tokens_found: tokens of the whole batch, counted with repetition, that the recovered sequences hold too.
        num_tokens: tokens of the batch.
        false_certificates: certified sequences that are none of the batch, or more copies of one than it has; None
            without certificates.
    """

    assignment: Int[np.ndarray, " B"]
    rouge_1: Float[np.ndarray, " B"]
    rouge_2: Float[np.ndarray, " B"]
    exact: Bool[np.ndarray, " B"]
    num_recovered: int
    tokens_found: int
    num_tokens: int
    false_certificates: int | None = None

    @property
    def num_exact(self) -> int:
        """True sequences recovered exactly, a sequence that occurs twice counting twice where it came back twice."""
        return int(self.exact.sum())

    @property
    def summary(self) -> str:
        """The scores in one sentence."""
        parts = [
            f"{self.num_exact} of {len(self.exact)} sequences exact",
            f"ROUGE-1 {100 * self.rouge_1.mean():.1f}",
            f"ROUGE-2 {100 * self.rouge_2.mean():.1f}",
            f"{self.tokens_found} of {self.num_tokens} tokens found",
        ]
        if self.false_certificates is not None:
            parts.append(f"{self.false_certificates} false certificates")
        return ", ".join(parts) + "."

    def to_json(self) -> dict[str, Any]:
        """A dictionary of valid JSON: all scores, ROUGE in [0, 1] per sequence and as ``mean_rouge_1`` and ``_2``."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        record = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in arrays.items()}
        means = {"mean_rouge_1": float(self.rouge_1.mean()), "mean_rouge_2": float(self.rouge_2.mean())}
        return record | means | {"num_exact": self.num_exact, "summary": self.summary}


def score_texts(
    recovered: Sequence[Sentence], truth: Sequence[Sentence], *, certified: Sequence[bool] | np.ndarray | None = None
) -> TextScores:
    """Match recovered sequences one to one to the true ones and score every true one.

    The sum of exact matches, ROUGE-1 and ROUGE-2 is the largest that any matching has, exact ones counting most.

    Args:
        recovered: k sequences of tokens, or of words, in any order.
        truth: B sequences alike.
        certified: (k,) which of the recovered ones the attack certified.

    Raises:
        SpearError: no true sequence, or certificates of another number than the recovered sequences.
    """
    if not len(truth):
        raise SpearError("the truth holds no sequence; there is nothing to compare with.")
    if certified is not None and len(certified) != len(recovered):
        raise SpearError(f"there are {len(certified)} certificates for {len(recovered)} sequences; give one for each.")
    found, true = ([tuple(np.asarray(sentence).tolist()) for sentence in side] for side in (recovered, truth))
    pairs = [[(a == b, rouge(a, b, 1), rouge(a, b, 2)) for a in found] for b in true]
    table = np.array(pairs, np.float64).reshape(len(true), len(found), 3)
    # An exact match is worth more than any two others together: F1 sums to 2 at most.
    rows, columns = linear_sum_assignment(table @ np.array([4.0, 1.0, 1.0]), maximize=True)
    assignment = np.full(len(true), -1)
    assignment[rows] = columns
    scores = np.zeros((len(true), 3))
    scores[rows] = table[rows, columns]
    return TextScores(
        assignment=assignment,
        rouge_1=scores[:, 1],
        rouge_2=scores[:, 2],
        exact=scores[:, 0] == 1,
        num_recovered=len(found),
        tokens_found=_common(_tokens(found), _tokens(true)),
        num_tokens=sum(map(len, true)),
        false_certificates=None if certified is None else _false_certificates(found, true, certified),
    )


def rouge(found: Sequence[Hashable], true: Sequence[Hashable], order: int) -> float:
    """ROUGE-n of two sequences: F1 of their n-grams in [0, 1], an n-gram counting as often as both have it.

    Args:
        found: tokens or words.
        true: tokens or words.
        order: n.
    """
    grams, others = (Counter(zip(*(part[i:] for i in range(order)), strict=False)) for part in (found, true))
    total = grams.total() + others.total()
    return 2 * _common(grams, others) / total if total else 0.0


def _tokens(sentences: Sequence[tuple[Hashable, ...]]) -> Counter[Hashable]:
    return Counter(token for sentence in sentences for token in sentence)


def _common(counts: Counter[Any], others: Counter[Any]) -> int:
    return (counts & others).total()


def _false_certificates(
    found: Sequence[tuple[Hashable, ...]], true: Sequence[tuple[Hashable, ...]], certified: Sequence[bool] | np.ndarray
) -> int:
    claimed = Counter(sentence for sentence, is_certified in zip(found, certified, strict=True) if is_certified)
    return (claimed - Counter(true)).total()
