"""Levels above the first: each neighbour's place in a colour is taken by a colour below that fits it.

A neighbourhood names its neighbours' rows. At the next level each of them is one of the neighbourhoods of that row that
name the node back, and so on upwards; what a layer reads of such colours sieves them where there is one.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from math import comb, prod

import numpy as np

from spear_jax.attacks.graphs.levels import (
    NONE,
    Level,
    Model,
    make_tables,
    misfits,
    states_of,
)
from spear_jax.attacks.graphs.screens import make_screen, passing
from spear_jax.attacks.graphs.views import View
from spear_jax.row_space import FITS
from spear_jax.stages import stage

# Colours that are looked through at most.
MOST_COLOURS = 200_000

Fillings = dict[tuple[int, int], list[int]]


def count_colours(below: Level) -> int:
    """Number of colours that `find_colours` has to look through."""
    fillings = _fillings(below)
    return sum(
        prod(comb(len(fillings.get((slot, int(own)), ())) + count - 1, count) for slot, count in _named(slots).items())
        for own, slots in zip(below.own, below.slots, strict=True)
    )


@stage("graphs: colours")
def find_colours(model: Model, layer: int, below: Level, views: list[View]) -> Level:
    """Colours of the level above, those that fit some views, each neighbour of which has one that names it back.

    Args:
        model: the network.
        layer: number of the convolution that makes their states.
        below: level below, of which each colour's own neighbours have colours.
        views: of the level of the result; none to keep all.
    """
    tables, fillings = make_tables(model, layer, below), _fillings(below)
    parts = [
        np.array(list(_filled(below, place, fillings)), int).reshape(-1, below.slots.shape[1])
        for place in range(len(below))
    ]
    own = np.repeat(np.arange(len(below)), [len(part) for part in parts])
    slots = np.concatenate([np.zeros((0, below.slots.shape[1]), int), *parts])
    if views:
        screen = make_screen(model, layer, tables, views)
        if screen is not None:
            passed = passing(model, layer, screen, own, slots)
            own, slots = own[passed], slots[passed]
        fits = misfits(model, layer, tables, views, (own, slots)) <= FITS
        own, slots = own[fits], slots[fits]
    kept = _consistent(own, slots)
    own, slots = own[kept], slots[kept]
    states = states_of(model, layer, tables, own, slots)
    return Level(own, slots, below.degrees[own], below.rows[own], states)


def _named(slots: np.ndarray) -> Counter[int]:
    """Neighbours of a colour with how often each is there."""
    return Counter(slot for slot in slots.tolist() if slot != NONE)


def _fillings(below: Level) -> Fillings:
    """By what a neighbour is two levels below, and what the node is there: the colours below that it may have."""
    found: Fillings = defaultdict(list)
    for place, (own, slots) in enumerate(zip(below.own.tolist(), below.slots.tolist(), strict=True)):
        for slot in {slot for slot in slots if slot != NONE}:
            found[own, slot].append(place)
    return dict(found)


def _filled(below: Level, place: int, fillings: Fillings) -> Iterator[tuple[int, ...]]:
    """Neighbours, padded, of all colours above whose node has one of the colours below."""
    own, width = int(below.own[place]), below.slots.shape[1]
    choices = [
        itertools.combinations_with_replacement(fillings.get((slot, own), ()), count)
        for slot, count in _named(below.slots[place]).items()
    ]
    for chosen in itertools.product(*choices):
        near = sorted(itertools.chain.from_iterable(chosen))
        yield (*near, *(NONE,) * (width - len(near)))


def _consistent(own: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Places of the colours each neighbour of which has one that names the node back."""
    kept = np.arange(len(own))
    while True:
        pairs = {
            (node, near) for node, row in zip(own[kept].tolist(), slots[kept].tolist(), strict=True) for near in row
        }
        is_named = np.array(
            [
                all(near == NONE or (near, node) in pairs for near in row)
                for node, row in zip(own[kept].tolist(), slots[kept].tolist(), strict=True)
            ],
            bool,
        )
        if is_named.all():
            return kept
        kept = kept[is_named]
