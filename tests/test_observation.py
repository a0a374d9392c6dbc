"""Every mistake in an observation gets its own sentence, and JAX sees the observation as a pytree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax.observation import LayerObservation

M, N = 4, 3


def arrays(**changes):
    rng = np.random.default_rng(0)
    good = {
        "weight": rng.normal(size=(M, N)),
        "bias": rng.normal(size=M),
        "weight_grad": rng.normal(size=(M, N)),
        "bias_grad": rng.normal(size=M),
    }
    return good | changes


def spoilt(shape, position, value):
    array = np.random.default_rng(1).normal(size=shape)
    array[position] = value
    return array


def test_good_arrays_pass_and_give_the_layer_s_size():
    observation = LayerObservation(**arrays())
    assert (observation.out_features, observation.in_features) == (M, N)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_floating_dtype_passes_in_numpy_and_jax(dtype):
    as_numpy = {name: array.astype(jnp.dtype(dtype)) for name, array in arrays().items()}
    as_jax = {name: jnp.asarray(array) for name, array in as_numpy.items()}
    assert LayerObservation(**as_numpy).out_features == LayerObservation(**as_jax).out_features == M


MISTAKES = {
    "kernel transposed against its gradient": ({"weight": np.ones((N, M))}, ["(3, 4)", "(4, 3)", "transposed"]),
    "kernel and gradient both transposed": (
        {"weight": np.ones((N, M)), "weight_grad": np.ones((N, M))},
        ["looks transposed", "bias has length 4", ".T"],
    ),
    "kernel of another layer": ({"weight": np.ones((M, N + 2))}, ["(4, 5)", "(4, 3)", "must agree."]),
    "bias of wrong length": ({"bias": np.ones(7)}, ["bias has length 7", "expected 4"]),
    "bias gradient of wrong length": ({"bias_grad": np.ones(7)}, ["bias_grad has length 7", "expected 4"]),
    "no weight": ({"weight": None}, ["weight is missing"]),
    "no weight gradient": ({"weight_grad": None}, ["weight_grad is missing"]),
    "integers": ({"weight_grad": np.ones((M, N), np.int32)}, ["weight_grad has dtype int32", "floating"]),
    "booleans": ({"bias": np.ones(M, bool)}, ["bias has dtype bool", "floating"]),
    "complex numbers": ({"bias": np.ones(M, complex)}, ["bias has dtype complex128", "floating"]),
    "a convolution's kernel": ({"weight": np.ones((M, N, 2, 2))}, ["weight has shape (4, 3, 2, 2)", "2 dimension"]),
    "a column as bias": ({"bias": np.ones((M, 1))}, ["bias has shape (4, 1)", "1 dimension"]),
    "nothing in it": ({"weight": np.ones((0, N)), "weight_grad": np.ones((0, N))}, ["(0, 3)", "empty"]),
    "a NaN": ({"weight_grad": spoilt((M, N), (2, 1), np.nan)}, ["weight_grad holds 1 NaN", "of 12", "(2, 1)"]),
    "infinities": (
        {"weight": spoilt((M, N), ([1, 3], [2, 0]), [np.inf, -np.inf])},
        ["weight holds 2 NaN or inf", "(1, 2)"],
    ),
    "an infinite bias": ({"bias": spoilt(M, 3, np.inf)}, ["bias holds 1", "(3,)"]),
    "a frozen layer": ({"weight_grad": np.zeros((M, N))}, ["weight_grad is zero everywhere", "frozen"]),
    "a frozen bias": ({"bias_grad": np.zeros(M)}, ["bias_grad is zero everywhere"]),
    "a list": ({"bias": [1.0, 2.0, 3.0, 4.0]}, ["bias is a list", "numpy.asarray"]),
    "two lists": ({"bias": [1.0], "bias_grad": (2.0,)}, ["bias is a list", "numpy.asarray"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_one_sentence_that_names_it(mistake):
    changes, words = MISTAKES[mistake]
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        LayerObservation(**arrays(**changes))
    for word in words:
        assert word in str(caught.value)


def test_the_same_mistakes_are_found_in_jax_arrays():
    as_jax = {name: jnp.asarray(array, jnp.float32) for name, array in arrays().items()}
    with pytest.raises(ValueError, match="holds 1 NaN"):
        LayerObservation(**as_jax | {"bias": as_jax["bias"].at[2].set(jnp.nan)})
    with pytest.raises(ValueError, match="zero everywhere"):
        LayerObservation(**as_jax | {"weight_grad": jnp.zeros((M, N))})


@pytest.mark.parametrize("stranger", [1.0, np.float64(2.0), "text", {"a": 1}], ids=["float", "scalar", "str", "dict"])
def test_what_is_no_array_is_refused(stranger):
    with pytest.raises(ValueError, match=r"bias.*array"):
        LayerObservation(**arrays(bias=stranger))


def test_values_that_overflow_a_sum_are_still_finite():
    huge = np.full((M, N), np.finfo(np.float32).max, np.float32)
    assert LayerObservation(**arrays(weight=huge, weight_grad=huge)).in_features == N


def test_tree_map_sees_arrays_and_scalars_and_rebuilds_the_observation():
    observation = LayerObservation(**arrays())
    assert len(jax.tree.leaves(observation)) == 7
    doubled = jax.tree.map(lambda leaf: 2 * leaf, observation)
    np.testing.assert_array_equal(doubled.bias_grad, 2 * observation.bias_grad)
    assert jax.tree.map(np.shape, observation).weight == (M, N)


def test_jit_and_eval_shape_pass_observations_through():
    observation = LayerObservation(**arrays())
    scaled = jax.jit(lambda o: jax.tree.map(lambda leaf: leaf * 3.0, o))(observation)
    np.testing.assert_allclose(scaled.weight_grad, 3 * observation.weight_grad, rtol=1e-12)
    assert jax.eval_shape(lambda o: o, observation).bias.shape == (M,)


def test_vmap_takes_and_returns_a_stack_of_observations():
    some = [LayerObservation(**arrays()), LayerObservation(**arrays(bias=np.ones(M)))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *some)
    totals = jax.vmap(lambda o: o.bias.sum() + o.weight.sum())(stacked)
    np.testing.assert_allclose(totals, [o.bias.sum() + o.weight.sum() for o in some], rtol=1e-12)
    returned = jax.vmap(lambda o: jax.tree.map(lambda leaf: -leaf, o))(stacked)
    np.testing.assert_array_equal(returned.bias, -np.stack([o.bias for o in some]))


def test_an_observation_cannot_be_changed():
    with pytest.raises((AttributeError, TypeError)):
        LayerObservation(**arrays()).bias = np.zeros(M)
