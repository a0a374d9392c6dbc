"""Gradients that were rounded to half precision: scaled until the rounding is white, they tell as much."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from spear_jax.attacks.text.certificate import reproduce
from spear_jax.attacks.text.pipeline import reconstruct
from spear_jax.attacks.text.views import make_view
from tests.helpers.small_text import batch, counted, model, observed, recovered


@pytest.mark.parametrize("seed", range(2))
def test_bfloat16_loses_nothing_of_a_small_batch(seed):
    architecture, params = model("llama", seed=31 + seed)
    # As in trained models, some entries of the states are a hundred times larger than others.
    norm = "model.layers.0.input_layernorm.weight"
    sizes = np.random.default_rng(seed).permutation(np.logspace(-1, 1.5, architecture.width))
    params[norm] = (sizes / np.sqrt(np.mean(sizes**2))).astype(np.float32)
    private = batch([8, 6, 7], seed=33 + seed)
    seen = observed(architecture, params, private)
    rounded = {name: g.astype(ml_dtypes.bfloat16).astype(np.float32) for name, g in seen.gradients.items()}
    half = type(seen)(architecture=architecture, params=params, gradients=rounded, is_half="bfloat16")
    result = reconstruct(half)
    assert recovered(result) == counted(private)
    # A wrong label, a swap and a cut stand out of the rounding.
    right, device = list(result.sequences), {name: jnp.asarray(tensor) for name, tensor in params.items()}
    tokens = right[0].tokens
    for wrong in (np.append(tokens[:-1], tokens[-1] - 1), tokens[[1, 0, *range(2, len(tokens))]], tokens[:-1]):
        assert not reproduce(half, device, [right[0]._replace(tokens=wrong), *right[1:]]).is_exact
    # The control: taken for float32, the rounding fills the space.
    plain = make_view(type(seen)(architecture=architecture, params=params, gradients=rounded), 0, "qkv")
    known = make_view(half, 0, "qkv")
    assert known.rank == len({int(token) for sequence in private.sequences for token in sequence[:-1]})
    assert plain.rank != known.rank
