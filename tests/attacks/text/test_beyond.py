"""Whole sequences behind adapters that show fewer directions than the batch has prefixes: many blocks tell together."""

import dataclasses

import jax
import numpy as np
import pytest

from spear_jax.attacks.text.beyond import grow_jointly
from spear_jax.attacks.text.pipeline import reconstruct
from spear_jax.client.random_model import init_adapter
from spear_jax.client.text_batch import TextBatch
from spear_jax.status import Status
from tests.helpers.small_text import batch, counted, model, observed, recovered


def adapted(rank, seed, layers, modules=("q", "v")):
    architecture, params = model("llama", seed=seed, layers=layers)
    adapter = init_adapter(architecture, params, jax.random.key(seed), rank, modules=modules, alpha=float(rank))
    return architecture, params | adapter


def prefixes(private):
    return {tuple(one[:end].tolist()) for one in private.sequences for end in range(1, len(one))}


def seen_tokens(private):
    return np.unique(np.concatenate([one[:-1] for one in private.sequences]))


@pytest.mark.parametrize("seed", [31])
def test_sequences_beyond_the_rank_come_back_whole(seed):
    architecture, params = adapted(4, seed, layers=8)
    private = batch([9, 8, 7], seed=seed)
    result = reconstruct(observed(architecture, params, private))
    assert max(view.rank for view in result.views) == 8 < len(prefixes(private))
    assert result.status is Status.EXACT
    assert recovered(result) == counted(private)


def test_sequences_with_one_beginning_share_it():
    architecture, params = adapted(4, 33, layers=8)
    first, second, third = batch([9, 8, 7], seed=33).sequences
    private = TextBatch((first, np.concatenate([first[:4], second[:4]]), third), None)
    result = reconstruct(observed(architecture, params, private))
    assert recovered(result) == counted(private)


def test_tokens_that_were_not_there_are_not_taken():
    architecture, params = adapted(4, 34, layers=8)
    private = batch([8, 7], seed=34)
    observation = observed(architecture, params, private)
    others = np.setdiff1d(np.arange(1, 400), seen_tokens(private))[:10]
    grown = grow_jointly(observation, params, np.sort(np.append(seen_tokens(private), others)), 32)
    assert {tuple(grown.tokens(place).tolist()) for place in range(len(grown.nodes))} == prefixes(private)


def test_gradients_of_another_batch_certify_nothing():
    architecture, params = adapted(4, 35, layers=8)
    observation = observed(architecture, params, batch([9, 8, 7], seed=35))
    rng = np.random.default_rng(0)
    mixed = {  # rows of two batches' gradients: combinations that no batch has
        name: np.where(rng.random(len(gradient))[:, None] < 0.5, gradient, rng.permuted(gradient, axis=1))
        for name, gradient in observation.gradients.items()
    }
    result = reconstruct(dataclasses.replace(observation, gradients=mixed))
    assert not np.any(result.exact)
