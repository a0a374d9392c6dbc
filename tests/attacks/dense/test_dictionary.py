"""The dictionary proposer: its steps on planted problems, and whole batches that sampling cannot reach."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax.attacks.dense import by_zeros
from spear_jax.attacks.dense.dictionary import basis, full_round, subspace_round
from spear_jax.attacks.dense.dictionary.em import polar
from spear_jax.attacks.dense.dictionary.round import Round
from spear_jax.attacks.dense.dictionary.rounds import rest_round
from spear_jax.attacks.dense.directions.recover import disaggregation
from spear_jax.attacks.dense.outcome import initial_state
from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.attacks.dense.problem import pose
from spear_jax.attacks.dense.remainder import deflate
from spear_jax.config import DictionaryConfig, ReconstructConfig
from spear_jax.factorization import factorize
from spear_jax.status import Status
from spear_jax.testing import planted_problem

B, M, N = 16, 200, 300
CONFIG = ReconstructConfig(method="dictionary", dictionary=DictionaryConfig(max_rounds=8))


@pytest.fixture(scope="module")
def solved():
    """A planted problem, what the method starts from, and the true directions as unit rows."""
    problem = planted_problem(B, M, N, seed=3)
    factorization = factorize(problem.observation.weight_grad)
    evidence = pose(problem.observation, factorization)
    return factorization, evidence, problem.directions(np.asarray(factorization.left)).T


def likeness(found, truth):
    """Best absolute cosine of each found row with a true one."""
    found = found / np.linalg.norm(found, axis=1, keepdims=True)
    return np.abs(found @ truth.T).max(axis=1, initial=0)


def proposals(evidence, schedule):
    """What a full round proposes first."""
    proposed = []

    def refuse(_, known, directions, *, screen):
        proposed.append(directions)
        return known

    config = ReconstructConfig(dictionary=DictionaryConfig(full_schedules=(schedule,)))
    round_ = Round(evidence, config, 0, jax.random.key(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(full_round, "accept", refuse)
        start = initial_state(evidence.rank, config).pool
        full_round.full_round(round_, round_.basis(), start, np.zeros((0, evidence.rank)))
    return proposed[0]


def test_the_response_is_the_tie_of_directions_and_pre_activations(solved):
    factorization, evidence, truth = solved
    problem = planted_problem(B, M, N, seed=3)
    mixing = np.asarray(factorization.left).T @ problem.grad_z
    expected = problem.observation.weight @ problem.inputs.T
    np.testing.assert_allclose(evidence.response @ np.linalg.inv(mixing).T, expected, atol=1e-9)


def test_the_polar_factor_is_the_nearest_matrix_with_orthonormal_columns():
    matrix = np.random.default_rng(0).normal(size=(9, 5))
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(polar(jnp.asarray(matrix)), left @ right, atol=1e-12)


def test_the_dual_inverts_the_transpose_where_nothing_is_floored():
    matrix = np.random.default_rng(1).normal(size=(6, 6))
    np.testing.assert_allclose(full_round.dual(matrix, 0.0), np.linalg.inv(matrix).T, atol=1e-9)


def test_the_known_weights_carry_the_search_where_rows_are_few():
    options, right, wrong = CONFIG.dictionary, 0, 0
    for seed in range(3):
        problem = planted_problem(32, 160, 300, seed=seed)
        factorization = factorize(problem.observation.weight_grad)
        evidence = pose(problem.observation, factorization)
        shuffled = dataclasses.replace(evidence, response=np.random.default_rng(seed).permutation(evidence.response))
        truth = problem.directions(np.asarray(factorization.left)).T
        right += np.sum(likeness(proposals(evidence, options.full_schedules[0]), truth) > 0.99)
        wrong += np.sum(likeness(proposals(shuffled, options.full_schedules[0]), truth) > 0.99)
    assert right > 3 * 16
    assert wrong < right / 4


def test_the_missing_directions_are_found_in_the_null_space_of_the_known(solved):
    factorization, evidence, truth = solved
    config = dataclasses.replace(CONFIG, dictionary=DictionaryConfig(starts=8))
    problem, schedule = basis.make_basis(evidence), config.dictionary.subspace_schedules[0]
    proposed = subspace_round.subspace_round(problem, truth[4:], jax.random.key(1), schedule, config)
    assert (np.abs(proposed @ truth[:4].T).max(axis=0) > 0.99).all()


def test_the_last_direction_is_free(solved):
    _, evidence, truth = solved
    proposed = subspace_round.last_direction(basis.make_basis(evidence), truth[1:])
    assert likeness(proposed, truth[:1]).max() > 1 - 1e-9


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_batch_out_of_reach_of_sampling_comes_back_certified(dtype):
    problem = planted_problem(32, 320, 400, seed=5, dtype=dtype)
    result = reconstruct(problem.observation, jax.random.key(0), ReconstructConfig())
    assert (result.status, result.stats.method) == (Status.EXACT, "dictionary")
    assert "sampling" in result.stats.reason
    for sample in problem.inputs:
        assert np.abs(result.inputs - sample).max(axis=1).min() < 1e-3


def test_same_key_same_bits_and_a_resumed_run_ends_alike():
    problem = planted_problem(24, 120, 200, seed=6)
    states = []
    run = lambda **more: reconstruct(problem.observation, jax.random.key(2), CONFIG, **more)
    whole = run(on_round=lambda progress: states.append(progress.state))
    resumed = run(state=states[0])
    np.testing.assert_array_equal(whole.inputs, resumed.inputs)
    np.testing.assert_array_equal(whole.directions, resumed.directions)


@pytest.mark.slow
def test_the_number_of_devices_does_not_change_a_bit():
    # Few enough rows that the search needs its batch of starts.
    problem = planted_problem(32, 128, 200, seed=1)
    config = ReconstructConfig(method="dictionary", dictionary=DictionaryConfig(max_rounds=6, full_rounds=1))
    results = [
        reconstruct(problem.observation, jax.random.key(0), dataclasses.replace(config, **options))
        for options in ({"num_devices": 1}, {"num_devices": 2}, {"num_devices": 8})
    ]
    assert results[0].stats.rounds > 1
    for result in results[1:]:
        np.testing.assert_array_equal(result.directions, results[0].directions)
        np.testing.assert_array_equal(result.inputs, results[0].inputs)


def test_a_sample_below_the_noise_does_not_spoil_the_others():
    problem = planted_problem(24, 240, 400, seed=4)
    grad_z = problem.grad_z * np.where(np.arange(24) == 5, 1e-10, 1.0)
    observation = dataclasses.replace(
        problem.observation,
        weight_grad=(grad_z @ problem.inputs).astype("float32"),
        bias_grad=grad_z.sum(axis=1).astype("float32"),
    )
    config = ReconstructConfig(method="dictionary")
    result = reconstruct(observation, jax.random.key(0), config)
    assert (result.batch_size, result.status) == (23, Status.EXACT)
    told = reconstruct(observation, jax.random.key(0), dataclasses.replace(config, num_examples=24))
    assert told.status is Status.MERGED  # the missing one may be part of any other
    distance = np.abs(result.inputs[:, None] - problem.inputs[None]).max(axis=2)
    assert distance.min(axis=1).max() < 1e-3
    assert sorted(distance.argmin(axis=1)) == [index for index in range(24) if index != 5]


def test_sampling_goes_on_with_what_the_rounds_leave(monkeypatch):
    monkeypatch.setattr(by_zeros, "AUTO_SAMPLING", 0)
    problem = planted_problem(5, 100, 80, seed=2)
    config = ReconstructConfig(dictionary=DictionaryConfig(max_rounds=0))
    result = reconstruct(problem.observation, jax.random.key(0), config)
    assert result.status is Status.EXACT
    assert result.stats.method == "sampling"
    assert "dictionary, and sampling for what it leaves" in result.stats.reason


@pytest.mark.parametrize("seed", range(3))
def test_wrong_weights_certify_nothing(seed):
    problem = planted_problem(12, 100, 150, seed=seed)
    shuffled = np.random.default_rng(seed).permutation(problem.observation.weight)
    observation = dataclasses.replace(problem.observation, weight=shuffled)
    config = dataclasses.replace(CONFIG, dictionary=DictionaryConfig(max_rounds=3))
    result = reconstruct(observation, jax.random.key(0), config)
    assert not result.certificate.exact.any()
    assert result.status in (Status.ROUND_BUDGET, Status.PARTIAL)


@pytest.mark.parametrize("missing", [1, 3, 6])
def test_a_round_in_what_known_samples_leave_finds_the_others(solved, missing):
    """The last direction is free, three are drawn, six are found by an EM in six dimensions."""
    factorization, evidence, truth = solved
    mixing = disaggregation(factorization, evidence.bias_grad, truth)
    rest = deflate(evidence, truth[missing:], np.linalg.inv(mixing)[missing:])
    start = initial_state(B, CONFIG).pool
    grown = rest_round(Round(evidence, CONFIG, 0, jax.random.key(0)), start, rest)
    assert rest.problem.rank == missing
    assert (likeness(truth[:missing], grown.directions[: grown.size]) > 1 - 1e-9).all()
    # The sparsest are they: of three drawn ones mixtures come along, with fewer zeros.
    assert (likeness(grown.directions[:missing], truth[:missing]) > 1 - 1e-9).all()
