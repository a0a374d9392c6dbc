"""The search: resumable, sharded and bounded; its states depend on key and configuration alone."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from spear_jax.attacks.dense.certificates import pattern, select
from spear_jax.attacks.dense.outcome import Run, SearchState
from spear_jax.attacks.dense.problem import pose
from spear_jax.attacks.dense.sampling import plan as search_plan
from spear_jax.attacks.dense.sampling import search
from spear_jax.config import ReconstructConfig
from spear_jax.factorization import factorize
from spear_jax.status import Status
from spear_jax.testing import planted_problem

CONFIG = ReconstructConfig(round_size=256, chunk_size=128, num_devices=1)


def planted(batch_size=4, m=100, seed=3):
    problem = planted_problem(batch_size, m, 60, seed=seed)
    factorization = factorize(problem.observation.weight_grad)
    return pose(problem.observation, factorization)


def never(_, directions):
    """A judge that is never satisfied."""
    return pattern.no_agreement(len(directions))


def run(problem, config=CONFIG, *, judge=pattern.agree, state=None, on_round=None):
    plan = search_plan.plan_search(problem.factorization, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "agree", judge)
        return search.sample(problem, plan, Run(jax.random.key(0), config, on_round), state)


def assert_same_state(one, other):
    for name in ("next_round", "candidates", "hits", "hits_dropped", "false_hits"):
        assert getattr(one, name) == getattr(other, name), name
    np.testing.assert_array_equal(one.pool.directions, other.pool.directions)
    np.testing.assert_array_equal(one.pool.zero_count, other.pool.zero_count)
    np.testing.assert_array_equal(one.pool.hits, other.pool.hits)


def test_a_search_resumed_from_any_state_ends_like_one_that_never_stopped():
    problem = planted()
    whole, states = dataclasses.replace(CONFIG, max_candidates=1024), []
    reference = run(problem, whole, on_round=lambda progress: states.append(progress.state), judge=never)
    assert len(states) == 4
    assert reference.status is Status.CANDIDATE_BUDGET
    for state in states[:3]:
        assert_same_state(run(problem, whole, state=state, judge=never).state, reference.state)


@pytest.mark.slow
def test_devices_and_mapper_leave_the_state_alone():
    problem = planted()
    reference = run(problem)
    assert reference.status is Status.EXACT
    for options in ({"num_devices": 2}, {"num_devices": 8, "mapper": "pmap"}, {"num_devices": 3, "chunk_size": 32}):
        assert_same_state(run(problem, dataclasses.replace(CONFIG, **options)).state, reference.state)


@pytest.mark.parametrize("sampler", ["flat", pytest.param("walk", marks=pytest.mark.slow)])
def test_working_ahead_changes_nothing(monkeypatch, sampler):
    """Accelerators draw a round while the host looks at the last; forced here, and the last one is thrown away."""
    problem = planted(batch_size=6)
    config = dataclasses.replace(CONFIG, sampler=sampler, round_size=2**18 if sampler == "walk" else 256)
    reference = run(problem, config)
    assert reference.status is Status.EXACT
    monkeypatch.setattr(search, "_works_ahead", lambda _: True)
    assert_same_state(run(problem, config).state, reference.state)
    budget = dataclasses.replace(
        config, max_candidates=3 * search_plan.plan_search(problem.factorization, config).round_size
    )
    ahead = run(problem, budget, judge=never)
    assert ahead.status is Status.CANDIDATE_BUDGET
    assert ahead.state.next_round == 3


@pytest.mark.slow
def test_a_walk_resumed_sharded_and_spread_ends_like_one_that_never_stopped():
    problem = planted(batch_size=6)
    config = dataclasses.replace(CONFIG, sampler="walk", round_size=2**18, max_candidates=2**21, chunk_size=None)
    states = []
    reference = run(problem, config, on_round=lambda progress: states.append(progress.state), judge=never)
    assert len(states) > 2
    for state in states[:-1]:
        assert_same_state(run(problem, config, state=state, judge=never).state, reference.state)
    spread = dataclasses.replace(config, num_devices=4, chunk_size=32)
    assert_same_state(run(problem, spread, judge=never).state, reference.state)


def test_a_budget_below_a_round_draws_whole_chains_and_below_a_chain_nothing():
    problem = planted(batch_size=6)
    config = dataclasses.replace(CONFIG, sampler="walk", round_size=2**18, chunk_size=None)
    per_chain = search_plan.plan_search(problem.factorization, config).granularity
    some = run(problem, dataclasses.replace(config, max_candidates=5 * per_chain + 7), judge=never)
    assert (some.state.candidates, some.state.next_round) == (5 * per_chain, 0)
    nothing = run(problem, dataclasses.replace(config, max_candidates=per_chain - 1), judge=never)
    assert (nothing.status, nothing.state.candidates) == (Status.CANDIDATE_BUDGET, 0)


def test_on_round_is_called_after_each_round_with_what_is_left():
    problem = planted()
    seen = []
    outcome = run(problem, on_round=seen.append)
    assert [progress.state.next_round for progress in seen] == list(range(1, len(seen) + 1))
    assert [progress.candidates for progress in seen] == [256 * k for k in range(1, len(seen) + 1)]
    assert seen[-1].found == seen[-1].rank == 4
    assert seen[-1].expected_remaining == 0
    assert seen[-1].state.candidates == outcome.state.candidates


def test_shards_take_the_rounds_in_turn_and_together_draw_the_whole(monkeypatch):
    """At one threshold: otherwise it follows what each shard has drawn itself."""
    problem = planted()
    monkeypatch.setattr(search_plan.SamplingPlan, "zero_threshold", lambda *_: 30)
    whole = run(problem, dataclasses.replace(CONFIG, max_candidates=1024), judge=never).state
    parts = [
        run(problem, dataclasses.replace(CONFIG, max_candidates=512, shard=(i, 2)), judge=never).state for i in range(2)
    ]
    numbers = [
        search._round_number(SearchState(whole.pool, next_round=k), dataclasses.replace(CONFIG, shard=(i, 2)))
        for k in range(2)
        for i in range(2)
    ]
    assert numbers == [0, 1, 2, 3]
    assert sum(part.hits for part in parts) == whole.hits
    assert not np.array_equal(parts[0].pool.hits, parts[1].pool.hits)


def test_a_spent_candidate_budget_is_a_status_with_a_finite_forecast():
    problem = planted(batch_size=8, m=120)
    outcome = run(problem, dataclasses.replace(CONFIG, max_candidates=16, round_size=16, chunk_size=16))
    assert outcome.status is Status.CANDIDATE_BUDGET
    assert outcome.state.candidates == 16
    assert outcome.agreement is None
    plan = search_plan.plan_search(problem.factorization, CONFIG)
    assert 0 < search_plan.expected_remaining(8, len(outcome.directions), plan, 16, CONFIG) < math.inf


def test_a_spent_time_budget_is_a_status():
    problem = planted()
    outcome = run(problem, dataclasses.replace(CONFIG, max_seconds=1e-9), judge=never)
    assert outcome.status is Status.TIME_BUDGET
    assert outcome.state.next_round == 1


def test_a_round_of_false_hits_alone_is_survived(monkeypatch):
    """Nothing verified and an empty pool: the search must go on."""
    problem = planted()
    monkeypatch.setattr(search_plan.SamplingPlan, "zero_threshold", lambda *_: 10)
    monkeypatch.setattr(search.pool, "zero_count", lambda _, directions: np.zeros(len(directions), np.int64))
    outcome = run(problem, dataclasses.replace(CONFIG, max_candidates=256))
    assert outcome.status is Status.CANDIDATE_BUDGET
    assert outcome.state.false_hits == outcome.state.hits > 0


def test_more_directions_than_live_rows_are_unreachable():
    observation = planted_problem(3, 40, 60, dead_rows=34).observation
    problem = pose(observation, factorize(observation.weight_grad, rank=8))
    assert run(problem, judge=never).status is Status.UNREACHABLE


@pytest.mark.parametrize("capacity", [1, 3])
def test_a_pool_too_small_for_the_rank_is_refused(capacity):
    """It could never hold a whole choice, and the search would run to its budget for nothing."""
    problem = planted()
    with pytest.raises(ValueError, match="pool_capacity"):
        run(problem, dataclasses.replace(CONFIG, pool_capacity=capacity, max_candidates=256))
