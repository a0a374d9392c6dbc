"""The factorisation against a full SVD in NumPy float64, over dtypes, shapes, noise and the hard batches."""

import importlib
import os
import subprocess
import sys
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax.factorization import factorize
from spear_jax.testing import planted_problem

module = importlib.import_module("spear_jax.factorization")  # the package shows the function under the same name

CASES = {
    "wide": (5, 60, 200),
    "tall": (5, 200, 60),
    "square": (5, 64, 64),
    "one sample": (1, 60, 80),
    "fewer inputs than the sketch": (4, 200, 20),
    "sketched": (8, 190, 260),
    "almost as many samples as neurons": (29, 30, 200),
}


def subspace_angle(left, reference):
    """Sine of the largest angle between two column spaces with orthonormal bases."""
    return np.linalg.norm(reference - left @ (left.T @ reference), 2)


def check_against_svd(weight_grad, batch_size, tolerance):
    exact = np.asarray(weight_grad, np.float64)
    u, s, _ = np.linalg.svd(exact, full_matrices=False)
    found = factorize(weight_grad)
    left, right = np.asarray(found.left), np.asarray(found.right)
    assert found.rank == batch_size
    assert left.shape == (exact.shape[0], batch_size)
    assert left.dtype == right.dtype == np.float64
    np.testing.assert_allclose(left.T @ left, np.eye(batch_size), atol=1e-13)
    np.testing.assert_allclose(found.singular_values[:batch_size], s[:batch_size], rtol=1e-9)
    assert subspace_angle(left, u[:, :batch_size]) < tolerance
    assert np.linalg.norm(left @ right - exact, 2) <= s[batch_size] * 3 + 1e-13 * s[0]
    return found


@pytest.mark.parametrize("case", CASES)
def test_float64_gradients_agree_with_numpy(case):
    problem = planted_problem(*CASES[case], seed=3)
    found = check_against_svd(problem.observation.weight_grad, CASES[case][0], 1e-11)
    np.testing.assert_allclose(found.left @ found.right, problem.grad_z @ problem.inputs, atol=1e-11)
    assert found.gap > 1e9
    assert not found.is_full


@pytest.mark.parametrize("case", CASES)
def test_float32_gradients_agree_with_numpy(case):
    problem = planted_problem(*CASES[case], seed=4, dtype="float32")
    found = check_against_svd(problem.observation.weight_grad, CASES[case][0], 1e-4)
    assert found.gap > 1e3
    assert not found.is_full


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gradients_show_the_batch_size(dtype):
    gradient = jnp.asarray(planted_problem(4, 100, 150, seed=5).observation.weight_grad, jnp.dtype(dtype))
    assert factorize(gradient).rank == 4


