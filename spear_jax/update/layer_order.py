"""In which order data flow through the dense layers of a model, and which of them may be the first.

Three things tell, strongest first: shapes, as a layer takes as many inputs as the one before it has neurons, and a
head, whose outputs no layer takes, is not the first; the order in which a file holds the tensors, as a framework
registers layers in the order in which it runs them; and numbers within names. The alphabet only breaks ties.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

# A transformer has hundreds of layers and no chain; the search for one must end soon.
_MAX_REORDERED, _MAX_DEAD_ENDS = 256, 10_000


@runtime_checkable
class Layer(Protocol):
    """What the order of a layer follows from: its name, the number n of its inputs and the number m of its neurons."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def in_features(self) -> int: ...  # noqa: D102
    @property
    def out_features(self) -> int: ...  # noqa: D102


L = TypeVar("L", bound=Layer)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which ``dense_2`` comes before ``dense_10``."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def is_chain(layers: Sequence[Layer]) -> bool:
    """Whether each layer takes as many inputs as the one before it has neurons."""
    return all(feeds(lower, upper) for lower, upper in zip(layers, layers[1:], strict=False))


def feeds(lower: Layer, upper: Layer) -> bool:
    """Whether one layer has as many neurons as the other takes inputs."""
    return lower.out_features == upper.in_features


def in_order(layers: Sequence[L], *, is_told: bool = False) -> tuple[L, ...]:
    """The layers, first to last.

    Layers whose names differ only in digits keep the order of their numbers. The order of the file, or where it tells
    nothing that of the names, stands where it chains; else the nearest order that does. Without a chain it stands but
    for heads, which go last, and, where the file tells nothing, for layers that feed others and are not fed, which go
    first.

    Args:
        layers: in the order of the file.
        is_told: whether the order of the file tells anything; False where it is that of an alphabet.
    """
    named = sorted(layers, key=lambda layer: natural_key(layer.name))
    base = _by_number(layers) if is_told else named
    for order in (base, list(layers) if is_told else named, named):
        if is_chain(order):
            return tuple(order)
    if len(base) > _MAX_REORDERED:
        return tuple(base)
    return tuple(_chain(_groups(base)) or sorted(base, key=lambda layer: _place(layer, base, is_told)))


def first_candidates(layers: Sequence[L], *, is_told: bool = False) -> tuple[L, ...]:
    """The layers that may be the first: one where shapes, the file or numbers decide it, else all that are left.

    Args:
        layers: as `in_order` gives them.
        is_told: as for `in_order`.
    """
    if not layers or len(layers) > _MAX_REORDERED:
        return tuple(layers[:1])
    first = layers[0]
    if is_told or (is_chain(layers) and not _is_fed(first, layers)):
        contrary = [layer for layer in layers[1:] if feeds(layer, first) and not _is_fed(layer, layers)]
        return (first, *contrary)
    alike = lambda layer: _place(layer, layers, is_told) == _place(first, layers, is_told)
    apart = lambda layer: not _is_fed(layer, layers) and not _is_head(layer, layers)
    return tuple(group[0] for group in _groups([layer for layer in layers if alike(layer) or apart(layer)]))


def stands_before(layers: Sequence[L], layer: L) -> tuple[L, ...]:
    """The layers before one, in order, from which a way of fitting widths leads to it.

    Args:
        layers: as `in_order` gives them.
        layer: one of them.
    """
    reached, found = [layer], []
    for earlier in reversed(layers[: layers.index(layer)]):
        if any(feeds(earlier, later) for later in reached):
            reached.append(earlier)
            found.append(earlier)
    return tuple(reversed(found))


def tells_order(dtypes: Mapping[str, np.dtype]) -> bool:
    """Whether the order of names tells anything: it does not where those of each dtype are sorted, as some files do.

    Args:
        dtypes: of the tensors by name, in the order of the file.
    """
    by_dtype: dict[np.dtype, list[str]] = {}
    for name, dtype in dtypes.items():
        by_dtype.setdefault(dtype, []).append(name)
    return any(names != sorted(names) for names in by_dtype.values())


def same_numbered(name: str) -> str:
    """What names that differ only in digits have in common."""
    return re.sub(r"\d+", "#", name)


def _place(layer: Layer, layers: Sequence[Layer], is_told: bool) -> int:
    """0 for what feeds others and is not fed, 1 for the rest, 2 for heads; a told order needs the heads alone."""
    if _is_head(layer, layers):
        return 2
    is_source = any(feeds(layer, other) for other in layers) and not _is_fed(layer, layers)
    return 0 if is_source and not is_told else 1


def _is_fed(layer: Layer, layers: Sequence[Layer]) -> bool:
    return any(feeds(other, layer) for other in layers if other.name != layer.name)


def _is_head(layer: Layer, layers: Sequence[Layer]) -> bool:
    """Whether no layer takes its outputs and it takes those of another, or of two side by side."""
    others = [other for other in layers if other.name != layer.name]
    if any(feeds(layer, other) for other in others):
        return False
    joined = (one.out_features + two.out_features for one, two in itertools.combinations(others, 2))
    return _is_fed(layer, layers) or layer.in_features in joined


def _groups(layers: Sequence[L]) -> list[list[L]]:
    """The layers by what their names have in common but for digits, each group in the order given."""
    groups: dict[str, list[L]] = {}
    for layer in layers:
        groups.setdefault(same_numbered(layer.name), []).append(layer)
    return list(groups.values())


def _by_number(layers: Sequence[L]) -> list[L]:
    """The layers in the order given, but each group in that of its numbers."""
    ranked = {same_numbered(group[0].name): iter(sorted(group, key=_natural)) for group in _groups(layers)}
    return [next(ranked[same_numbered(layer.name)]) for layer in layers]


def _natural(layer: Layer) -> list[tuple[int, int, str]]:
    return natural_key(layer.name)


def _chain(groups: list[list[L]]) -> list[L] | None:
    """Merges ordered groups into one chain by depth-first search; None where there is none or it takes too long."""
    dead_ends: set[tuple[int, ...]] = set()
    taken = [0] * len(groups)
    path: list[L] = []

    def advance() -> bool:
        if all(count == len(group) for count, group in zip(taken, groups, strict=True)):
            return True
        state = (*taken, path[-1].out_features if path else -1)
        if state in dead_ends or len(dead_ends) >= _MAX_DEAD_ENDS:
            return False
        for index, group in enumerate(groups):
            if taken[index] == len(group) or (path and not feeds(path[-1], group[taken[index]])):
                continue
            path.append(group[taken[index]])
            taken[index] += 1
            if advance():
                return True
            taken[index] -= 1
            path.pop()
        dead_ends.add(state)
        return False

    return path if advance() else None
