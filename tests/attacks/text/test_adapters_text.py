"""Text behind gradients of low-rank adapters: sequences up to their rank, token sets beyond it."""

import dataclasses

import jax
import numpy as np
import pytest

from spear_jax.attacks.text.certificate import certify
from spear_jax.attacks.text.pipeline import reconstruct
from spear_jax.client.random_model import init_adapter
from spear_jax.client.text_batch import TextBatch
from spear_jax.status import Status
from tests.helpers.small_text import batch, counted, model, observed, recovered


def adapted(rank, seed, modules=("q", "v"), **changes):
    architecture, params = model("llama", seed=seed, **changes)
    adapter = init_adapter(architecture, params, jax.random.key(seed), rank, modules=modules, alpha=float(rank))
    return architecture, params | adapter


def test_sequences_up_to_the_stacked_rank_come_back_whole():
    architecture, params = adapted(16, 21)
    private = batch([9, 8, 7], seed=22)
    result = reconstruct(observed(architecture, params, private))
    assert result.status is Status.EXACT
    assert recovered(result) == counted(private)


def test_tokens_beyond_the_rank_are_certified_and_nothing_else_is():
    architecture, params = adapted(4, 23)
    private = batch([9, 8, 7], seed=24)
    observation = observed(architecture, params, private)
    first = {name: gradient for name, gradient in observation.gradients.items() if ".layers.0." in name}
    result = reconstruct(dataclasses.replace(observation, gradients=first))
    seen = {int(token) for sequence in private.sequences for token in sequence[:-1]}
    assert result.views[0].rank == 8 < len(seen)
    assert set(result.tokens.tolist()) == seen
    assert result.tokens_exact
    assert result.status is Status.TOKENS_ONLY
    assert not np.any(result.exact)


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_are_read_behind_adapters_too(classes):
    architecture, params = adapted(16, 25, layers=3, classes=classes)
    private = batch([9, 8, 7, 6], seed=26, classes=classes)
    observation = observed(architecture, params, private)
    result = reconstruct(observation)
    assert result.status is Status.EXACT
    assert recovered(result) == counted(private)
    # The control: with one class wrong nothing is certified.
    first, *others = result.sequences
    wrong = [first._replace(label=(first.label + 1) % classes), *others]
    assert not np.any(certify(observation, params, wrong).exact)


def test_one_text_with_two_classes_comes_back_with_both_and_uncertified():
    """A smoothed class has the same gradient, so that neither of the two is certified, and the other text is."""
    architecture, params = adapted(16, 27, layers=3, classes=3)
    (one, other) = batch([9, 6], seed=28).sequences
    private = TextBatch((one, one, other), np.array([0, 2, 1]))
    result = reconstruct(observed(architecture, params, private))
    found = TextBatch(tuple(one.tokens for one in result.sequences), np.array([one.label for one in result.sequences]))
    assert counted(found) == counted(private)
    assert recovered(result) == counted(TextBatch((other,), np.array([1])))