def test_jax_and_numpy_arrays_give_the_same():
    gradient = planted_problem(4, 50, 70).observation.weight_grad
    np.testing.assert_allclose(factorize(jnp.asarray(gradient)).left, factorize(gradient).left, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("spread", [1.0, 2.0, 3.0])
def test_samples_whose_gradients_span_decades_are_all_counted(dtype, spread):
    ranks = [
        factorize(planted_problem(6, 100, 150, seed=seed, dtype=dtype, spread=spread).observation.weight_grad).rank
        for seed in range(5)
    ]
    assert ranks == [6] * 5


@pytest.mark.parametrize("spread", [6.0, 9.0])
def test_float64_shows_samples_that_are_nine_decades_smaller(spread):
    gradient = planted_problem(6, 100, 150, seed=1, spread=spread).observation.weight_grad
    assert factorize(gradient).rank == 6


@pytest.mark.parametrize("noise", [1e-6, 1e-4, 1e-2])
def test_the_rank_and_noise_floor_survive_added_noise(noise):
    found = []
    for seed in range(5):
        problem = planted_problem(5, 120, 300, seed=seed, noise=noise)
        result = factorize(problem.observation.weight_grad)
        exact = problem.grad_z @ problem.inputs
        floor = np.linalg.norm(problem.observation.weight_grad - exact, 2)
        found.append(result.rank)
        assert 0.5 < result.noise_floor / floor < 1.5
    assert found == [5] * 5


def test_dead_rows_are_seen_with_and_without_noise():
    for noise in (0.0, 1e-4):
        problem = planted_problem(5, 100, 300, seed=2, dead_rows=30, noise=noise)
        dead = ~problem.grad_z.any(axis=1)
        np.testing.assert_array_equal(factorize(problem.observation.weight_grad).live_mask, ~dead)


def test_a_row_that_only_the_smallest_sample_reaches_is_live():
    problem = planted_problem(4, 60, 100, seed=0, spread=4.0)
    live = np.asarray(factorize(problem.observation.weight_grad).live_mask)
    np.testing.assert_array_equal(live, problem.grad_z.any(axis=1))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_duplicated_inputs_merge_into_one(dtype):
    problem = planted_problem(5, 80, 120, seed=0)
    inputs, grad_z = problem.inputs.copy(), problem.grad_z
    inputs[3] = inputs[1]
    assert factorize((grad_z @ inputs).astype(dtype)).rank == 4


def test_a_sample_with_zero_gradient_leaves_no_trace():
    problem = planted_problem(5, 80, 120, seed=0)
    grad_z = problem.grad_z * np.array([1, 1, 0, 1, 1])
    assert factorize(grad_z @ problem.inputs).rank == 4


@pytest.mark.parametrize(("batch_size", "m", "n"), [(40, 30, 80), (30, 30, 80), (90, 200, 60)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_batch_as_large_as_the_layer_is_full(batch_size, m, n, dtype):
    gradient = planted_problem(batch_size, m, n, dtype=dtype).observation.weight_grad
    found = factorize(gradient)
    assert found.is_full
    assert found.rank == min(m, n)


def test_pure_noise_is_full():
    assert factorize(np.random.default_rng(0).normal(size=(60, 90))).is_full


@pytest.mark.parametrize("batch_size", [112, 113, 150])
def test_the_sketch_grows_until_it_sees_the_noise(batch_size):
    gradient = planted_problem(batch_size, 300, 320, seed=1).observation.weight_grad
    check_against_svd(gradient, batch_size, 1e-10)


def test_a_given_rank_overrides_the_estimate():
    problem = planted_problem(5, 80, 120)
    exact = np.linalg.svd(problem.observation.weight_grad)[0]
    for rank in (1, 3, 8):
        found = factorize(problem.observation.weight_grad, rank=rank)
        assert found.rank == rank
        assert found.left.shape == (80, rank)
        assert subspace_angle(np.asarray(found.left), exact[:, : min(rank, 5)]) < (1e-10 if rank >= 5 else 1)


@pytest.mark.parametrize("rank", [0, -1, 81])
def test_an_impossible_rank_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank is {rank}; expected 1 to 80"):
        factorize(planted_problem(5, 80, 120).observation.weight_grad, rank=rank)


def test_a_zero_gradient_is_refused():
    with pytest.raises(ValueError, match="zero"):
        factorize(np.zeros((20, 30)))


@pytest.mark.parametrize("factor", [1e-12, -3.0, 1e12])
def test_a_common_factor_changes_only_the_scale(factor):
    gradient = planted_problem(5, 80, 120, noise=1e-5).observation.weight_grad
    one, other = factorize(gradient), factorize(factor * gradient)
    assert one.rank == other.rank
    np.testing.assert_allclose(other.singular_values[:5], abs(factor) * one.singular_values[:5], rtol=1e-10)
    np.testing.assert_allclose(other.noise_floor, abs(factor) * one.noise_floor, rtol=1e-6)
    assert subspace_angle(np.asarray(other.left), np.asarray(one.left)) < 1e-10
    np.testing.assert_array_equal(one.live_mask, other.live_mask)


def test_the_block_size_changes_nothing(monkeypatch):
    gradient = planted_problem(5, 150, 400, dtype="float32").observation.weight_grad
    reference = factorize(gradient)
    monkeypatch.setattr(module, "BLOCK_COLUMNS", 1)
    for entries in (150 * 7, 150 * 399):
        monkeypatch.setattr(module, "BLOCK_ENTRIES", entries)
        other = factorize(gradient)
        assert other.rank == reference.rank
        np.testing.assert_allclose(np.abs(other.left), np.abs(reference.left), atol=1e-11)


def test_a_large_float32_gradient_is_never_copied_whole_to_float64(monkeypatch):
    """In NumPy, which tracemalloc sees: the peak stays far below m x n x 8 bytes."""
    monkeypatch.setattr(module, "KEPT_ENTRIES", 2**20)
    monkeypatch.setattr(module, "float64_namespace", lambda: np)
    monkeypatch.setattr(module, "to_float64", lambda array: np.asarray(array, np.float64))
    rng = np.random.default_rng(0)
    gradient = rng.normal(size=(300, 4)).astype(np.float32) @ rng.normal(size=(4, 60_000)).astype(np.float32)
    module.factorize(gradient[:, :1000])
    monkeypatch.setattr(module, "FIRST_SKETCH", 24)
    tracemalloc.start()
    found = module.factorize(gradient)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.rank == 4
    # Five float64 arrays of (n, sketch) and a few blocks.
    assert peak < 8 * (5 * 24 * 60_000 + 4 * 2**20)
    assert peak < 0.75 * gradient.size * 8


def test_it_works_the_same_without_x64():
    code = """
import jax, numpy as np
from spear_jax.factorization import factorize
from spear_jax.testing import planted_problem
assert not jax.config.jax_enable_x64
for dtype, tolerance in (("float64", 1e-11), ("float32", 1e-4)):
    problem = planted_problem(6, 150, 200, dtype=dtype, seed=7)
    found = factorize(problem.observation.weight_grad)
    exact = np.linalg.svd(np.asarray(problem.observation.weight_grad, np.float64))[0][:, :6]
    assert found.rank == 6 and isinstance(found.left, np.ndarray) and found.left.dtype == np.float64
    assert np.linalg.norm(exact - found.left @ (found.left.T @ exact), 2) < tolerance
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"JAX_ENABLE_X64": "0"})


@pytest.mark.parametrize("shape", [(80, 400), (150, 151), (200, 60)])
@pytest.mark.parametrize("strength", [1.3, 3.0, 8.0])
def test_white_noise_without_a_gap_is_known_by_its_law(shape, strength):
    """Samples whose singular values are this far above the noise's largest, with no gap of ten anywhere."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        left, right = (np.linalg.qr(rng.normal(size=(size, 6)))[0] for size in shape)
        edge = np.sqrt(shape[0]) + np.sqrt(shape[1])
        signal = left @ np.diag(strength * edge * np.geomspace(3, 1, 6)) @ right.T
        found = factorize(signal + rng.normal(size=shape))
        assert (found.rank, found.is_full) == (6, False)


def test_a_full_batch_without_noise_is_full_whatever_its_spectrum():
    for decay in (0.0, 0.5, 1.0, 2.0):
        rng = np.random.default_rng(0)
        scales = np.arange(1, 91.0) ** -decay
        found = factorize(rng.normal(size=(60, 90)) @ (scales[:, None] * rng.normal(size=(90, 200))))
        assert found.is_full
