"""Whole batches of text from gradients of all parameters: exact and certified, or said not to be."""

import numpy as np
import pytest

from spear_jax.attacks.text.pipeline import reconstruct
from spear_jax.status import Status
from tests.helpers.small_text import batch, counted, model, observed, recovered


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("classes", [0, 3])
def test_a_batch_comes_back_whole(family, classes):
    architecture, params = model(family, classes=classes)
    private = batch([9, 5, 12, 7], classes=classes)
    result = reconstruct(observed(architecture, params, private))
    assert result.status is Status.EXACT
    assert recovered(result) == counted(private)
    assert result.reproduction.residual < 1e-5


def test_copies_shared_beginnings_and_ends_inside_another_are_counted():
    architecture, params = model("llama", seed=1)
    long = batch([10], seed=3).sequences[0]
    other = np.append(long[:6], [7, 8])
    private = batch([6], seed=4)._replace(sequences=(long, long, other, long[:5]))
    result = reconstruct(observed(architecture, params, private))
    assert result.status is Status.EXACT
    assert recovered(result) == counted(private)


def test_a_token_twice_at_the_beginning_is_told_by_what_follows():
    architecture, params = model("llama", seed=2)
    private = batch([6])._replace(sequences=(np.array([5, 5, 9, 5, 7]), batch([8], seed=5).sequences[0]))
    result = reconstruct(observed(architecture, params, private))
    assert result.status is Status.EXACT
    assert recovered(result) == counted(private)


@pytest.mark.parametrize("reduction", ["sequences", "sum"])
def test_the_reduction_of_the_loss_is_found(reduction):
    architecture, params = model("llama", seed=3)
    private = batch([9, 5, 12], seed=6)
    result = reconstruct(observed(architecture, params, private, reduction=reduction))
    assert result.status is Status.EXACT
    assert recovered(result) == counted(private)


def test_a_full_first_block_is_said_to_be_full():
    architecture, params = model("llama", seed=4)
    private = batch([30] * 5, seed=7)
    result = reconstruct(observed(architecture, params, private))
    assert result.status is Status.TOO_MANY_TOKENS
    assert not result.sequences


def test_another_models_weights_give_no_certificate():
    architecture, params = model("llama", seed=5)
    private = batch([9, 5], seed=8)
    seen = observed(architecture, params, private)
    _, others = model("llama", seed=6)
    result = reconstruct(type(seen)(architecture=architecture, params=others, gradients=seen.gradients))
    assert result.status is Status.NOT_OF_THIS_MODEL


def test_one_kernel_alone_names_the_tokens():
    architecture, params = model("llama", seed=7)
    private = batch([9, 5], seed=9)
    seen = observed(architecture, params, private)
    name = "model.layers.0.self_attn.v_proj.weight"
    alone = type(seen)(architecture=architecture, params=params, gradients={name: seen.gradients[name]})
    result = reconstruct(alone)
    assert result.status is Status.TOKENS_ONLY
    assert set(result.tokens.tolist()) == {int(token) for one in private.sequences for token in one[:-1]}
