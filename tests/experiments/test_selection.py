"""The selection claim: choices from planted pools, and what is told of them."""

import json

import numpy as np
import pytest

from experiments.claims import selection
from experiments.cost.real_layer import layer_of
from experiments.harness import claims
from spear_jax import testing
from spear_jax.attacks.dense.directions import pool
from spear_jax.attacks.dense.problem import pose


def planted(seed=3, batch_size=6):
    problem = testing.planted_problem(batch_size, 120, 80, seed=seed)
    layer = layer_of(problem.observation, problem.grad_z)
    return layer, pose(layer.observation, layer.factorization)


def pool_of(layer, directions, zeros=None):
    counts = pool.zero_count(layer.factorization, directions) if zeros is None else zeros
    rank = directions.shape[1]
    return pool.merge(pool.empty_pool(64, rank), directions, counts, np.ones(len(directions), np.int64))


def mixture(truth, first, second):
    mixed = truth[first] + 0.7 * truth[second]
    return mixed / np.linalg.norm(mixed)


def told(layer, evidence, grown):
    choice = selection.choices_from(layer, evidence, grown)
    return choice["held"], choice["one"]["true"], choice["two"]["true"], choice["two"]["certified"]


def test_both_stages_choose_the_true_directions_among_mixtures_with_fewer_zeros():
    layer, evidence = planted()
    truth = layer.directions.T
    everything = np.concatenate([mixture(truth, 0, 1)[None], truth])
    assert told(layer, evidence, pool_of(layer, everything)) == (6, 6, 6, 6)


def test_only_two_stages_choose_them_where_a_mixture_counts_as_sparser():
    layer, evidence = planted()
    truth = layer.directions.T
    everything = np.concatenate([mixture(truth, 0, 1)[None], truth])
    zeros = np.concatenate([[118], pool.zero_count(layer.factorization, truth)])
    held, one, two, certified = told(layer, evidence, pool_of(layer, everything, zeros))
    assert (held, two, certified) == (6, 6, 6)
    assert one == 5


def test_nothing_is_chosen_whole_from_a_pool_that_lacks_a_direction():
    layer, evidence = planted()
    truth = layer.directions.T
    without = np.concatenate([truth[1:], mixture(truth, 0, 1)[None]])
    held, one, two, certified = told(layer, evidence, pool_of(layer, without))
    assert (held, one, two) == (5, 5, 5)
    assert certified < 6


def line(regime, b, seed, held, one, two, certified=0):
    stage = lambda true: {"true": true, "score": 1.0, "certified": certified, "seconds": 0.0}
    choice = {"budget": 8.0, "pool": 10, "held": held, "one": stage(one), "two": stage(two)}
    return {"setting": {"regime": regime, "batch_size": b, "seed": seed}, "choices": [choice]}


def test_whole_batches_and_wrong_certificates_are_counted(tmp_path):
    name = "one hidden layer, two classes"
    lines = [line(name, 6, 0, 6, 2, 6), line(name, 6, 1, 6, 6, 6), line(name, 6, 2, 5, 1, 3, certified=6)]
    assert [selection.whole(lines, stage) for stage in ("held", "one", "two")] == [2, 1, 2]
    (finding,) = selection.findings(lines)
    assert "b = 6: 1 and 2 of 3" in finding.measured
    assert "of 2 pools that held all, one stage chose 1, two 2" in finding.measured
    assert "2 wrong choices certified whole" in finding.measured
    lines = [line | {"device_kind": "cpu"} for line in claims.of(lines)]
    selection.draw(lines, tmp_path)
    assert (tmp_path / "selection.png").stat().st_size > 10_000


def test_a_quick_run_is_a_part_of_the_full_one():
    full, quick = selection.settings(False), selection.settings(True)
    assert quick
    assert all(setting in full for setting in quick)
    assert json.loads(json.dumps(full)) == full


@pytest.mark.slow
def test_a_pool_grown_from_two_classes_needs_the_second_stage(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / selection.IMAGES, images=images, labels=np.arange(40, dtype=np.int32))
    setting = {"regime": "one hidden layer, two classes", "batch_size": 4, "seed": 700}
    outcome = selection.trial(setting, str(tmp_path))
    assert outcome is not None
    assert outcome["rank"] == outcome["held"] == outcome["two"] == 4
    assert outcome["one"] < 4
    assert json.loads(json.dumps(outcome)) == outcome


@pytest.mark.parametrize("setting", selection.settings(True)[:1])
def test_nothing_is_run_without_data(setting, tmp_path):
    assert selection.trial(setting, str(tmp_path)) is None
