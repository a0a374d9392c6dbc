"""The distinct tokens of the batch: those of the vocabulary whose first input lies in the first view's row space."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax import linalg
from spear_jax.attacks.text.untold import twins
from spear_jax.attacks.text.views import View
from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import Params
from spear_jax.language.transformer import first_inputs, first_params
from spear_jax.pursuit import pursue
from spear_jax.row_space import FITS, Space, misfit
from spear_jax.stages import stage

# Rows of the vocabulary that are tested at a time.
CHUNK = 8192


class Tokens(NamedTuple):
    """Tokens that the first view shows.

    Attributes:
        ids: (u,) in rising order.
        is_exact: whether they explain every direction of the view, none of them can be left out, and no token of the
            batch shows in no direction, but for those of a gradient below rounding and those whose embedding is zero.
    """

    ids: np.ndarray
    is_exact: bool


@stage("text: tokens")
def find_tokens(
    architecture: Architecture, params: Params, view: View, positions: int, *, is_stacked: bool = False
) -> Tokens:
    """The tokens whose input of the first block fits the first view.

    Where positions are learned, tokens are tested at each; a token that fits at any of them is taken. Several tokens at
    several positions tie each other together: each of the tokens then fits at each of the positions, whether it stood
    there or not (the states are sums, so that the row space holds their differences). Which token stood where is what
    the next views tell.

    Args:
        architecture: of the model.
        params: its tensors by name.
        view: of the queries, keys and values of block 0.
        positions: how many positions are tested.
        is_stacked: whether the view is of several rounds, of which one may show fewer directions than it has tokens
            while all together have rows to spare.
    """
    if architecture.family != "gpt2":
        if view.is_capped or is_stacked:
            return _pursued(architecture, params, view)
        if not view.is_noise_known and 2 * view.rows <= view.width:
            weak = _pursued(architecture, params, _with_all_rows(view))
            if weak.is_exact:
                return weak
    places = positions if architecture.family == "gpt2" else 1
    best = np.full(architecture.vocabulary, np.inf)
    for place in range(places):
        found = _misfits(architecture, params, view, place)
        if place > 0 and not np.any(found <= FITS):
            break
        best = np.minimum(best, found)
    ids = np.flatnonzero(best <= FITS)
    is_one = twins(architecture, params, ids) == 1 if len(ids) else np.zeros(0, bool)
    is_whole = len(ids) == view.rank and places == 1 and view.is_complete and view.is_noise_known
    return Tokens(ids, is_whole and bool(is_one.all()))


def _with_all_rows(view: View) -> View:
    """The view with a direction for each row of its gradients: few rows may be weak tokens as well as noise."""
    _, sizes, directions = linalg.svd(view.stack.astype(np.float64), full_matrices=False)
    return view._replace(gradient=sizes[:, None] * directions, noise=view.least)


def _pursued(architecture: Architecture, params: Params, view: View) -> Tokens:
    """Tokens of a view with as many directions as its gradients have rows, so that there may be more of them."""
    dictionary = _first_inputs(architecture, first_params(architecture, params))
    dictionary = dictionary * jnp.broadcast_to(view.space.scale, dictionary.shape)
    found = pursue(dictionary, view.gradient, view.noise)
    return Tokens(np.sort(found.rows), found.is_exact and view.is_complete and view.is_noise_known)


@partial(jax.jit, static_argnums=0)
def _first_inputs(architecture: Architecture, params: Params) -> jax.Array:
    """(V, d) what the first block's attention reads of each token, where it does not depend on the position."""
    ids = jnp.arange(architecture.vocabulary)
    return first_inputs(architecture, params, ids, jnp.zeros_like(ids))


def _misfits(architecture: Architecture, params: Params, view: View, place: int) -> np.ndarray:
    """(V,) misfit of every token at one position."""
    params, size = first_params(architecture, params), min(CHUNK, architecture.vocabulary)
    starts = [min(start, architecture.vocabulary - size) for start in range(0, architecture.vocabulary, size)]
    found = np.empty(architecture.vocabulary)
    for start in starts:
        ids = jnp.arange(start, start + size)
        found[start : start + size] = _of_tokens(architecture, params, view.space, ids, jnp.asarray(place))
    return found


@partial(jax.jit, static_argnums=0)
def _of_tokens(architecture: Architecture, params: Params, space: Space, ids: jax.Array, place: jax.Array) -> jax.Array:
    """Misfit of tokens (k,) at one position."""
    return misfit(space, first_inputs(architecture, params, ids, jnp.broadcast_to(place, ids.shape)))
