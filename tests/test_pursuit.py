"""Rows of a dictionary from fewer directions than there are rows: planted problems, and what must not be certified."""

import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax.pursuit import pursue

WIDTH, VOCABULARY = 48, 600


def planted(count, directions, seed, noise=0.0):
    """A dictionary, the rows that were used, and the gradient that generic combinations of these give."""
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    used = np.sort(rng.choice(VOCABULARY, count, replace=False))
    mixed = rng.normal(size=(directions, count)) @ dictionary[used].astype(np.float64)
    return dictionary, used, mixed + noise * rng.normal(size=mixed.shape)


def orthogonal(gradient):
    """Rows of the same span, orthogonal, of the size of the singular values."""
    _, sizes, rows = np.linalg.svd(gradient, full_matrices=False)
    return sizes[:, None] * rows


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("count", "directions"), [(6, 8), (14, 8), (18, 12)])
def test_more_rows_than_directions_are_found_and_certified(count, directions, seed):
    dictionary, used, gradient = planted(count, directions, seed)
    found = pursue(jnp.asarray(dictionary), orthogonal(gradient)[: min(count, directions)], 1e-9)
    assert found.is_exact
    assert np.array_equal(np.sort(found.rows), used)


@pytest.mark.parametrize("seed", range(6))
def test_a_span_of_no_rows_is_not_certified(seed):
    dictionary, _, _ = planted(4, 4, seed)
    random = np.random.default_rng(100 + seed).normal(size=(8, WIDTH))
    assert not pursue(jnp.asarray(dictionary), orthogonal(random), 1e-9).is_exact


@pytest.mark.parametrize("seed", range(6))
def test_a_row_that_the_dictionary_lacks_is_not_replaced(seed):
    dictionary, used, gradient = planted(12, 8, seed)
    without = np.delete(dictionary, used[seed], axis=0)
    assert not pursue(jnp.asarray(without), orthogonal(gradient), 1e-9).is_exact


@pytest.mark.parametrize("seed", range(6))
def test_rows_that_noise_does_not_tell_apart_are_not_certified(seed):
    dictionary, used, gradient = planted(12, 8, seed, noise=1e-3)
    twin = dictionary[used[0]] + 1e-3 * np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)
    doubled = np.concatenate([dictionary, twin[None]])
    assert not pursue(jnp.asarray(doubled), orthogonal(gradient), 1e-3).is_exact
    # The control: without the twin the same noise leaves nothing open.
    alone = pursue(jnp.asarray(dictionary), orthogonal(gradient), 1e-3)
    assert alone.is_exact
    assert np.array_equal(np.sort(alone.rows), used)


def test_one_more_row_than_is_unique_is_not_certified():
    directions = 8
    dictionary, _, gradient = planted((WIDTH + directions) // 2, directions, 0)
    assert not pursue(jnp.asarray(dictionary), orthogonal(gradient), 1e-9).is_exact
