"""Sequences that have the gradient of others are never certified, and their neighbours still are."""

import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax.attacks.text.pipeline import reconstruct
from spear_jax.attacks.text.untold import twins
from tests.helpers.small_text import batch, counted, model, observed, recovered


@pytest.mark.parametrize("runs", [([5, 5, 5],), ([5, 5], [5, 5]), ([5, 5, 9],), ([5, 5], [5, 9])])
def test_runs_of_one_token_are_not_certified(runs):
    """The first two have one gradient, and so have the last two."""
    architecture, params = model("llama", seed=41)
    other = batch([8], seed=42).sequences[0]
    private = batch([8])._replace(sequences=(*map(np.array, runs), other))
    result = reconstruct(observed(architecture, params, private))
    got = recovered(result)
    assert all(sequence in counted(private) for sequence in got)
    assert not any(set(tokens[:-1]) == {5} for tokens, _ in got)


def test_tokens_with_equal_embeddings_are_not_certified():
    architecture, params = model("llama", seed=43)
    private = batch([8, 7], seed=44)
    used = int(private.sequences[0][2])
    spare = next(token for token in range(1, 400) if all(token not in one for one in private.sequences))
    params["model.embed_tokens.weight"][spare] = params["model.embed_tokens.weight"][used]
    device = {name: jnp.asarray(tensor) for name, tensor in params.items()}
    assert twins(architecture, device, np.array([used, spare, (spare + 1) % 400])).tolist() == [2, 2, 1]
    result = reconstruct(observed(architecture, params, private))
    assert not any(used in tokens[:-1] for tokens, _ in recovered(result))
    assert not result.tokens_exact
