"""Activations as data: against formulas by hand, and names in every spelling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from spear_jax import activations
from spear_jax.client.models import activate
from spear_jax.errors import SpearError
from tests.helpers.spans import ACTIVATIONS as BY_HAND

Z = np.linspace(-8.3, 8.1, 60).reshape(3, 20)


def applied(name, z, width=0.0):
    activation = activations.named(name)
    slope = jnp.asarray(activation.slope)
    found = activations.apply(jnp.int32(activation.kind), slope, jnp.asarray(z), jnp.full(len(z), width))
    return [np.asarray(part) for part in found]


@pytest.mark.parametrize("name", BY_HAND)
def test_values_and_derivatives_are_those_by_hand(name):
    value, slope = applied(name, Z)
    wanted, wanted_slope = BY_HAND[name](Z)
    np.testing.assert_allclose(value, wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(slope, wanted_slope, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", BY_HAND)
def test_the_client_has_the_same_activations_by_another_implementation(name):
    np.testing.assert_allclose(np.asarray(activate(name, jnp.asarray(Z))), BY_HAND[name](Z)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["relu", "leaky_relu(0.2)", "relu6"])
@pytest.mark.parametrize("width", [0.3, 1.0])
def test_rounded_kinks_are_means_over_gaussian_noise(name, width):
    value, slope = applied(name, Z, width)
    noisy = Z[..., None] + width * stats.norm.ppf((np.arange(20000) + 0.5) / 20000)
    for got, part in zip((value, slope), BY_HAND[name](noisy), strict=True):
        np.testing.assert_allclose(got, part.mean(axis=-1), atol=1e-3)


def test_every_name_has_a_function_and_every_function_a_name():
    assert set(activations.ACTIVATIONS) == {str(name).partition("(")[0] for name in BY_HAND}
    for name in activations.ACTIVATIONS:
        assert 0 <= activations.named(name).kind < len(activations.KINDS)


@pytest.mark.parametrize(
    ("spelled", "name", "slope"),
    [("GELU", "gelu", 0), ("Swish", "silu", 0), ("gelu-new", "gelu_tanh", 0), ("LeakyReLU(0.2)", "leaky_relu", 0.2)],
)
def test_names_are_found_in_every_spelling(spelled, name, slope):
    assert activations.named(spelled) == activations.Activation(name, slope)


@pytest.mark.parametrize("slope", [0.2, 0.25, 1 / 3, float(np.float32(0.2)), 1e-9, -0.5])
def test_a_name_keeps_its_slope_to_the_last_bit(slope):
    activation = activations.Activation("prelu", slope)
    assert activations.named(str(activation)) == activation


@pytest.mark.parametrize("wrong", ["gelo", "", "relu(0.1)", "leaky_relu(steep)", "prelu(nan)", "prelu(inf)"])
def test_other_names_are_refused_in_a_sentence(wrong):
    with pytest.raises(SpearError, match="activation is "):
        activations.named(wrong)


def test_one_program_serves_all_activations():
    compiled = jax.jit(activations.apply)
    for name in ("gelu", "tanh", "relu"):
        compiled(jnp.int32(activations.named(name).kind), jnp.zeros(()), jnp.asarray(Z), jnp.zeros(3))
    assert compiled._cache_size() == 1
