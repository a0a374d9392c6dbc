"""What the attack on a language model returns: sequences, tokens, how far each can be relied on, and how it ended."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from spear_jax.attacks.text.certificate import Reproduction
from spear_jax.attacks.text.sequences import Sequence
from spear_jax.attacks.text.views import ViewSize
from spear_jax.status import Status


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TextResult:
    """A reconstruction of the text behind an update.

    Attributes:
        sequences: the batch in arbitrary order; certified sequences and others alike, see ``exact``.
        exact: (s,) bool, whether the sequence is certified: the gradient of the whole batch, computed again, is what
            came back, to rounding, and no other sequence has the same states.
        prefixes: beginnings of sequences that lie in every span but of which no certified sequence tells how they go
            on: traces, not text that is certified.
        tokens: (u,) ids of the distinct tokens that the first block saw, in rising order; of several rounds those that
            it saw in any of them, not said in which.
        tokens_exact: whether these are certified: together they explain every direction that the gradients show, and
            none of them can be left out.
        rounds: how many rounds show the tokens together; sequences and all else are of the first one alone.
        reproduction: of the batch, None where no whole batch was found.
        status: how it ended; ``status.value`` is a sentence.
        views: what the gradients show.
        seconds: wall-clock seconds by stage.
    """

    sequences: tuple[Sequence, ...] = ()
    exact: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, bool))
    prefixes: tuple[np.ndarray, ...] = ()
    tokens: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    tokens_exact: bool = False
    rounds: int = 1
    reproduction: Reproduction | None = None
    status: Status
    views: tuple[ViewSize, ...]
    seconds: dict[str, Any]

    @property
    def num_sequences(self) -> int:
        """Sequences of the batch, copies counted; copies that are not known count once."""
        return sum(max(sequence.copies, 1) for sequence in self.sequences)

    @property
    def num_certified(self) -> int:
        """Certified sequences, copies counted."""
        return sum(max(one.copies, 1) for one, is_exact in zip(self.sequences, self.exact, strict=True) if is_exact)
