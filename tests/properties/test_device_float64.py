"""Float64 on an accelerator: what runs as NumPy on the host is compiled there, with the same verdicts."""

import jax
import numpy as np
import pytest

from spear_jax import numerics
from spear_jax.attacks.dense.certificates.own_gradient import own_gradients
from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.attacks.dense.problem import pose
from spear_jax.config import ReconstructConfig
from spear_jax.devices import compile_seconds
from spear_jax.factorization import factorize
from tests.helpers.networks import simulate, with_above

CONFIG = ReconstructConfig(num_devices=1)


@pytest.fixture(autouse=True)
def _as_numpy_has_it():
    """What runs in either namespace broadcasts and promotes as NumPy does, and as JAX does for its users."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def solve(batch, **helpers):
    return reconstruct(batch.observation, jax.random.key(0), CONFIG, model=batch.network, **helpers)


@pytest.fixture
def accelerator(monkeypatch):
    """A CPU that calls itself a GPU: all that is meant for one runs, on arrays that are the host's."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert numerics.float64_backend() == "jax"


@pytest.mark.parametrize(("dtype", "b", "m"), [("float64", 12, 120), ("float32", 12, 120), ("float32", 20, 100)])
def test_verdicts_are_those_of_the_host(dtype, b, m, monkeypatch):
    batch = simulate(b, m, seed=b, dtype=dtype)
    host = solve(batch)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    device = solve(batch)
    assert (host.stats.float64, device.stats.float64) == ("numpy", "jax")
    assert host.status is device.status
    for name in ("exact", "approximate", "labels", "mean_of"):
        np.testing.assert_array_equal(getattr(host.certificate, name), getattr(device.certificate, name))
    np.testing.assert_allclose(host.inputs, device.inputs, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(host.certificate.error, device.certificate.error, rtol=0.05)


@pytest.mark.usefixtures("accelerator")
def test_nothing_is_compiled_again_for_other_numbers_of_samples():
    batch = simulate(12, 120, seed=1)
    factorization = factorize(batch.observation.weight_grad)
    problem = with_above(pose(batch.observation, factorization), batch.network)
    duals = np.random.default_rng(0).normal(size=(12, 12))
    whole = own_gradients(problem, duals)
    own_gradients(problem, duals, whole.labels)
    before = compile_seconds()
    for count in (1, 5, 12):
        own = own_gradients(problem, duals[:count])
        told = own_gradients(problem, duals[:count], own.labels)
        np.testing.assert_array_equal(own.labels, whole.labels[:count])
        np.testing.assert_allclose(told.gradients, whole.gradients[:, :count], rtol=1e-12, atol=1e-12)
    assert compile_seconds() == before
