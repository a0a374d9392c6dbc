"""Text behind gradients of low-rank adapters: sequences up to their rank, token sets beyond it."""

import dataclasses

import jax
import numpy as np

from spear_jax.attacks.text.pipeline import reconstruct
from spear_jax.client.random_model import init_adapter
from spear_jax.status import Status
from tests.text.small import batch, counted, model, observed, recovered


def adapted(rank, seed, modules=("q", "v")):
    architecture, params = model("llama", seed=seed)
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
