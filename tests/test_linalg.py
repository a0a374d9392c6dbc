"""Decompositions on one thread: NumPy's results, one thread while they run, all of them afterwards."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from spear_jax import linalg

CALLS = {
    "cholesky": lambda module, a, square: module.cholesky(square),
    "eigh": lambda module, a, square: module.eigh(square),
    "eigvalsh": lambda module, a, square: module.eigvalsh(square),
    "inv": lambda module, a, square: module.inv(square),
    "lstsq": lambda module, a, square: module.lstsq(a, a[:, 0], rcond=None)[0],
    "matrix_rank": lambda module, a, square: module.matrix_rank(a),
    "pinv": lambda module, a, square: module.pinv(a),
    "qr": lambda module, a, square: module.qr(a),
    "solve": lambda module, a, square: module.solve(square, a.T),
    "svd": lambda module, a, square: module.svd(a, full_matrices=False),
}


def threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.parametrize("name", CALLS)
def test_results_are_those_of_numpy(name):
    a = np.random.default_rng(0).standard_normal((40, 12))
    square = a.T @ a
    for ours, theirs in zip(CALLS[name](linalg, a, square), CALLS[name](np.linalg, a, square), strict=True) if name in (
        "eigh", "qr", "svd"
    ) else [(CALLS[name](linalg, a, square), CALLS[name](np.linalg, a, square))]:  # fmt: skip
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


@pytest.mark.parametrize(("large", "expected"), [(np.inf, {1}), (0, {2})])
def test_small_ones_run_on_one_thread_and_large_ones_on_all(monkeypatch, large, expected):
    monkeypatch.setattr(linalg, "LARGE", large)
    seen = []
    look = linalg._on_one_thread(lambda matrix: seen.append(threads()))
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        if before != {2}:
            pytest.skip("NumPy's BLAS has no threads to limit here")
        look(np.eye(3))
        assert threads() == before
    assert seen == [expected]


def test_threads_come_back_after_an_error():
    before = threads()
    with pytest.raises(np.linalg.LinAlgError):
        linalg.cholesky(-np.eye(3))
    assert threads() == before
