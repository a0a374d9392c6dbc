"""The state of a search on disk: whole or not at all, and of one search only."""

import dataclasses

import jax
import numpy as np
import pytest

from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.outcome import SearchState
from spear_jax.audit import resume
from spear_jax.config import ReconstructConfig
from spear_jax.errors import CheckpointError
from spear_jax.tensor_files import read_tensors, write_tensors
from spear_jax.testing import planted_problem

CONFIG = ReconstructConfig(round_size=256)
RANK = 3


def identity(*, seed=0, key=0, config=CONFIG, dtype="float64"):
    observation = planted_problem(RANK, 20, 10, seed=seed, dtype=dtype).observation
    return resume.identity(observation, jax.random.key(key), config)


def state_of(directions, hits=2, **counters):
    """A state whose pool holds these rows of the identity."""
    rows = np.eye(RANK)[list(directions)]
    zeros, counts = np.full(len(rows), 9), np.full(len(rows), hits)
    return SearchState(pool=pool.merge(pool.empty_pool(8, RANK), rows, zeros, counts), **counters)


def test_a_state_comes_back_as_it_was(tmp_path):
    state = state_of([2, 0], next_round=7, candidates=7 * 256, hits=5, hits_dropped=1, false_hits=2)
    resume.save_state(tmp_path / "s.safetensors", state, identity(), finished=False)
    found = resume.load_state(tmp_path / "s.safetensors", identity())
    assert found[1:] == state[1:]
    for field in dataclasses.fields(state.pool):
        np.testing.assert_array_equal(getattr(found.pool, field.name), getattr(state.pool, field.name))
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 1}, "observation: another update or layer"),
        ({"dtype": "float32"}, "observation: another update or layer"),
        ({"key": 1}, "key: another seed"),
        ({"config": dataclasses.replace(CONFIG, round_size=512)}, "round_size 256 where this run has 512"),
        ({"config": dataclasses.replace(CONFIG, shard=(1, 2))}, r"shard \[0, 1\] where this run has \[1, 2\]"),
        ({"config": dataclasses.replace(CONFIG, zero_share=0.4)}, "zero_share 0.5 where this run has 0.4"),
    ],
    ids=str,
)
def test_a_state_of_another_search_is_refused_by_name(tmp_path, other, named):
    resume.save_state(tmp_path / "s.safetensors", state_of([0]), identity(), finished=False)
    with pytest.raises(CheckpointError, match=named):
        resume.load_state(tmp_path / "s.safetensors", identity(**other))


@pytest.mark.parametrize(
    "neutral",
    [{"max_candidates": 5}, {"max_seconds": 1.0}, {"chunk_size": 64}, {"mapper": "pmap"}, {"num_devices": 2}],
    ids=str,
)
def test_budgets_and_devices_may_change_between_runs(neutral):
    assert identity(config=dataclasses.replace(CONFIG, **neutral)) == identity()


def test_a_state_of_another_version_is_refused(tmp_path):
    resume.save_state(tmp_path / "s.safetensors", state_of([0]), identity() | {"format": "0"}, finished=True)
    with pytest.raises(CheckpointError, match="another version of the library"):
        resume.load_state(tmp_path / "s.safetensors", identity())


def test_a_damaged_state_is_refused_at_every_length(tmp_path):
    path = tmp_path / "s.safetensors"
    resume.save_state(path, state_of([0, 1]), identity(), finished=False)
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="no readable search state"):
            resume.load_state(path, identity())
        with pytest.raises(CheckpointError, match="--fresh"):
            resume.is_unfinished(path)
    path.write_bytes(whole)
    resume.load_state(path, identity())


def test_a_state_without_its_counters_is_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    resume.save_state(path, state_of([0]), identity(), finished=False)
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors, metadata | {"next_round": "many"})
    with pytest.raises(CheckpointError, match="no readable search state"):
        resume.load_state(path, identity())


def test_unfinished_means_cut_short(tmp_path):
    path = tmp_path / "s.safetensors"
    assert not resume.is_unfinished(path)
    for finished in (False, True):
        resume.save_state(path, state_of([0]), identity(), finished=finished)
        assert resume.is_unfinished(path) is not finished


def test_a_write_that_fails_leaves_the_old_state(tmp_path, monkeypatch):
    path = tmp_path / "s.safetensors"
    resume.save_state(path, state_of([0], next_round=1), identity(), finished=False)

    def half(_, temporary, **__):
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("spear_jax.tensor_files.save_file", half)
    with pytest.raises(ValueError, match="disk full"):
        resume.save_state(path, state_of([0], next_round=2), identity(), finished=False)
    assert resume.load_state(path, identity()).next_round == 1
    assert [file.name for file in tmp_path.iterdir()] == ["s.safetensors"]


def shard(folder, index, count, directions, **counters):
    path = folder / f"{index}.safetensors"
    of_shard = identity(config=dataclasses.replace(CONFIG, shard=(index, count)))
    resume.save_state(path, state_of(directions, **counters), of_shard, finished=True)
    return path


def test_merged_shards_pool_directions_and_add_up_counters(tmp_path):
    paths = [shard(tmp_path, 0, 2, [0, 1], candidates=256, next_round=1), shard(tmp_path, 1, 2, [1, 2], candidates=512)]
    merged = resume.merge_states(paths, identity())
    assert (merged.candidates, merged.next_round) == (768, 1)
    assert merged.pool.size == 3
    by_direction = dict(
        zip(merged.pool.directions[:3].argmax(axis=1).tolist(), merged.pool.hits.tolist(), strict=False)
    )
    assert by_direction == {0: 2, 1: 4, 2: 2}


def test_a_shard_given_twice_or_of_another_search_is_refused(tmp_path):
    paths = [shard(tmp_path, 0, 2, [0]), shard(tmp_path, 1, 2, [1])]
    with pytest.raises(CheckpointError, match=r"hold the same shard \[0, 2\]; give each shard once"):
        resume.merge_states([*paths, paths[0]], identity())
    with pytest.raises(CheckpointError, match="another seed"):
        resume.merge_states(paths, identity(key=1))
