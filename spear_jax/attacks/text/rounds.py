"""Several rounds of one client, stacked: what the first block reads of a token is the same in each.

Under low-rank adapters embedding and first norm are frozen, so that gradients of the first block's queries, keys and
values, of several rounds or local steps, are combinations of one dictionary of inputs whatever became of the adapters.
An adapter of rank r adds r directions a round. What is found then are the tokens of all rounds together: which round
held which is not told, and no beginning of a sequence is shared, as behind the first attention the rounds differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spear_jax.attacks.text.views import FIRST, observed_rows
from spear_jax.errors import SpearError
from spear_jax.language.observation import TextObservation
from spear_jax.language.transformer import first_params


def require_same_inputs(observation: TextObservation, also: Sequence[TextObservation]) -> None:
    """Refuse rounds whose tokens need not have the inputs that they have in the first one.

    Args:
        observation: of the round whose sequences are looked for.
        also: of the other rounds, each with the model that was sent in it.

    Raises:
        SpearError: another architecture, embedding or first norm; one of these was trained; a round that shows nothing
            of the first input.
    """
    names = first_params(observation.architecture, dict(observation.params))
    for number, other in enumerate(also, start=2):
        if other.architecture != observation.architecture:
            raise SpearError(f"round {number} is of another architecture; give rounds of one model.")
        for name in names:
            if not np.array_equal(other.params[name], observation.params[name]):
                raise SpearError(
                    f"round {number} was of another model: {name} differs from the first round's, so its tokens have "
                    "other inputs; give rounds in which it was frozen."
                )
        if not observed_rows(other, *FIRST):
            raise SpearError(
                f"round {number} has no gradient of the first block's queries, keys or values, so it adds nothing; "
                "leave it out."
            )
    for number, one in enumerate((observation, *also), start=1):
        trained = [name for name in names if name in one.gradients]
        if trained and also:
            raise SpearError(
                f"round {number} trained {trained[0]}, so tokens have other inputs from round to round; rounds are "
                "stacked where embedding and first norm are frozen, as under adapters."
            )
