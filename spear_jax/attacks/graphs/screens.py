"""Screens: a view restricted to a few entries of what it reads, so that millions of candidates are tested at a time.

What does not fit these entries does not fit at all, and of a state of some hundreds a few tens must be computed.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from spear_jax import linalg
from spear_jax.attacks.graphs.levels import LEAST, Model, Tables, entered_by, in_chunks
from spear_jax.attacks.graphs.views import View
from spear_jax.graphs.architecture import Architecture
from spear_jax.graphs.layers import activated
from spear_jax.numerics import search_matmul
from spear_jax.row_space import FITS, Space, filled, misfit_of_any

# Candidates that are screened at a time, and entries of a screen beyond the directions of its view.
SCREENED, SPARE = 16384, 16


class Screen(NamedTuple):
    """A view restricted to a few entries of what it reads: what does not fit there does not fit at all.

    Attributes:
        tables: of the colours below, these entries only.
        space: of the view, these entries only.
    """

    tables: Tables
    space: Space


def make_screen(model: Model, layer: int, tables: Tables, views: list[View]) -> Screen | None:
    """A screen of the first view that reads what the first weights give; None where none does, or it is too wide."""
    inner = model.architecture.kind == "gin"
    reads = ("inner", 1) if inner else ("states", 0)
    view = next((view for view in views if (view.reads, view.place) == reads), None)
    width = tables.own.shape[1]
    if view is None or view.rank + SPARE > width // 2:
        return None
    directions = view.found.directions[:, :width]
    count = filled(view.rank + SPARE, LEAST)
    columns = np.sort(scipy.linalg.qr(directions, mode="r", pivoting=True)[-1][:count])
    _, sizes, basis = linalg.svd(directions[:, columns], full_matrices=False)
    rank = int(np.sum(sizes > sizes[0] * np.finfo(basis.dtype).eps * count))
    noise = view.found.noise * np.sqrt(count) / sizes[:rank]
    filling, dtype = filled(view.rank) - rank, tables.own.dtype
    space = Space(
        jnp.ones(count, dtype),
        jnp.asarray(np.pad(basis[:rank], ((0, filling), (0, 0))), dtype),
        jnp.asarray(np.pad(noise, (0, filling)), dtype),
    )
    return Screen(Tables(tables.own[:, columns], tables.slots[:, columns], tables.features), space)


def passing(model: Model, layer: int, screen: Screen, own: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """(c,) bool, candidates that a screen lets through; the other arguments as `misfits` has them."""
    is_activated = model.architecture.kind == "gin" or model.architecture.is_activated[layer]
    found = np.zeros(len(own), bool)
    for chunk, arrays in in_chunks(own, slots, SCREENED):
        worst = _screened(model.architecture, is_activated, screen, *arrays)
        found[chunk] = (np.asarray(worst) <= FITS)[: chunk.stop - chunk.start]
    return found


def outside(model: Model, layer: int, screen: Screen, own: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """(c, entries) what candidates have outside of a screen; the other arguments as `misfits` has them."""
    is_activated = model.architecture.kind == "gin" or model.architecture.is_activated[layer]
    found = np.zeros((len(own), screen.tables.own.shape[1]))
    for chunk, arrays in in_chunks(own, slots, SCREENED):
        left = _outside(model.architecture, is_activated, screen, *arrays)
        found[chunk] = np.asarray(left)[: chunk.stop - chunk.start]
    return found


@partial(jax.jit, static_argnums=(0, 1))
def _screened(
    architecture: Architecture, is_activated: bool, screen: Screen, own: jax.Array, slots: jax.Array
) -> jax.Array:
    entered = entered_by(architecture, screen.tables, own, slots)
    return misfit_of_any(screen.space, activated(architecture, entered, is_activated))


@partial(jax.jit, static_argnums=(0, 1))
def _outside(
    architecture: Architecture, is_activated: bool, screen: Screen, own: jax.Array, slots: jax.Array
) -> jax.Array:
    read = activated(architecture, entered_by(architecture, screen.tables, own, slots), is_activated)
    basis = screen.space.basis
    return read - search_matmul(search_matmul(read, basis.T), basis)
