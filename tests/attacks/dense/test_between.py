"""Layers without biases, maps of the user's own between them, hidden layers, several row spaces."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.audit.resume import identity
from spear_jax.config import ReconstructConfig, SpanConfig
from spear_jax.errors import SpearError
from spear_jax.observation import LayerObservation
from spear_jax.status import Status
from spear_jax.update.bundle import Update
from tests.helpers.spans import ACTIVATIONS, errors, simulate

B, M, N = 10, 60, 50
KEY = jax.random.key(0)


def config(**fields):
    return ReconstructConfig(num_devices=1, method="span", num_examples=B, **fields)


def without(layer, *names):
    return dataclasses.replace(layer, **dict.fromkeys(names))


def assert_whole(result, inputs, tolerance=1e-8):
    assert result.status is Status.EXACT
    assert errors(result, inputs).max() < tolerance


@pytest.mark.parametrize("name", ["gelu", "silu", "relu"])
@pytest.mark.parametrize("layers", [(0,), (1,), (0, 1)])
def test_layers_without_biases(name, layers):
    """The scale is seen wherever an activation bends, or a bias is left."""
    seen = simulate(name, B, M, in_features=N, seed=1, has_biases=False)
    observed = [without(layer, "bias", "bias_grad") if i in layers else layer for i, layer in enumerate(seen.layers)]
    result = reconstruct(observed[0], KEY, config(activation=name), layers_above=observed[1:2])
    if name == "relu" and layers == (0, 1):  # homogeneous: nothing says how large a sample is
        assert not (result.certificate.exact | result.certificate.approximate).any()
    else:
        assert_whole(result, seen.inputs)


def test_an_odd_activation_without_biases_gives_no_sign_and_no_certificate_of_the_wrong_one():
    seen = simulate("tanh", B, M, in_features=N, seed=1, has_biases=False)
    observed = [without(layer, "bias", "bias_grad") for layer in seen.layers]
    result = reconstruct(observed[0], KEY, config(activation="tanh"), layers_above=observed[1:2])
    error = errors(result, seen.inputs)
    assert not (error[result.certificate.exact] > 1e-3).any()


@pytest.mark.parametrize("name", ["gelu", "relu"])
def test_a_file_without_biases_or_whose_gradients_are_withheld(name):
    has_biases = name == "relu"
    seen = simulate(name, B, M, in_features=N, seed=1, has_biases=has_biases)
    sent = {f"net.{2 * i}.weight": layer.weight for i, layer in enumerate(seen.layers)}
    back = {f"net.{2 * i}.weight": layer.weight_grad for i, layer in enumerate(seen.layers)}
    if has_biases:
        sent |= {f"net.{2 * i}.bias": layer.bias for i, layer in enumerate(seen.layers)}
    update = Update(sent, back, {"kind": "gradient"})
    observation, above = update.observation(), update.layers_above()
    assert observation.bias_grad is None
    assert_whole(reconstruct(observation, KEY, config(activation=name), layers_above=above), seen.inputs)


def test_without_the_bias_gradient_and_the_next_layer_there_is_a_sentence():
    seen = simulate("relu", B, M, in_features=N, seed=1)
    with pytest.raises(SpearError, match="no bias gradient.* needs the gradients of the next dense layer"):
        reconstruct(without(seen.layers[0], "bias_grad"), KEY)


def layer_norm(y):
    return (y - y.mean()) / jnp.sqrt(y.var() + 1e-5)


def mapped(between, seed=0, in_features=N, width=M):
    """Gradients of a layer and the one after the map, by automatic differentiation; 3 outputs per sample and MSE."""
    keys = list(jax.random.split(jax.random.key(seed), 7))
    draw = lambda key, *shape: jax.random.uniform(key, shape, jnp.float64, -1, 1) / np.sqrt(shape[-1])
    inputs = jax.random.normal(keys[0], (B, in_features), jnp.float64)
    read = jax.eval_shape(between, jax.ShapeDtypeStruct((width,), "float64"), inputs[0]).shape[0]
    weights = [
        draw(keys[1], width, in_features),
        draw(keys[2], width),
        draw(keys[3], width, read),
        draw(keys[4], width),
    ]
    head, target = draw(keys[5], 3, width), jax.random.normal(keys[6], (B, 3), jnp.float64)

    def loss(weights):
        w1, b1, w2, b2 = weights
        seen = jax.vmap(between)(inputs @ w1.T + b1[None], inputs)
        return jnp.mean((jnp.tanh(seen @ w2.T + b2[None]) @ head.T - target) ** 2)

    grads = jax.grad(loss)(weights)
    parts = lambda arrays, i: [np.asarray(array) for array in arrays[i : i + 2]]
    layers = [
        LayerObservation(weight=w, bias=b, weight_grad=g, bias_grad=h)
        for (w, b), (g, h) in ((parts(weights, i), parts(grads, i)) for i in (0, 2))
    ]
    return layers, np.asarray(inputs)


MAPS = {
    "layer norm after": lambda z, x: layer_norm(jax.nn.gelu(z, approximate=False)),
    "layer norm before": lambda z, x: jax.nn.silu(layer_norm(z)),
    "batch norm of evaluation": lambda z, x: jax.nn.gelu(1.7 * (z - 0.2) / 1.3 + 0.1),
    "gate": lambda z, x: z[: M // 2] * jax.nn.sigmoid(z[M // 2 :]),
    "skip": lambda z, x: jnp.concatenate([jax.nn.gelu(z)[:N] + x, jax.nn.gelu(z)[N:]]),
    "gelu itself": lambda z, x: jax.nn.gelu(z, approximate=False),
}


# A normalisation is the first map; one with constants is that of the next test.
SECOND_LOOKS = ("layer norm before", "batch norm of evaluation")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SECOND_LOOKS else name for name in MAPS]
)
def test_a_map_of_the_users_own_between_the_layers(name):
    with jax.enable_x64(True):
        layers, inputs = mapped(MAPS[name])
    result = reconstruct(layers[0], KEY, config(), layers_above=layers[1:], between=MAPS[name])
    assert_whole(result, inputs)
    assert result.stats.activations == ("between",)


def test_a_map_may_hold_arrays_of_its_own():
    mean, scale = np.linspace(-0.1, 0.1, M), np.linspace(0.5, 1.5, M)
    norm = lambda z, x: jax.nn.gelu((z - mean) * scale, approximate=False)
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # of all threads
    try:
        with jax.enable_x64(True):
            layers, inputs = mapped(norm)
        assert_whole(reconstruct(layers[0], KEY, config(), layers_above=layers[1:], between=norm), inputs)
    finally:
        jax.config.update("jax_numpy_dtype_promotion", "strict")


def test_another_map_finds_nothing():
    with jax.enable_x64(True):
        layers, _ = mapped(MAPS["layer norm after"])
    few = config(span=SpanConfig(dry_rounds=2))
    result = reconstruct(layers[0], KEY, few, layers_above=layers[1:], between=MAPS["gelu itself"])
    assert not (result.certificate.exact | result.certificate.approximate).any()


def test_maps_that_do_not_fit_are_refused_in_a_sentence():
    seen = simulate("gelu", B, M, in_features=N)
    above = {"layers_above": seen.layers[1:2]}
    with pytest.raises(SpearError, match="between= needs layers_above="):
        reconstruct(seen.layers[0], KEY, config(), between=MAPS["gate"])
    with pytest.raises(SpearError, match=r"expected \(k, 30\), as many inputs as the layer below has outputs"):
        reconstruct(seen.layers[0], KEY, config(), **above, between=MAPS["gate"])
    with pytest.raises(SpearError, match="expected a vector"):
        reconstruct(seen.layers[0], KEY, config(), **above, between=lambda z, x: z.sum())
    with pytest.raises(SpearError, match=r"between: TypeError for pre-activations \(60,\)"):
        reconstruct(seen.layers[0], KEY, config(), **above, between=lambda z, x: z @ x)


def test_a_state_belongs_to_the_name_of_the_map():
    seen = simulate("gelu", B, M, in_features=N)
    one, other = (identity(seen.layers[0], KEY, config(), between=between) for between in (layer_norm, simulate))
    assert one["between"].endswith("layer_norm")
    assert one != other


@pytest.mark.parametrize("name", ["gelu", "relu"])
def test_several_row_spaces_where_one_has_too_few_equations(name):
    """16 samples in 30 neurons: one row space leaves no equation over, two leave 14."""
    seen = simulate(name, 16, 30, in_features=N, depth=3, seed=2)
    counted = dataclasses.replace(config(activation=name), num_examples=16)
    result = reconstruct(seen.layers[0], KEY, counted, layers_above=seen.layers[1:])
    assert result.stats.reason.startswith("span: 16 samples, 30 + 1 - 16 equations each from the next layer, 31 from 2")
    assert (errors(result, seen.inputs)[result.certificate.exact] < 1e-6).all()
    assert name == "relu" or result.certificate.exact.all()


def test_layers_above_with_another_activation_do_not_mislead():
    """The chain of all layers gives wrong gradients then; those of the next layer alone are right."""
    seen, other = (simulate("gelu", B, M, in_features=N, depth=3, seed=seed) for seed in (3, 4))
    layers = [*seen.layers[:2], *other.layers[2:]]
    assert_whole(reconstruct(layers[0], KEY, config(activation="gelu"), layers_above=layers[1:]), seen.inputs)


def test_inputs_of_a_hidden_layer():
    seen = simulate("gelu", B, M, in_features=N, depth=3, seed=5)
    weight, bias = np.asarray(seen.layers[0].weight), np.asarray(seen.layers[0].bias)
    hidden = ACTIVATIONS["gelu"](seen.inputs @ weight.T + bias)[0]
    assert_whole(reconstruct(seen.layers[1], KEY, config(activation="gelu"), layers_above=seen.layers[2:]), hidden)


def test_the_tokens_of_a_feed_forward_block():
    """The narrow model width is what the second layer's gradient has as rows: 16 of 24."""
    rng = np.random.default_rng(0)
    width, tokens = 24, 8
    w1, b1 = rng.uniform(-1, 1, (4 * width, width)) / np.sqrt(width), rng.normal(size=4 * width) / 10
    w2, b2 = rng.uniform(-1, 1, (width, 4 * width)) / np.sqrt(4 * width), np.zeros(width)
    inputs, later = rng.normal(size=(tokens, width)), rng.normal(size=(tokens, width)) / tokens
    value, slope = ACTIVATIONS["gelu"](inputs @ w1.T + b1)
    grad = (later @ w2) * slope
    first = LayerObservation(weight=w1, bias=b1, weight_grad=grad.T @ inputs, bias_grad=grad.sum(axis=0))
    second = LayerObservation(weight=w2, bias=b2, weight_grad=later.T @ value, bias_grad=later.sum(axis=0))
    found = reconstruct(
        first, KEY, dataclasses.replace(config(activation="gelu"), num_examples=tokens), layers_above=[second]
    )
    assert_whole(found, inputs)
