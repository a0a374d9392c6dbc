"""The forward passes and their gradients agree with what transformers computes of the same checkpoints."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.golden_models import MODELS, difference, loss_and_gradients, read

MOST = 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_transformers(name):
    from spear_jax.language.transformer import final_states, logits

    model, expected = read(name)
    mask = expected["mask"]
    states = final_states(model.architecture, model.params, jnp.asarray(expected["tokens"]), jnp.asarray(mask))
    found = np.asarray(logits(model.architecture, model.params, states))
    if model.architecture.classes:
        last = mask.sum(axis=1) - 1
        assert difference(found[np.arange(2), last], expected["logits"]) < MOST
    else:
        assert difference(found[mask], expected["logits"][mask]) < MOST


@pytest.mark.parametrize("name", MODELS)
def test_every_gradient_is_that_of_transformers(name):
    model, expected = read(name)
    loss, gradients = loss_and_gradients(model.architecture, model.params, expected["tokens"], expected["mask"])
    assert difference(loss, expected["loss"]) < MOST
    theirs = {key.removeprefix("grad/"): value for key, value in expected.items() if key.startswith("grad/")}
    assert set(theirs) == set(gradients)
    largest = max(np.abs(gradient).max() for gradient in theirs.values())
    for key, gradient in theirs.items():
        # The key's bias changes no attention: its gradient is rounding alone.
        if np.abs(gradient).max() > 1e-6 * largest:
            assert difference(gradients[key], gradient) < MOST, key


def test_another_models_gradients_are_told_apart():
    """The comparison above can fail."""
    model, _ = read("llama")
    _, other = read("mistral")
    _, gradients = loss_and_gradients(model.architecture, model.params, other["tokens"], other["mask"])
    name = "model.layers.0.self_attn.q_proj.weight"
    assert difference(gradients[name], other[f"grad/{name}"]) > 0.01
