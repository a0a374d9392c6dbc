"""Honest clients whose gradients others have too, or that weigh what they saw unevenly: nothing wrong is certified.

Each case was certified wrongly before its rule stood.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax.attacks.text.pipeline import reconstruct
from spear_jax.attacks.text.sequences import Sequence, counted
from spear_jax.client.random_model import init_adapter
from spear_jax.client.text_batch import TextBatch
from spear_jax.errors import SpearError
from spear_jax.language.loss import weighted_loss
from spear_jax.language.observation import TextObservation
from tests.helpers.small_text import batch, model, observed, recovered


def weighed(architecture, params, rows, *, trained=None):
    """What the server sees of sequences (tokens, target of the last token, its weight), classified or predicted."""
    length = max(len(tokens) for tokens, _, _ in rows)
    tokens, targets = np.zeros((2, len(rows), length), int)
    weights = np.zeros((len(rows), length), np.float32)
    for row, (text, target, weight) in enumerate(rows):
        tokens[row, : len(text)] = text
        targets[row, len(text) - 1], weights[row, len(text) - 1] = target, weight
        if not architecture.classes:
            targets[row, : len(text) - 1], weights[row, : len(text) - 1] = text[1:], weight
    names = trained or list(params)
    rest = {name: jnp.asarray(tensor) for name, tensor in params.items() if name not in names}
    loss = lambda moving: weighted_loss(
        architecture, {**moving, **rest}, jnp.asarray(tokens), jnp.asarray(targets), jnp.asarray(weights)
    )
    gradients = jax.jit(jax.grad(loss))({name: jnp.asarray(params[name]) for name in names})
    return TextObservation(
        architecture=architecture,
        params=params,
        gradients={name: np.asarray(gradient) for name, gradient in gradients.items()},
    )


def test_tokens_of_a_light_text_are_not_taken_for_noise_behind_adapters():
    architecture, params = model("llama", seed=51, classes=3)
    params = params | init_adapter(architecture, params, jax.random.key(51), 2, alpha=2.0)
    first, second = batch([7, 7], seed=51).sequences
    seen = weighed(
        architecture,
        params,
        [(first, 0, 1.0), (second, 2, 0.003)],
        trained=[name for name in params if ".lora_A." in name or ".lora_B." in name],
    )
    result = reconstruct(seen)
    assert set(result.tokens.tolist()) == {*first.tolist(), *second.tolist()} or not result.tokens_exact


def test_queries_alone_do_not_show_the_first_token():
    architecture, params = model("llama", seed=52)
    observation = observed(
        architecture, params, batch([6, 5], seed=52), trained=["model.layers.0.self_attn.q_proj.weight"]
    )
    assert not reconstruct(observation).tokens_exact


@pytest.mark.parametrize("classes", [0, 3])
def test_a_last_label_with_a_twin_in_a_frozen_head_is_not_certified(classes):
    architecture, params = model("llama", seed=53, classes=classes, is_tied=False)
    head = "score.weight" if classes else "lm_head.weight"
    first, second = batch([6, 5], seed=53).sequences
    params[head][1] = params[head][0]
    trained = [name for name in params if name != head]
    ends = [(first, 0, 1.0), (second, 2, 1.0)] if classes else [(first[:-1], 0, 1.0), (second[:-1], 2, 1.0)]
    certified = {
        tokens[: len(first) - 1]
        for tokens, _ in recovered(reconstruct(weighed(architecture, params, ends, trained=trained)))
    }
    assert tuple(first[:5].tolist()) not in certified
    assert len(certified) == 1


def test_a_class_that_was_smoothed_is_not_several_texts():
    architecture, params = model("llama", seed=54, classes=3)
    texts = batch([6, 5, 7], seed=54).sequences
    smooth = [(text, label, 0.9 if label == 0 else 0.05) for text in texts for label in range(3)]
    result = reconstruct(weighed(architecture, params, smooth))
    assert not np.any(result.exact)


@pytest.mark.parametrize("run", [1, 3])
def test_a_classified_run_of_one_token_is_not_certified(run):
    architecture, params = model("llama", seed=55, classes=3)
    text = batch([6], seed=55).sequences[0]
    result = reconstruct(weighed(architecture, params, [(np.full(run, 9), 1, 0.5), (text, 2, 0.5)]))
    assert {tokens for tokens, _ in recovered(result)} <= {tuple(text.tolist())}


def test_copies_are_told_where_one_reduction_alone_tells_them():
    text = lambda length, weight: Sequence(np.arange(length), None, weight, 0, 0)
    assert [one.copies for one in counted([text(5, 2.0), text(8, 1.0)])] == [2, 1]
    assert [one.copies for one in counted([text(5, 2.0), text(9, 1.0)])] == [
        0,
        0,
    ]  # 2 and 1 of tokens, 1 and 1 of texts
    assert [one.copies for one in counted([text(5, 2.7), text(8, 1.0)])] == [0, 0]


def test_a_sequence_that_the_batch_does_without_is_not_certified():
    """A token twice in a row: rounding to bfloat16 made a short text of it, of a two-hundredth of the weight."""
    architecture, params = model("llama", seed=56)
    texts = [one.copy() for one in batch([8, 8, 8], seed=56).sequences]
    for text in texts:
        text[3] = text[2]
    private = TextBatch(tuple(texts), None)
    plain = observed(architecture, params, private)
    half = {name: np.asarray(jnp.asarray(g, jnp.bfloat16), np.float32) for name, g in plain.gradients.items()}
    result = reconstruct(TextObservation(architecture=architecture, params=params, gradients=half, is_half="bfloat16"))
    assert {tokens for tokens, _ in recovered(result)} <= {tuple(text.tolist()) for text in texts}


def test_gradients_in_half_precision_are_to_be_widened():
    architecture, params = model("llama", seed=57)
    plain = observed(architecture, params, batch([4], seed=57))
    with pytest.raises(SpearError, match="float16; expected float32 or float64"):
        TextObservation(
            architecture=architecture,
            params=params,
            gradients={name: gradient.astype(np.float16) for name, gradient in plain.gradients.items()},
        )
