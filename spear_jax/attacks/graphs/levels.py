"""Colours of one level as arrays, and their states: a node's colour below, its neighbours' colours below.

A convolution adds up what it takes of the node itself and of each neighbour, so that the first weights are applied to
all colours of the level below once, and a candidate is a sum of a few rows of these tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax.attacks.graphs.views import View
from spear_jax.graphs.architecture import Architecture, conv_weights
from spear_jax.graphs.layers import Params, activated, before_pool, linear, own_weight
from spear_jax.numerics import search_matmul
from spear_jax.row_space import Space, filled, misfit_of_any

# Candidates that are tested at a time, and colours that a table is padded to at least.
CHUNK, LEAST = 4096, 16
# No neighbour.
NONE = -1
# Any number of neighbours.
ANY = -1


class Level(NamedTuple):
    """Colours of one level.

    Attributes:
        own: (m,) int, of each the colour below of the node itself; at level 0 its own number.
        slots: (m, s) int, colours below of its neighbours in rising order, then `NONE`.
        degrees: (m,) int, number of neighbours, or `ANY` at level 0 where rows do not say and layers do not ask.
        rows: (m,) int, number of the node's row of features.
        states: (m, width) of nodes with these colours.
    """

    own: np.ndarray
    slots: np.ndarray
    degrees: np.ndarray
    rows: np.ndarray
    states: np.ndarray

    def __len__(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return len(self.own)

    def at(self, places: np.ndarray) -> Level:
        """Some of the colours."""
        return Level(*(part[places] for part in self))


class Model(NamedTuple):
    """A network and its tensors on the device.

    Attributes:
        architecture: of it.
        params: its tensors.
        features: (r, columns) the rows of features that level 0 has.
    """

    architecture: Architecture
    params: Params
    features: np.ndarray


class Tables(NamedTuple):
    """What colours of a level give the convolution above them, its first weights applied.

    Attributes:
        own: (m', width) for the node itself, with the bias.
        slots: (m', width) for each neighbour; the last row is zero, for no neighbour.
        features: (m', columns) the node's row, where a readout by node asks for it.
    """

    own: jax.Array
    slots: jax.Array
    features: jax.Array


class Test(NamedTuple):
    """A view that candidates must fit, in what a compiled program needs to know."""

    reads: str
    place: int
    has_one: bool


def make_tables(model: Model, layer: int, below: Level) -> Tables:
    """Tables of all colours that enter a convolution, padded to one of a few sizes."""
    size = filled(len(below) + 1, LEAST)
    dtype = below.states.dtype
    pad = lambda part: np.pad(part, ((0, size - len(part)),) + ((0, 0),) * (part.ndim - 1))
    own, slots = _through_weights(
        model.architecture, layer, model.params, jnp.asarray(pad(below.states)), jnp.asarray(pad(below.degrees), dtype)
    )
    is_there = jnp.asarray(np.arange(size) < len(below), dtype)[:, None]
    features = jnp.asarray(pad(model.features[below.rows]), dtype)
    return Tables(own, slots * jnp.broadcast_to(is_there, slots.shape), features)


@partial(jax.jit, static_argnums=(0, 1))
def _through_weights(
    architecture: Architecture, layer: int, params: Params, states: jax.Array, degrees: jax.Array
) -> tuple[jax.Array, jax.Array]:
    names = conv_weights(architecture, layer)
    around = search_matmul(states, params[f"{names[0]}.weight"].T)
    itself = search_matmul(states, params[f"{names[-1]}.weight"].T)
    if architecture.kind == "gcn":
        scale = jnp.broadcast_to(1 / jnp.sqrt(degrees + 1)[:, None], around.shape)
        around, itself = around * scale, itself * scale**2
    elif architecture.kind == "gin":
        itself = itself * own_weight(params, layer, states.dtype)
    bias = params.get(f"{names[0]}.bias")
    return (itself if bias is None else itself + jnp.broadcast_to(bias, itself.shape)), around


def misfits(
    model: Model, layer: int, tables: Tables, views: list[View], candidates: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """(c,) the largest misfit of candidates in some views, see `spear_jax.row_space.misfit_of_any`.

    Args:
        model: the network.
        layer: number of the convolution that makes the candidates' states.
        tables: of the colours below.
        views: of the level that the candidates have.
        candidates: (c,) int, the node's colour below, and (c, s) int, the neighbours' colours below, `NONE` where there
            is none.
    """
    tests = tuple(Test(view.reads, view.place, view.has_one) for view in views)
    spaces = tuple(view.found.space for view in views)
    found = np.zeros(len(candidates[0]))
    for chunk, arrays in in_chunks(*candidates, CHUNK):
        worst = _worst(model.architecture, layer, tests, (model.params, spaces, tables), arrays)
        found[chunk] = np.asarray(worst)[: chunk.stop - chunk.start]
    return found


def states_of(model: Model, layer: int, tables: Tables, own: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """(c, width) states of colours behind a convolution; arguments as `misfits` has them, candidates apart."""
    width, dtype = model.architecture.widths[layer], tables.own.dtype
    found = np.zeros((len(own), width), dtype)
    for chunk, arrays in in_chunks(own, slots, CHUNK):
        states = _states(model.architecture, layer, model.params, tables, arrays)
        found[chunk] = np.asarray(states)[: chunk.stop - chunk.start]
    return found


def entered_of(model: Model, tables: Tables, own: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """(c, width) what the first weights of a convolution give; arguments as `misfits` has them."""
    found = np.zeros((len(own), tables.own.shape[1]), tables.own.dtype)
    for chunk, arrays in in_chunks(own, slots, CHUNK):
        entered = _entered_alone(model.architecture, tables, *arrays)
        found[chunk] = np.asarray(entered)[: chunk.stop - chunk.start]
    return found


def read_by(model: Model, layer: int, tables: Tables, view: View, level: Level) -> np.ndarray:
    """(m, width) what a view's layer reads of colours behind a convolution; of states, or within the convolution."""
    read = level.states
    if view.reads == "inner":
        entered = entered_of(model, tables, level.own, level.slots)
        padding = filled(len(level), LEAST) - len(level)
        padded = jnp.asarray(np.pad(entered, ((0, padding), (0, 0))))
        read = np.asarray(_inner(model.architecture, layer, view.place, model.params, padded))[: len(level)]
    return np.concatenate([read, np.ones((len(read), 1), read.dtype)], axis=1) if view.has_one else read


def pooled_states(model: Model, level: Level) -> np.ndarray:
    """(m, width) what nodes with colours of the highest level give the pool."""
    found = []
    for start in range(0, len(level), CHUNK):
        part = level.at(np.arange(start, min(start + CHUNK, len(level))))
        padding = filled(len(part), LEAST) - len(part)
        rows, states = (np.pad(one, ((0, padding), (0, 0))) for one in (model.features[part.rows], part.states))
        rows, states = (jnp.asarray(one, part.states.dtype) for one in (rows, states))
        found.append(np.asarray(_before_pool(model.architecture, model.params, rows, states))[: len(part)])
    return np.concatenate(found)


def in_chunks(own: np.ndarray, slots: np.ndarray, most: int) -> Iterator[tuple[slice, tuple[jax.Array, jax.Array]]]:
    """Slices of candidates, and their arrays padded to one of two sizes."""
    size = most if len(own) > most // 16 else most // 16
    for start in range(0, len(own), size):
        stop = min(start + size, len(own))
        padding = size - (stop - start)
        yield (
            slice(start, stop),
            (
                jnp.asarray(np.pad(own[start:stop], (0, padding))),
                jnp.asarray(np.pad(slots[start:stop], ((0, padding), (0, 0)), constant_values=NONE)),
            ),
        )


def entered_by(architecture: Architecture, tables: Tables, own: jax.Array, slots: jax.Array) -> jax.Array:
    """(c, width) what the first weights of a convolution give for candidates."""
    summed = jnp.zeros((len(own), tables.own.shape[1]), tables.own.dtype)
    for slot in range(slots.shape[1]):
        summed = summed + tables.slots[slots[:, slot]]  # `NONE` is the last row, which is zero
    count = jnp.sum(slots != NONE, axis=1).astype(summed.dtype)[:, None]
    if architecture.kind == "gcn":
        summed = summed / jnp.broadcast_to(jnp.sqrt(count + 1), summed.shape)
    elif architecture.kind == "sage":
        summed = summed / jnp.broadcast_to(jnp.maximum(count, jnp.ones_like(count)), summed.shape)
    return tables.own[own] + summed


def behind(
    architecture: Architecture, layer: int, params: Params, entered: jax.Array
) -> tuple[list[jax.Array], jax.Array]:
    """What enters the later layers of a GIN convolution, and the states behind it."""
    inner = []
    if architecture.kind == "gin":
        for place in range(1, architecture.mlp_layers):
            inner.append(activated(architecture, entered))
            entered = linear(params, f"convs.{layer}.mlp.{place}", inner[-1])
    return inner, activated(architecture, entered, architecture.is_activated[layer])


@partial(jax.jit, static_argnums=(0, 1, 2))
def _worst(
    architecture: Architecture,
    layer: int,
    tests: tuple[Test, ...],
    given: tuple[Params, tuple[Space, ...], Tables],
    candidates: tuple[jax.Array, jax.Array],
) -> jax.Array:
    (params, spaces, tables), (own, slots) = given, candidates
    inner, states = behind(architecture, layer, params, entered_by(architecture, tables, own, slots))
    worst = jnp.zeros(len(own), states.dtype)
    for test, space in zip(tests, spaces, strict=True):
        read = inner[test.place - 1] if test.reads == "inner" else states
        if test.reads == "joint":
            read = jnp.concatenate([tables.features[own], read], axis=1)
        if test.has_one:
            read = jnp.concatenate([read, jnp.ones((len(own), 1), read.dtype)], axis=1)
        worst = jnp.maximum(worst, misfit_of_any(space, read))
    return worst


@partial(jax.jit, static_argnums=0)
def _entered_alone(architecture: Architecture, tables: Tables, own: jax.Array, slots: jax.Array) -> jax.Array:
    return entered_by(architecture, tables, own, slots)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _inner(architecture: Architecture, layer: int, place: int, params: Params, entered: jax.Array) -> jax.Array:
    return behind(architecture, layer, params, entered)[0][place - 1]


@partial(jax.jit, static_argnums=(0, 1))
def _states(
    architecture: Architecture, layer: int, params: Params, tables: Tables, candidates: tuple[jax.Array, jax.Array]
) -> jax.Array:
    return behind(architecture, layer, params, entered_by(architecture, tables, *candidates))[1]


@partial(jax.jit, static_argnums=0)
def _before_pool(architecture: Architecture, params: Params, rows: jax.Array, states: jax.Array) -> jax.Array:
    return before_pool(architecture, params, rows, states)
