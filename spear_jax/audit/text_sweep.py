"""Every defence at every strength against one update of a language model: what each would have stopped, without truth.

A trial is the update after one defence at one strength, reconstructed. What is certified of the update without a
defence stands in for the truth.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from spear_jax.attacks.text.pipeline import reconstruct
from spear_jax.attacks.text.result import TextResult
from spear_jax.attacks.text.sequences import Sequence as Certified
from spear_jax.audit.grid import Target, try_each
from spear_jax.defences import DEFENCES, Defence
from spear_jax.defences.alter import relative_change
from spear_jax.defences.trials import Run, Trial
from spear_jax.errors import SpearError, UpdateError
from spear_jax.update.text_update import TextUpdate

# Shares by which tokens without an order make a sequence known: of its own, those named; of all named, the batch's.
MOST_NAMED, MOST_RIGHT = 0.9, 0.5


def text_sweep(
    update: TextUpdate,
    *,
    seed: int = 0,
    defences: Iterable[Defence] = tuple(DEFENCES.values()),
    done: Sequence[Trial] = (),
    on_trial: Callable[[list[Trial]], None] = lambda trials: None,
) -> list[Trial]:
    """Try every defence, from its weakest strength on, against the reconstruction of the text.

    Args:
        update: any kind, as the client would have sent it without a defence.
        seed: of the defences' noise.
        defences: rows of the table.
        done: trials of an earlier run, which are not repeated.
        on_trial: called with all trials so far after each new one.

    Returns:
        The trials, those of ``done`` first; a defence's grid ends as `grid.try_each` says. A defence that cannot be
        applied (no biases to withhold) hides nothing: its trial has what leaks without it, and says why.

    Raises:
        UpdateError: no batch follows from the update, or no sequence of it is certified without a defence either.
        SweepError: ``done`` belongs to another update or seed.
    """
    reference = functools.cache(lambda: _reference(update))
    run = Run(update.sha256, None, seed, None)
    attempt = lambda defence, strength: _try(update, (defence, strength), reference(), run, jax.random.key(seed))
    return try_each(Target(run, attempt), defences, done, on_trial)


def recognisable(result: TextResult, reference: Sequence[Certified]) -> int:
    """How many sequences a result shows so that one would know them again, certified or not, copies counted.

    A sequence is shown where one of the result's, or a trace, begins with all its tokens but the last. Where none does,
    it is still known by its tokens if nine in ten of its distinct ones are named, and at least half of all that are
    named belong to the batch: a set that names half the vocabulary tells nothing.

    Args:
        result: of the update after a defence.
        reference: the batch, as far as it is certified without one.
    """
    shown = [*(one.tokens for one in result.sequences), *result.prefixes]
    named = set(result.tokens.tolist())
    batch = {token for one in reference for token in one.inputs.tolist()}
    is_telling = len(named & batch) >= MOST_RIGHT * max(len(named), 1)
    known = [one for one in reference if _is_shown(one, shown) or (is_telling and _is_named(one, named))]
    return sum(max(one.copies, 1) for one in known)


def _is_shown(one: Certified, shown: Sequence[np.ndarray]) -> bool:
    beginning = one.tokens[: max(len(one.tokens) - 1, 1)]
    return any(np.array_equal(other[: len(beginning)], beginning) for other in shown)


def _is_named(one: Certified, named: set[int]) -> bool:
    distinct = set(one.inputs.tolist())
    return len(distinct & named) >= MOST_NAMED * len(distinct)


def _try(
    update: TextUpdate,
    applied: tuple[Defence, float | None],
    reference: Sequence[Certified],
    run: Run,
    key: jax.Array,
) -> Trial:
    """One trial: of a defence at a strength, against what is certified without it."""
    defence, strength = applied
    batch_size = sum(max(one.copies, 1) for one in reference)
    told = functools.partial(
        Trial, defence.name, defence.parameter, strength, approximate=0, batch_size=batch_size, **run._asdict()
    )
    try:
        defended = defence(update, strength, key)
    except UpdateError as error:
        return told(certified=batch_size, recognisable=batch_size, status=str(error))
    result, change = _attack(defended), relative_change(update, defended)
    if isinstance(result, str):
        return told(certified=0, recognisable=0, status=result, relative_change=change)
    return told(
        certified=result.num_certified,
        recognisable=recognisable(result, reference),
        status=result.status.name,
        relative_change=change,
    )


def _reference(update: TextUpdate) -> list[Certified]:
    """The sequences that are certified without a defence."""
    result = reconstruct(update.observation())
    certified = [one for one, is_exact in zip(result.sequences, result.exact, strict=True) if is_exact]
    if not certified:
        raise UpdateError(
            "no sequence of it is certified without a defence either, so no trial could tell what one hides: "
            f"{result.status.value}"
        )
    return certified


def _attack(update: TextUpdate) -> TextResult | str:
    """The reconstruction, or why there is none."""
    try:
        return reconstruct(update.observation())
    except SpearError as error:
        return str(error)
