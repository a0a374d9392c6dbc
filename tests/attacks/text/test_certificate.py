"""The certificate of a batch of text: right batches pass in any order, and no wrong one does."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax.attacks.text.certificate import certify, reproduce
from spear_jax.attacks.text.sequences import Sequence
from tests.helpers.small_text import batch, model, observed


@functools.cache
def problem():
    """An observation, the model on the device, and the right sequences."""
    architecture, params = model("llama", seed=11)
    private = batch([8, 6, 7, 8], seed=12)
    seen = observed(architecture, params, private)
    right = [Sequence(tokens, None, 1.0, 0, 1) for tokens in private.sequences]
    return seen, {name: jnp.asarray(tensor) for name, tensor in params.items()}, right


def corrupted(right, kind, rng):
    """The right sequences with one mistake."""
    wrong, place = list(right), int(rng.integers(len(right)))
    tokens = wrong[place].tokens.copy()
    if kind == "token":
        tokens[rng.integers(len(tokens) - 1)] += 1
    elif kind == "label":
        tokens[-1] += 1
    elif kind == "swapped":
        at = int(rng.integers(len(tokens) - 1))
        tokens[[at, at + 1]] = tokens[[at + 1, at]]
    elif kind == "shorter":
        tokens = tokens[:-1]
    if kind == "dropped":
        return wrong[:place] + wrong[place + 1 :]
    wrong[place] = wrong[place]._replace(tokens=tokens)
    return [*wrong, wrong[place]] if kind == "doubled" else wrong


def test_the_right_batch_is_certified_in_any_order():
    seen, params, right = problem()
    for order in (right, right[::-1]):
        vouched = certify(seen, params, order)
        assert vouched.is_whole
        assert vouched.reproduction.residual < 1e-6
        assert vouched.reproduction.factor == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("kind", ["token", "label", "swapped", "shorter", "dropped", "doubled"])
def test_no_wrong_batch_is_certified(kind):
    seen, params, right = problem()
    rng = np.random.default_rng(13)
    for _ in range(8):
        wrong = corrupted(right, kind, rng)
        found = reproduce(seen, params, wrong)
        assert not found.is_exact
        assert found.residual > 100 * found.limit


def test_a_batch_that_noise_could_hide_a_label_in_is_not_certified():
    seen, params, right = problem()
    # Rounding of this size would explain a wrong label among so many predictions.
    loud = {name: float(np.sqrt(np.mean(gradient**2))) for name, gradient in seen.gradients.items()}
    noisy = type(seen)(architecture=seen.architecture, params=seen.params, gradients=seen.gradients, rounding=loud)
    assert reproduce(noisy, params, right).limit <= 0.3 / sum(len(one.tokens) - 1 for one in right)
