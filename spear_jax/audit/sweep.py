"""Every defence at every strength against one update: what each would have stopped, without ground truth.

A trial is the update after one defence at one strength, reconstructed within a time budget. What is certified of the
update without a defence stands in for the truth: a defence that only takes the certificate away has not hidden the
picture.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
from jaxtyping import Float

from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.audit.grid import Target, try_each
from spear_jax.audit.one import what_is_above, with_activation
from spear_jax.config import ReconstructConfig
from spear_jax.defences import DEFENCES, Defence
from spear_jax.defences.alter import relative_change
from spear_jax.defences.trials import Run, Trial
from spear_jax.errors import SpearError
from spear_jax.factorization import factorize
from spear_jax.types import Result
from spear_jax.update.bundle import Update

# Error of what one would know again, as a share of the inputs' range: 20 dB.
RECOGNISABLE = 0.1


def sweep(
    update: Update,
    *,
    seed: int = 0,
    max_seconds: float = 10.0,
    defences: Iterable[Defence] = tuple(DEFENCES.values()),
    done: Sequence[Trial] = (),
    on_trial: Callable[[list[Trial]], None] = lambda trials: None,
) -> list[Trial]:
    """Try every defence, from its weakest strength on, against the reconstruction of the first layer.

    Args:
        update: any kind, as the client would have sent it without a defence.
        seed: of the defences' noise and of the searches.
        max_seconds: time budget of each search.
        defences: rows of the table.
        done: trials of an earlier run, which are not repeated.
        on_trial: called with all trials so far after each new one.

    Returns:
        The trials, those of ``done`` first; a defence's grid ends as `grid.try_each` says.

    Raises:
        UpdateError: the update has no layer that can be inverted, or a defence cannot be applied to it.
        SweepError: ``done`` belongs to another update, seed or budget.
        SpearError: a budget that is not positive.
    """
    config = ReconstructConfig(max_seconds=max_seconds)
    layer = update.layer().name
    observation = update.observation(layer)
    rank = factorize(observation.weight_grad, rounding=observation.rounding).rank
    run = Run(update.sha256, layer, seed, max_seconds)
    reference = functools.cache(lambda: _certified(_attack(update, layer, jax.random.key(seed), config)))
    attempt = lambda defence, strength: _try(update, defence, strength, reference(), (rank, run, config, seed))
    return try_each(Target(run, attempt), defences, done, on_trial)


def _try(
    update: Update,
    defence: Defence,
    strength: float | None,
    reference: Float[np.ndarray, "k n"],
    shared: tuple[int, Run, ReconstructConfig, int],
) -> Trial:
    """One trial.

    Args:
        update: without a defence.
        defence: to apply.
        strength: of it.
        reference: inputs that are certified without it.
        shared: by all trials: rank, what `Trial.run` says, config and seed.
    """
    rank, run, config, seed = shared
    defend_key, search_key = jax.random.split(jax.random.key(seed))
    defended = defence(update, strength, defend_key)
    result = _attack(defended, run.layer, search_key, config)
    return Trial(
        defence=defence.name,
        parameter=defence.parameter,
        strength=strength,
        certified=0 if isinstance(result, str) else int(result.certificate.exact.sum()),
        approximate=0 if isinstance(result, str) else int(result.certificate.approximate.sum()),
        recognisable=_recognisable(result, reference) if len(reference) else None,
        batch_size=rank,
        status=result if isinstance(result, str) else result.status.name,
        relative_change=relative_change(update, defended),
        **run._asdict(),
    )


def _certified(result: Result | str) -> Float[np.ndarray, "k n"]:
    """The inputs that are certified, exactly or with a bar; of no result none."""
    if isinstance(result, str):
        return np.zeros((0, 0))
    return np.asarray(result.inputs, np.float64)[result.certificate.exact | result.certificate.approximate]


def _recognisable(result: Result | str, reference: Float[np.ndarray, "k n"]) -> int:
    """How many reference inputs the result shows nearer than `RECOGNISABLE` of their range, root mean square."""
    if isinstance(result, str):
        return 0
    shown = np.asarray(result.inputs, np.float64)
    shown = shown[np.isfinite(shown).all(axis=1)]
    within = RECOGNISABLE * np.ptp(reference) * np.sqrt(reference.shape[1])
    nearest = [np.linalg.norm(shown - one, axis=1).min(initial=np.inf) for one in reference]
    return int(np.sum(np.asarray(nearest) <= within))


def _attack(update: Update, layer: str | None, key: jax.Array, config: ReconstructConfig) -> Result | str:
    """The reconstruction, or why there is none: withheld biases and lost equations are a defence like any other."""
    try:
        observation = update.observation(layer)
        config = with_activation(config, update, layer)
        return reconstruct(observation, key, config, **what_is_above(update, layer))
    except SpearError as error:
        return str(error)
