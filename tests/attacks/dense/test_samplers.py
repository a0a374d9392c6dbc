"""Both samplers behind one face: the same rounds on any number of devices, for any chunk size, mapper and lane."""

from functools import cache

import jax
import numpy as np
import pytest

from spear_jax import numerics
from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.attacks.dense.sampling import plan as search_plan
from spear_jax.attacks.dense.sampling import samplers
from spear_jax.attacks.dense.sampling import walk as pivot_walk
from spear_jax.config import ReconstructConfig
from spear_jax.factorization import factorize
from spear_jax.status import Status
from spear_jax.testing import planted_problem

RANK, CHAINS = 9, 512
ROUND = CHAINS * samplers.candidates_per_chain(RANK)
QUICK = [{"num_devices": 8}]
SLOW = [
    {"num_devices": 1, "chunk_size": 32},
    {"num_devices": 1, "chunk_size": 1},
    {"num_devices": 1, "chunk_size": 256},
    {"num_devices": 2},
    {"num_devices": 3, "chunk_size": 64},
    {"num_devices": 2, "mapper": "pmap"},
]
VARIANTS = [*QUICK, *(pytest.param(variant, marks=pytest.mark.slow) for variant in SLOW)]
only_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="asks for eight CPU devices and equal bits")


@cache
def planted():
    return factorize(planted_problem(RANK, 110, 50, seed=2).observation.weight_grad)


def unit_left():
    left = np.asarray(planted().left)[np.asarray(planted().live_mask)]
    return left / np.linalg.norm(left, axis=1, keepdims=True)


@cache
def sampler(**options):
    config = ReconstructConfig(**{"num_devices": 1, "hits_capacity": 512} | options)
    return samplers.walk_sampler(unit_left(), jax.random.key(0), 2, ROUND, config)


@only_cpu
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_rounds_are_the_same_submatrices(variant):
    for number in (0, 3):
        reference, other = sampler().draw(number, ROUND, 0)(), sampler(**variant).draw(number, ROUND, 0)()
        assert reference.count > 100
        assert (other.count, other.dropped) == (reference.count, reference.dropped)
        np.testing.assert_array_equal(other.rows, reference.rows)


@only_cpu
@pytest.mark.parametrize("count", [1, 4])
def test_every_device_and_lane_has_chains_of_its_own(monkeypatch, count):
    """However many chains fit at once."""
    monkeypatch.setattr(samplers, "chains_at_once", lambda *_: 2**16)
    compiled = {}
    monkeypatch.setattr(samplers, "compile_program", lambda *arguments: compiled.update(arguments[-1]._asdict()))
    config = ReconstructConfig(num_devices=count)
    samplers.walk_sampler(unit_left(), jax.random.key(0), 2, ROUND, config)
    lanes = samplers._lanes(tuple(jax.devices()[:count]))
    assert compiled["num_chunks"] * compiled["chunk_size"] == CHAINS // (count * lanes)


def test_another_round_gives_other_submatrices_and_a_short_one_the_first():
    whole, other = sampler().draw(0, ROUND, 0)(), sampler().draw(1, ROUND, 0)()
    assert not np.array_equal(whole.rows, other.rows)
    part = sampler().draw(0, ROUND // 4, 0)()
    assert 0 < part.count < whole.count
    shorter = min(len(part.rows), len(whole.rows))
    np.testing.assert_array_equal(part.rows[:shorter], whole.rows[:shorter])


@pytest.mark.slow
def test_hits_beyond_the_buffer_are_dropped_and_counted():
    few = sampler(hits_capacity=16).draw(0, ROUND, 0)()
    whole = sampler().draw(0, ROUND, 0)()
    assert few.count == whole.count
    assert few.dropped == few.count - 16
    np.testing.assert_array_equal(few.rows, whole.rows[: len(few.rows)])


@pytest.mark.slow
def test_rounds_and_keys_share_one_compilation(monkeypatch):
    traces = []
    original = pivot_walk.walk
    monkeypatch.setattr(pivot_walk, "walk", lambda *arguments: traces.append(1) or original(*arguments))
    for seed in range(3):
        config = ReconstructConfig(num_devices=1, chunk_size=64, hits_capacity=99)
        one = samplers.walk_sampler(unit_left() * (1 + seed), jax.random.key(seed), 2 + seed % 2, ROUND, config)
        for number in range(2):
            one.draw(number, ROUND // (1 + number), 0)()
        assert len(traces) == 1


def test_what_is_long_and_clean_is_walked_and_the_rest_drawn_flat():
    config = ReconstructConfig()
    clean = factorize(planted_problem(20, 200, 80).observation.weight_grad)
    noisy = factorize(planted_problem(20, 200, 400, noise=3e-2).observation.weight_grad, rank=20)
    assert numerics.relative_noise(noisy) > search_plan.WALK_NOISE > numerics.relative_noise(clean)
    assert search_plan.plan_search(clean, config).sampler == "walk"
    assert search_plan.plan_search(noisy, config).sampler == "flat"
    assert search_plan.plan_search(planted(), config).sampler == "flat"
    assert search_plan.plan_search(planted(), ReconstructConfig(sampler="walk")).sampler == "walk"
    assert search_plan.plan_search(clean, ReconstructConfig(sampler="flat")).sampler == "flat"


def test_a_walk_without_enough_rows_is_refused_in_a_sentence():
    """Only when it comes to sampling: a batch of one, a full rank or another method end as they do without it."""
    observation, walk = planted_problem(4, 25, 60).observation, ReconstructConfig(sampler="walk", method="sampling")
    with pytest.raises(ValueError, match="at least 24 live rows beyond the rank; this layer has rank 4 and 2"):
        reconstruct(observation, jax.random.key(0), walk)
    single = planted_problem(1, 100, 60).observation
    assert reconstruct(single, jax.random.key(0), walk).status is Status.EXACT
    full = planted_problem(70, 60, 80).observation
    assert reconstruct(full, jax.random.key(0), walk).status is Status.RANK_FULL


def test_rounds_of_a_walk_are_whole_chains():
    plan = search_plan.plan_search(planted(), ReconstructConfig(sampler="walk", round_size=2**22))
    per_chain = samplers.candidates_per_chain(RANK)
    assert plan.granularity == per_chain
    assert plan.round_size % per_chain == 0
    assert (plan.round_size // per_chain).bit_count() == 1
