"""Clients that clip tensor by tensor scale bias gradients apart from others: the model's own biases tell the scale."""

import dataclasses

import jax
import numpy as np
import pytest

from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.config import ReconstructConfig
from spear_jax.status import Scale, Status
from tests.helpers.spans import errors, simulate

KEY = jax.random.key(0)
CONFIG = ReconstructConfig(num_devices=1, method="span")
# Of the kernels' gradients, and of the biases'.
FACTORS = (0.9, 0.31, 0.57), (0.6, 0.2, 1.1)


def clipped(seen):
    """The layers, each tensor's gradient at a scale of its own."""
    layers = [
        dataclasses.replace(layer, weight_grad=kernel * layer.weight_grad, bias_grad=bias * layer.bias_grad)
        for layer, kernel, bias in zip(seen.layers, *FACTORS, strict=True)
    ]
    return seen._replace(layers=layers)


def solve(seen, name, **options):
    config = dataclasses.replace(CONFIG, activation=name)
    return reconstruct(seen.layers[0], KEY, config, layers_above=seen.layers[1:], **options)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("name", ["relu", "gelu", "tanh"])
def test_a_batch_comes_back_at_its_own_scale(name, told):
    seen = clipped(simulate(name, 12, 60, seed=3))
    result = solve(seen, name if told else None)
    assert result.status is Status.EXACT
    assert result.certificate.scale is Scale.NEXT_LAYER
    assert result.stats.activations[0] == name
    assert errors(result, seen.inputs).max() < 1e-9


def test_where_the_bias_gradients_are_right_they_are_believed():
    result = solve(simulate("gelu", 12, 60, seed=3), "gelu")
    assert result.status is Status.EXACT


def test_without_biases_that_tell_nothing_is_certified_at_a_scale_that_nobody_saw():
    """ReLU of c x is c times ReLU of x: nothing shows c."""
    result = solve(clipped(simulate("relu", 8, 60, seed=4, has_biases=False)), "relu")
    assert not (result.certificate.exact | result.certificate.approximate).any()


def test_a_search_without_bias_gradients_goes_on_where_it_was():
    seen, states = clipped(simulate("gelu", 12, 60, seed=5)), []
    whole = solve(seen, "gelu", on_round=lambda progress: states.append(progress.state))
    found = [state for state in states if state.apart and len(state.roots.points)]
    assert found
    np.testing.assert_array_equal(whole.inputs, solve(seen, "gelu", state=found[0]).inputs)
