"""Several local steps: the row space of the sum holds what was seen at the weights that were sent."""

import dataclasses

import jax
import numpy as np
import pytest

from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.config import ReconstructConfig, SpanConfig
from spear_jax.status import Status
from tests.helpers.spans import errors, local_steps

B, M = 6, 120
KEY = jax.random.key(0)


def solve(name, seen, **fields):
    config = ReconstructConfig(activation=name, method="span", num_devices=1, num_examples=B, **fields)
    return reconstruct(seen.layers[0], KEY, config, layers_above=seen.layers[1:])


@pytest.mark.parametrize("name", ["gelu", "tanh", "relu"])
def test_full_batch_steps_come_back_whole_without_unrolling(name):
    seen = local_steps(name, B, M, lr=0.1, steps=4, seed=1)
    result = solve(name, seen)
    assert result.status is Status.EXACT
    assert errors(result, seen.inputs).max() < 1e-5
    assert (errors(result, seen.inputs) < 4 * result.certificate.error).all()


@pytest.mark.parametrize("seed", range(3))
def test_of_mini_batches_only_the_first_is_certified(seed):
    """The others were seen at weights that nobody knows: their roots are off and must not be called exact."""
    batches = [np.arange(2), np.arange(2, 4), np.arange(4, 6)] * 2
    seen = local_steps("gelu", B, M, lr=0.05, steps=6, batches=batches, seed=seed)
    result = solve("gelu", seen, span=SpanConfig(dry_rounds=3))
    known = result.certificate.exact | result.certificate.approximate
    error = errors(result, seen.inputs)
    assert not (error[result.certificate.exact] > 1e-3).any()
    assert not (error[known] > 4 * result.certificate.error[known]).any()
    found = np.asarray(result.inputs)[known]
    assert known.sum() <= 2
    for sample in found:
        assert np.linalg.norm(seen.inputs - sample, axis=1).argmin() < 2


def test_a_hidden_layer_that_moved_is_not_certified_by_steps_told_as_one():
    seen = local_steps("gelu", B, M, lr=0.1, steps=3, seed=2)
    layers = [dataclasses.replace(layer, drift=0.0) for layer in seen.layers]
    result = solve("gelu", seen._replace(layers=layers), span=SpanConfig(dry_rounds=2))
    assert not (errors(result, seen.inputs)[result.certificate.exact] > 1e-3).any()


def test_without_a_count_nothing_of_several_steps_has_a_bar():
    """A pair may hide in the sum in ways that nobody measured."""
    seen = local_steps("gelu", B, M, lr=0.1, steps=4, seed=1)
    config = ReconstructConfig(activation="gelu", method="span", num_devices=1)
    result = reconstruct(seen.layers[0], KEY, config, layers_above=seen.layers[1:])
    assert not (result.certificate.exact | result.certificate.approximate).any()
    assert errors(result, seen.inputs).max() < 1e-5
