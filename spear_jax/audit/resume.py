"""The state of a search on disk: what a killed run goes on from, and what shards are merged by.

A state belongs to one observation, key and configuration; each of these is stored, so that a state of anything else is
refused by name. It is replaced by a finished temporary file after each round and never half written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.outcome import SearchState
from spear_jax.attacks.dense.roots.found import Found, united
from spear_jax.config import ReconstructConfig
from spear_jax.errors import CheckpointError, TensorFileError
from spear_jax.observation import LayerObservation
from spear_jax.tensor_files import read_tensors, write_tensors
from spear_jax.types import Array, CandidatePool

FORMAT = "1"
# Fields that change how long a search takes or when it stops, never what it finds.
NEUTRAL_FIELDS = ("max_candidates", "max_seconds", "chunk_size", "mapper", "num_devices", "num_examples")
_COUNTERS = ("next_round", "candidates", "hits", "hits_dropped", "false_hits", "grown_at", "turns", "apart")
# Counters that states did not have, and what the names of the span method's arrays start with.
_ADDED_COUNTERS, ROOTS = ("grown_at", "turns", "apart"), "roots."
_MEANING = {
    "observation": "another update or layer",
    "key": "another seed",
    "format": "another version of the library",
    "model": "other layers above",
    "next_weight_grad": "another gradient of the next layer",
    "layers_above": "other layers above, as observed",
    "between": "another map between the layers",
}
# What states did not say before it was part of the identity: where it is absent a state goes on as it did.
_ADDED = ("model", "next_weight_grad", "layers_above", "between", "config.activation", "config.span")
# Fields that observations did not have: where such a field is zero, the state of before goes on.
_ADDED_TO_OBSERVATIONS = ("input_drift",)


def identity(
    observation: LayerObservation,
    key: jax.Array,
    config: ReconstructConfig,
    *,
    model: Sequence[tuple[Array, Array]] | None = None,
    next_weight_grad: Array | None = None,
    layers_above: Sequence[LayerObservation] | None = None,
    between: Callable[..., Any] | None = None,
) -> dict[str, str]:
    """What a state belongs to: hashes of what was observed, the key, and each field of the config that matters.

    Args:
        observation: hashed over dtype, shape and bytes of its arrays, and its scalars, whatever its fields.
        key: the search's key.
        config: everything but `NEUTRAL_FIELDS`.
        model: as `reconstruct` takes it; the layers above steer the search.
        next_weight_grad: as `reconstruct` takes it.
        layers_above: as `reconstruct` takes it.
        between: as `reconstruct` takes it; known by its name, since a function has nothing else to compare.
    """
    fields = {name: value for name, value in dataclasses.asdict(config).items() if name not in NEUTRAL_FIELDS}
    layers = {f"{part}{number}": pair[part] for number, pair in enumerate(model or ()) for part in (0, 1)}
    return {
        "format": FORMAT,
        "observation": _digest(_parts(observation)),
        "model": "none" if model is None else _digest(layers),
        "next_weight_grad": "none" if next_weight_grad is None else _digest({"gradient": next_weight_grad}),
        "layers_above": json.dumps([_digest(_parts(layer)) for layer in layers_above or ()]),
        "between": "none" if between is None else f"{between.__module__}.{between.__qualname__}",
        "key": json.dumps(np.asarray(jax.random.key_data(key)).tolist()),
        **{f"config.{name}": json.dumps(value) for name, value in fields.items()},
    }


def _parts(observation: LayerObservation) -> dict[str, Any]:
    """What a digest is taken over."""
    parts = {field.name: getattr(observation, field.name) for field in dataclasses.fields(observation)}
    return {
        name: value
        for name, value in parts.items()
        if value is not None and (name not in _ADDED_TO_OBSERVATIONS or value)
    }


def _digest(values: Mapping[str, Any]) -> str:
    """Hash of arrays, over name, dtype, shape and bytes, and of scalars, over name and value."""
    digest = hashlib.sha256()
    for name, value in values.items():
        array = np.ascontiguousarray(value)
        if np.ndim(value) == 0:
            digest.update(f"{name}{float(array.item())}".encode())
            continue
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def save_state(path: str | os.PathLike[str], state: SearchState, belongs_to: dict[str, str], *, finished: bool) -> None:
    """Write a state; a reader sees the old one or the new one, whole.

    Args:
        path: a ``.safetensors`` file.
        state: between two rounds.
        belongs_to: `identity`.
        finished: whether the search ended, by certificate or budget, rather than being under way.
    """
    counters = {name: str(getattr(state, name)) for name in _COUNTERS} | {"method": state.method}
    tensors = {field.name: getattr(state.pool, field.name) for field in dataclasses.fields(CandidatePool)}
    if state.roots is not None:
        tensors |= {ROOTS + name: value for name, value in state.roots._asdict().items()}
        counters["activation"] = state.activation or ""
    write_tensors(path, tensors, belongs_to | counters | {"finished": json.dumps(finished)})


def load_state(path: str | os.PathLike[str], belongs_to: dict[str, str]) -> SearchState:
    """Read the state of the same observation, key and config.

    Raises:
        CheckpointError: no readable state, or one that belongs to something else, which is named.
    """
    state, found = _read(Path(path))
    _refuse_other(Path(path), found, belongs_to)
    return state


def is_unfinished(path: str | os.PathLike[str]) -> bool:
    """Whether there is a state of a search that was cut short."""
    return Path(path).exists() and not json.loads(_read(Path(path))[1].get("finished", "false"))


def is_state(path: str | os.PathLike[str]) -> bool:
    """Whether there is a state of a search, finished or not."""
    try:
        return Path(path).exists() and bool(_read(Path(path)))
    except CheckpointError:
        return False


def merge_states(paths: Sequence[str | os.PathLike[str]], belongs_to: dict[str, str]) -> SearchState:
    """One state from those of several shards of the same search, whatever their number.

    Raises:
        CheckpointError: a state is unreadable or belongs to another search, or two are of the same shard.
    """
    states: list[SearchState] = []
    shards: dict[str, Path] = {}
    for path in map(Path, paths):
        state, found = _read(path)
        shard = found.get("config.shard", "")
        if shard in shards:
            raise CheckpointError(f"{path} and {shards[shard]} hold the same shard {shard}; give each shard once.")
        shards[shard] = path
        _refuse_other(path, found, belongs_to | {"config.shard": shard})
        states.append(state)
    merged = states[0].pool
    for state in states[1:]:
        used = slice(state.pool.size)
        merged = pool.merge(merged, state.pool.directions[used], state.pool.zero_count[used], state.pool.hits[used])
    totals = {name: sum(getattr(state, name) for state in states) for name in _COUNTERS}
    state = SearchState(pool=merged, method=states[0].method)._replace(**totals)
    found = [one.roots for one in states if one.roots is not None]
    if not found:
        return state
    return state._replace(roots=united(found), grown_at=state.next_round, activation=states[0].activation)


def _read(path: Path) -> tuple[SearchState, dict[str, str]]:
    try:
        tensors, metadata = read_tensors(path)
        added = {name: "0" for name in _ADDED_COUNTERS}
        counters = {name: int((added | metadata)[name]) for name in _COUNTERS}
        roots = {name.removeprefix(ROOTS): value for name, value in tensors.items() if name.startswith(ROOTS)}
        found = CandidatePool(**{name: value for name, value in tensors.items() if not name.startswith(ROOTS)})
        state = SearchState(pool=found, method=metadata["method"])._replace(**counters)
        if roots:
            state = state._replace(roots=Found(**roots), activation=metadata["activation"])
        return state, metadata
    except (TensorFileError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no readable search state ({error}); pass --fresh to start without it."
        ) from error


def _refuse_other(path: Path, found: dict[str, str], wanted: dict[str, str]) -> None:
    for name, value in wanted.items():
        if found.get(name) == value or (name in _ADDED and name not in found):
            continue
        meaning = _MEANING.get(name)
        if meaning is None:
            meaning = f"{name.removeprefix('config.')} {found.get(name)} where this run has {value}"
        raise CheckpointError(
            f"{path} holds the state of another search ({name.removeprefix('config.')}: {meaning}); use the same "
            "update, layer, seed and options, or start afresh in another folder."
        )
